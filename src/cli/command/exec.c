// SPDX-License-Identifier: Apache-2.0
// How this works: the main thread reads the process's stream (envd_run) and writes what comes
// to stdout and stderr. While it waits, its tick turns signals into calls on a second connection:
// Ctrl-C into a signal to the process, a changed window into a new size. With -i a thread of its
// own carries standard input over a third connection, since it may block as long as the process
// does not read.
#include "cli/command/exec.h"
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/str.h"
#include "cli/base/api.h"
#include "cli/base/ending.h"
#include "cli/base/output.h"
#include "cli/base/term.h"
#include "cli/command/all.h"

#define INPUT_CHUNK 32768
#define CONTROL_TIMEOUT_MS 5000
#define GRACE_NS (2 * NSEC_PER_SEC)
// A guest that does not answer any more keeps nobody here: at so many signals, or so long after the
// first one, it is left alone.
#define GIVE_UP_SIGNALS 3
#define GIVE_UP_NS (10 * NSEC_PER_SEC)
#define LATE_NS (5 * NSEC_PER_SEC) // the agent ends the command at its time-out, and says so

struct exec {
	struct guest stream, control, input;
	bool interactive, tty;
	_Atomic uint32_t pid; // 0: not started
	unsigned interrupts;  // already handled
	uint64_t give_up_ns;  // 0: no signal yet
	uint64_t late_ns;     // after its time-out; 0: it has none
	bool late;	      // the end was not told by then
	uint64_t kill_at_ns;  // what was terminated and still runs is killed then; 0: nothing was
	int write_error;      // of our own stdout or stderr
	pthread_t feeder;
	bool feeding;
	int wake[2]; // closing the writing end stops the feeder
};

static int process_call(
	struct guest *g, const struct exec *x, const char *method, const char *key, json_t *value)
{
	_cleanup_json_ json_t *req = json_pack("{s:{s:I}}", "process", "pid", (json_int_t)x->pid);
	if (key)
		json_object_set_new(req, key, value);
	return req ? envd_unary(g->http, &g->target, method, req, 0, NULL, NULL) : -ENOMEM;
}

static void send_signal(struct exec *x, const char *name)
{
	_cleanup_json_ json_t *req =
		json_pack("{s:{s:I},s:s}", "process", "pid", (json_int_t)x->pid, "signal", name);
	envd_unary(x->control.http, &x->control.target, "process.Process/SendSignal", req,
		CONTROL_TIMEOUT_MS, NULL, NULL);
}

static int tick(void *ctx)
{
	struct exec *x = ctx;
	unsigned n = term_interrupts(NULL);
	// A process that never started has nobody to be told.
	if (n >= GIVE_UP_SIGNALS || (n && x->pid == 0) ||
		(x->give_up_ns && clock_monotonic_ns() > x->give_up_ns))
		return -1;
	x->late = x->late_ns && clock_monotonic_ns() > x->late_ns;
	if (x->late)
		return -1;
	if (n != x->interrupts) {
		if (!x->give_up_ns)
			x->give_up_ns = clock_monotonic_ns() + GIVE_UP_NS;
		send_signal(x, x->interrupts == 0 ? "SIGNAL_SIGTERM" : "SIGNAL_SIGKILL");
		x->interrupts = n;
		x->kill_at_ns = clock_monotonic_ns() + GRACE_NS;
	}
	// An interactive shell ignores SIGTERM, to name one.
	if (x->kill_at_ns && clock_monotonic_ns() > x->kill_at_ns) {
		send_signal(x, "SIGNAL_SIGKILL");
		x->kill_at_ns = clock_monotonic_ns() + GRACE_NS;
	}
	if (x->tty && x->pid != 0 && term_take_resize()) {
		unsigned cols, rows;
		term_size(&cols, &rows);
		process_call(&x->control, x, "process.Process/Update", "pty",
			json_pack("{s:{s:I,s:I}}", "size", "cols", (json_int_t)cols, "rows",
				(json_int_t)rows));
	}
	return 0;
}

static void *feed(void *ctx)
{
	struct exec *x = ctx;
	_cleanup_free_ char *buf = malloc(INPUT_CHUNK);
	while (buf) {
		struct pollfd pf[2] = {{.fd = STDIN_FILENO, .events = POLLIN},
			{.fd = x->wake[0], .events = POLLIN}};
		if (poll(pf, 2, -1) < 0 && errno != EINTR)
			break;
		if (pf[1].revents)
			break;
		if (!pf[0].revents)
			continue;
		ssize_t n = read(STDIN_FILENO, buf, INPUT_CHUNK);
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (n <= 0) {
			if (!x->tty)
				process_call(
					&x->input, x, "process.Process/CloseStdin", NULL, NULL);
			break;
		}
		_cleanup_strbuf_ struct strbuf b64 = {0};
		str_base64_encode(&b64, buf, (size_t)n);
		// An error means that the process has ended or closed its input: nobody reads on.
		if (b64.failed ||
			process_call(&x->input, x, "process.Process/SendInput", "input",
				json_pack("{s:s}", x->tty ? "pty" : "stdin", b64.data)) < 0)
			break;
	}
	return NULL;
}

static int on_start(void *ctx, uint32_t pid)
{
	struct exec *x = ctx;
	sigset_t all, old;
	x->pid = pid;
	if (!x->interactive)
		return 0;
	// Signals are for the main thread: they must end its wait.
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	x->feeding = pthread_create(&x->feeder, NULL, feed, x) == 0;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return x->feeding ? 0 : -1;
}

static int on_data(void *ctx, int stream, const void *data, size_t len)
{
	struct exec *x = ctx;
	x->write_error = file_write_full(stream == 2 ? STDERR_FILENO : STDOUT_FILENO, data, len);
	return x->write_error;
}

// "signal: killed" -> 9, by the system's own descriptions; 0 when unknown.
static int signal_number(const char *status)
{
	if (!str_starts(status, "signal: "))
		return 0;
	for (int s = 1; s < NSIG; s++) {
		const char *d = sigdescr_np(s);
		if (d && strcasecmp(d, status + 8) == 0)
			return s;
	}
	return 0;
}

static int exec_buffered(struct cli *c, const char *id, char *const *command,
	const struct exec_options *o, struct err *e)
{
	_cleanup_json_ json_t *body = json_object(), *answer = NULL, *args = json_array();
	_cleanup_free_ char *path = NULL;
	for (; *command; command++)
		if (json_array_append_new(args, json_string(*command)) < 0)
			return err_set(e, ERR_INVALID, "-o json: the command is not UTF-8");
	json_object_set(body, "args", args);
	if (o->user)
		json_object_set_new(body, "user", json_string(o->user));
	if (o->cwd)
		json_object_set_new(body, "cwd", json_string(o->cwd));
	if (o->env)
		json_object_set(body, "env", o->env);
	if (o->timeout)
		json_object_set_new(body, "timeout_sec", json_integer((json_int_t)o->timeout));
	int rc = api_sandbox_path(id, "/exec", &path, e);
	if (rc == 0)
		rc = api_call(c, "POST", path, body, &answer, e);
	// What the command came to until then is in it.
	if (rc < 0 && json_object_get(json_object_get(c->refusal, "error"), "details"))
		output_json(c->refusal);
	if (rc < 0)
		return rc;
	const char *sig = json_string_value(json_object_get(answer, "signal"));
	_cleanup_free_ char *status = str_printf("signal: %s", sig ? sig : "");
	c->exit_code = sig ? 128 + (status ? signal_number(status) : 0)
			   : (int)json_integer_value(json_object_get(answer, "exit_code"));
	return output_json(answer);
}

// The exit code alone would look like anybody's SIGKILL.
static void tell_kill(const struct envd_exit *end, uint64_t memory_mb)
{
	const struct envd_oom *o = &end->oom;
	char had[24], of[64] = "", advice[64] = "raise the limit of that cgroup";
	bool itself = !end->exited || end->exit_code == 128 + SIGKILL;
	human_size(o->rss_bytes, had);
	if (memory_mb && !o->cgroup[0])
		snprintf(of, sizeof of, " of the sandbox's %u MiB", (unsigned)memory_mb);
	if (!o->cgroup[0])
		snprintf(advice, sizeof advice, "give it more with: stasis create --memory %u",
			(unsigned)MAX(2 * memory_mb, (uint64_t)1024));
	output_complain("%s by the guest's kernel: out of memory (%s had %s%s%s%s); %s",
		itself ? "killed" : "a process of it was killed", o->process, had, of,
		o->cgroup[0] ? ", limit of the cgroup " : "", o->cgroup, advice);
}

static int run(struct cli *c, struct exec *x, struct envd_process *p, struct err *e)
{
	struct envd_exit end = {0};
	int rc = envd_run(x->stream.http, &x->stream.target, p, &end, e);
	if (x->feeding) {
		struct timespec until;
		x->wake[1] = safe_close(x->wake[1]);
		// It may sit in a call that a background child keeps from ending.
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_sec += 2;
		if (pthread_timedjoin_np(x->feeder, NULL, &until) == 0)
			x->feeding = false;
	}
	if (x->write_error < 0 && x->pid) {
		send_signal(x, "SIGNAL_SIGKILL");
		if (x->write_error == -EPIPE) {
			c->exit_code = 128 + SIGPIPE;
			return 0;
		}
		return err_errno(e, x->write_error, "standard output");
	}
	int sig;
	if (term_interrupts(&sig)) {
		c->exit_code = 128 + sig;
		if (rc < 0 && x->pid)
			output_complain(
				"nothing was heard of the command's end: it (pid %u) may still run",
				x->pid);
		return 0;
	}
	if (rc < 0 && x->late)
		return err_set(e, ERR_TIMEOUT,
			"the sandbox's agent told no end of the command%s, long after its "
			"--timeout: it may still run. 'stasis why %s' may say more; pause and rm "
			"work without the agent",
			x->pid ? "" : ", nor its begin", x->stream.id);
	if (rc < 0)
		return rc;
	c->exit_code = end.exited ? end.exit_code : 128 + signal_number(end.status);
	if (end.oom.count)
		tell_kill(&end, x->stream.memory_mb);
	return 0;
}

static int explain_end(struct cli *c, const struct exec *x, int rc, struct err *e)
{
	char paused[120], gone[60], unknown[120] = "";
	uint32_t pid = x->pid;
	if (pid) {
		snprintf(paused, sizeof paused,
			"the command (pid %u) goes on in it when it is resumed", pid);
		snprintf(gone, sizeof gone, "the command (pid %u) is gone with it", pid);
		snprintf(unknown, sizeof unknown,
			"the connection to the sandbox was lost: whether the command (pid %u) goes "
			"on is not known",
			pid);
	} else {
		snprintf(paused, sizeof paused, "whether the command had started is not known");
		snprintf(gone, sizeof gone, "the command, if it had started, is gone with it");
	}
	const struct ending_words words = {
		.paused = paused, .gone = gone, .unknown = *unknown ? unknown : NULL};
	return ending_explain(c, &x->stream, &words, rc, e);
}

static int exec_stream(struct cli *c, const char *id, struct exec *x, struct envd_process *p,
	const char *user, struct err *e)
{
	int rc = guest_open(c, id, user, &x->stream, e);
	if (rc == 0)
		rc = guest_dup(c, &x->stream, &x->control, e);
	if (rc == 0)
		rc = guest_dup(c, &x->stream, &x->input, e);
	if (rc == 0 && pipe2(x->wake, O_CLOEXEC) < 0)
		rc = err_errno(e, errno, "pipe");
	if (rc < 0)
		return rc;
	struct term term = {.fd = -1};
	term_catch_signals(x->tty);
	if (x->tty) {
		term_size(&p->cols, &p->rows);
		if (x->interactive && (rc = term_raw(&term, STDIN_FILENO)) < 0)
			return err_errno(e, rc, "terminal");
	}
	if (p->timeout_ms)
		x->late_ns = clock_monotonic_ns() + p->timeout_ms * NSEC_PER_MSEC + LATE_NS;
	rc = run(c, x, p, e);
	term_restore(&term);
	return rc < 0 ? explain_end(c, x, rc, e) : 0;
}

int exec_check(const struct cli *c, const struct exec_options *o, struct err *e)
{
	if (c->json && (o->interactive || o->tty))
		return err_set(
			e, ERR_INVALID, "-o json buffers: it goes neither with -i nor with -t");
	if (o->interactive && o->tty && !isatty(STDIN_FILENO))
		return err_set(e, ERR_INVALID,
			"-it needs a terminal on standard input; use -i alone for a pipe or file");
	return 0;
}

int exec_command(
	struct cli *c, const char *id, char *const *command, struct exec_options *o, struct err *e)
{
	if (c->json)
		return exec_buffered(c, id, command, o, e);
	if (o->tty && !o->env)
		o->env = json_object();
	static const char *const of_terminal[] = {"TERM", "COLORTERM"};
	for (size_t i = 0; o->tty && i < ARRAY_SIZE(of_terminal); i++) {
		const char *kind = getenv(of_terminal[i]);
		if (kind && *kind && !json_object_get(o->env, of_terminal[i]))
			json_object_set_new(o->env, of_terminal[i], json_string(kind));
	}
	// Not on the stack: a feeder that could not be joined goes on looking at it until exit.
	struct exec *x = calloc(1, sizeof *x);
	if (!x)
		return err_errno(e, ENOMEM, "exec");
	*x = (struct exec){.interactive = o->interactive, .tty = o->tty, .wake = {-1, -1}};
	struct envd_process p = {
		.cmd = command[0],
		.args = (const char *const *)command + 1,
		.env = o->env,
		.cwd = o->cwd,
		.stdin_open = o->interactive,
		.end_on_exit = true,
		.pty = o->tty,
		.timeout_ms = o->timeout * 1000,
		.on_start = on_start,
		.on_data = on_data,
		.tick = tick,
		.ctx = x,
	};
	int rc = exec_stream(c, id, x, &p, o->user, e);
	if (x->feeding)
		return rc;
	guest_done(&x->stream);
	guest_done(&x->control);
	guest_done(&x->input);
	safe_close(x->wake[0]);
	safe_close(x->wake[1]);
	free(x);
	return rc;
}

int cmd_exec(struct cli *c, struct err *e)
{
	struct exec_options o = {0};
	const struct cli_option options[] = {
		EXEC_OPTIONS(o),
		{'e', "env", "K=V", "environment; repeatable", OPT_MAP, &o.env},
		{0, "timeout", "TIME", "kill it after (default: none; 60s with -o json)",
			OPT_SECONDS, &o.timeout, 1, 86400},
		{0},
	};
	int rc = cli_parse(c, options, 2, -1, e);
	if (rc == 0)
		rc = exec_check(c, &o, e);
	if (rc == 0)
		rc = exec_command(c, c->argv[0], c->argv + 1, &o, e);
	json_decref(o.env);
	return rc;
}
