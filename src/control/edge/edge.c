// SPDX-License-Identifier: Apache-2.0
// How this works. nginx runs in the foreground as a child in its own session, on a configuration
// written at the start and at each reload (nginx.conf.in). The decision where a request goes is the
// server's (route.c). Internal headers are set or removed on every way, so clients cannot forge
// them; internal requests to the server also carry a random key.
//
// nginx's workers run as another user than root and must reach the API socket: they get it by the
// socket's group. A supervisor thread starts nginx again when it dies, and kills the workers that a
// killed master leaves behind (they would keep the port).
#include "control/edge/edge.h"
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/lock.h"
#include "base/log.h"
#include "base/proc.h"
#include "base/str.h"
#include "control/edge/conf.h"
#include "base/json.h"

#define START_MS 120000 // a dead man's switch: one that ends is noticed at once
#define STOP_GRACE_MS 3000
#define DRAIN_MS 2000
#define BACKOFF_MIN_MS 100
#define BACKOFF_MAX_MS 5000
#define STEADY_NS (30 * NSEC_PER_SEC) // after this long a death starts the back-off anew

struct edge {
	char *program, *dir, *conf;
	struct conf_listeners listeners;
	unsigned generation; // of the configuration
	pthread_t supervisor;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	bool supervised;
	// under lock
	bool stopping;
	int pidfd; // of nginx, -1 between two; closed by the supervisor alone
	unsigned deaths;
};

gid_t edge_group(void)
{
	struct passwd pw;
	char buf[1024];
	const struct passwd *found = geteuid() == 0 ? conf_worker_user(&pw, buf, sizeof buf) : NULL;
	return found ? found->pw_gid : (gid_t)-1;
}

uid_t edge_user(void)
{
	struct passwd pw;
	char buf[1024];
	const struct passwd *found = geteuid() == 0 ? conf_worker_user(&pw, buf, sizeof buf) : NULL;
	return found ? found->pw_uid : (uid_t)-1;
}

// --- which nginx is ours, for the time after a crash

static char *pid_path(const struct edge *g)
{
	return str_printf("%s/edge.json", g->dir);
}

static void record(struct edge *g, pid_t pid)
{
	_cleanup_free_ char *path = pid_path(g);
	uint64_t start = 0;
	char boot[37];
	clock_boot_id(boot);
	if (!path || proc_start_time(pid, &start) < 0)
		return;
	_cleanup_json_ json_t *j = json_pack("{s:I, s:I, s:s}", "pid", (json_int_t)pid,
		"start_time", (json_int_t)start, "boot_id", boot);
	_cleanup_free_ char *text = json_compact(j);
	int r = text ? file_write_atomic(AT_FDCWD, path, text, strlen(text), 0600) : -ENOMEM;
	if (r < 0)
		log_warn("a crash of the server would leave nginx running pid=%d: %s: %s", pid,
			path, strerror(-r));
}

static void end_leftover(struct edge *g)
{
	_cleanup_free_ char *path = pid_path(g);
	_cleanup_strbuf_ struct strbuf text = {0};
	_cleanup_json_ json_t *j = NULL;
	uint64_t pid = 0, start = 0, now_start = 0;
	const char *boot = "";
	char this_boot[37];
	const struct json_field fields[] = {
		{.name = "pid",
			.type = JF_U64,
			.out = &pid,
			.min = 2,
			.max = INT32_MAX,
			.required = true},
		{.name = "start_time", .type = JF_U64, .out = &start, .required = true},
		{.name = "boot_id", .type = JF_STRING, .out = &boot, .required = true},
	};
	if (!path || file_read(AT_FDCWD, path, 4096, &text) < 0 ||
		json_parse_object(text.data, text.len, &j, NULL) < 0 ||
		json_read_fields(j, fields, ARRAY_SIZE(fields), false, NULL) < 0)
		return;
	clock_boot_id(this_boot);
	_cleanup_close_ int pidfd = proc_pidfd_open((pid_t)pid);
	// The start time is read while the descriptor holds the process.
	if (pidfd < 0 || !str_eq(boot, this_boot) || proc_start_time((pid_t)pid, &now_start) < 0 ||
		now_start != start)
		return;
	log_info("ending the nginx of an earlier server pid=%d", (int)pid);
	struct pollfd p = {.fd = pidfd, .events = POLLIN};
	proc_kill(pidfd, SIGTERM);
	if (poll(&p, 1, STOP_GRACE_MS) <= 0)
		kill(-(pid_t)pid, SIGKILL);
}

// --- supervision

static int spawn(struct edge *g, struct err *e)
{
	const char *const argv[] = {g->program, "-e", "stderr", "-p", g->dir, "-c", g->conf, NULL};
	const struct proc_spawn s = {.argv = argv,
		.stdin_fd = -1,
		.stdout_fd = -1,
		.stderr_fd = -1,
		.new_session = true,
		.death_signal = SIGTERM}; // the supervisor's thread ends after nginx
	pid_t pid;
	int pidfd;
	int r = proc_spawn(&s, &pid, &pidfd, e);
	if (r < 0)
		return err_prefix(e, r, "the edge cannot be started");
	record(g, pid);
	pthread_mutex_lock(&g->lock);
	g->pidfd = pidfd;
	// A stop that came in between found no process.
	if (g->stopping)
		proc_kill(pidfd, SIGTERM);
	pthread_mutex_unlock(&g->lock);
	return pid;
}

static bool has_ended(int pidfd, int timeout_ms)
{
	struct pollfd p = {.fd = pidfd, .events = POLLIN};
	return RETRY_EINTR(poll(&p, 1, timeout_ms)) > 0;
}

// Waits for the end of nginx and reaps it. While it is unreaped its process group is surely ours.
static int reap(struct edge *g, pid_t pid)
{
	int status = 0;
	has_ended(g->pidfd, -1);
	kill(-pid, SIGKILL);
	proc_wait(g->pidfd, -1, &status);
	pthread_mutex_lock(&g->lock);
	g->pidfd = safe_close(g->pidfd);
	g->deaths++;
	pthread_mutex_unlock(&g->lock);
	return status;
}

// Sleeps; true when the edge is to stop.
static bool pause_stopping(struct edge *g, unsigned ms)
{
	const uint64_t until = deadline_in_ms(ms);
	pthread_mutex_lock(&g->lock);
	while (!g->stopping && cond_wait_until(&g->wake, &g->lock, until) == 0)
		;
	bool stopping = g->stopping;
	pthread_mutex_unlock(&g->lock);
	return stopping;
}

static void *supervise(void *arg)
{
	struct edge *g = arg;
	unsigned backoff = BACKOFF_MIN_MS;
	do {
		struct err e = {0};
		char text[64];
		uint64_t started = clock_monotonic_ns();
		int pid = spawn(g, &e);
		if (pid < 0) {
			log_error("%s; again in %u ms", e.text, backoff);
			pthread_mutex_lock(&g->lock);
			g->deaths++;
			pthread_mutex_unlock(&g->lock);
			continue;
		}
		int status = reap(g, pid);
		if (pause_stopping(g, 0))
			break;
		if (clock_monotonic_ns() - started > STEADY_NS)
			backoff = BACKOFF_MIN_MS;
		proc_status_text(status, text, sizeof text);
		log_error("nginx ended (%s), starting it again in %u ms", text, backoff);
	} while (!pause_stopping(g, backoff) && (backoff = MIN(backoff * 2, BACKOFF_MAX_MS)));
	return NULL;
}

// --- life

struct listener {
	const char *setting, *text;
};

static int parse_listeners(struct edge *g, const struct edge_config *cfg, struct err *e)
{
	const struct listener all[CONF_LISTENERS] = {[CONF_LISTEN] = {"listen", cfg->listen},
		[CONF_PLAIN] = {"listen-plain", cfg->listen_plain},
		[CONF_H2C] = {"listen-h2c", cfg->listen_h2c}};
	int r = 0;
	for (size_t i = 0; r == 0 && i < CONF_LISTENERS; i++)
		if (all[i].text && *all[i].text)
			r = listen_parse(all[i].setting, all[i].text, &g->listeners.at[i], e);
	if (r == 0 && !cfg->tls_cert != !cfg->tls_key)
		r = err_set(
			e, ERR_INVALID, "tls_cert and tls_key: one is nothing without the other");
	return r;
}

// nginx would try for seconds and then say less.
static int check_free(const struct edge *g, struct err *e)
{
	static const char *const settings[] = {"listen", "listen-plain", "listen-h2c"};
	int r = 0;
	for (size_t i = 0; r == 0 && i < CONF_LISTENERS; i++)
		if (g->listeners.at[i].port)
			r = listen_check_free(settings[i], &g->listeners.at[i], e);
	return r;
}

static bool all_accept(const struct edge *g)
{
	for (size_t i = 0; i < CONF_LISTENERS; i++)
		if (g->listeners.at[i].port && !listen_accepts(&g->listeners.at[i]))
			return false;
	return true;
}

static int wait_ready(struct edge *g, struct err *e)
{
	uint64_t deadline = clock_monotonic_ns() + START_MS * NSEC_PER_MSEC;
	while (clock_monotonic_ns() < deadline) {
		if (all_accept(g))
			return 0;
		pthread_mutex_lock(&g->lock);
		unsigned deaths = g->deaths;
		pthread_mutex_unlock(&g->lock);
		if (deaths > 0)
			return err_set(e, ERR_INTERNAL,
				"the edge ended while starting; see the lines above");
		clock_sleep_ns(2 * NSEC_PER_MSEC);
	}
	return err_set(e, ERR_TIMEOUT, "the edge does not accept connections");
}

// A configuration beside the one that nginx has, with the certificate as it is now; it takes the
// place of that one when nginx finds it good. Of a failure nothing is left.
static int configure(struct edge *g, const struct edge_config *cfg, struct err *e)
{
	_cleanup_free_ char *next = str_printf("%s.new", g->conf);
	struct conf_listeners l = g->listeners;
	l.tls = (struct tls_pair){0};
	int r = next ? 0 : err_errno(e, ENOMEM, "edge");
	if (r == 0 && cfg->tls_cert)
		r = tls_take(g->dir, cfg->tls_cert, cfg->tls_key, g->generation + 1, &l.tls, e);
	if (r == 0)
		r = conf_write(next, &l, cfg, e);
	if (r == 0)
		r = conf_check(g->program, g->dir, next, e);
	if (r == 0 && rename(next, g->conf) < 0)
		r = err_errno(e, errno, "%s", g->conf);
	if (r < 0) {
		if (next)
			unlink(next);
		tls_drop(&l.tls);
		return r;
	}
	g->generation++;
	struct tls_pair old = g->listeners.tls;
	g->listeners = l;
	tls_drop(&old);
	return 0;
}

int edge_reload(struct edge *g, const struct edge_config *cfg, struct err *e)
{
	int r = configure(g, cfg, e);
	if (r < 0)
		return r;
	pthread_mutex_lock(&g->lock);
	if (g->pidfd >= 0)
		proc_kill(g->pidfd, SIGHUP);
	pthread_mutex_unlock(&g->lock);
	return 0;
}

int edge_start(const struct edge_config *cfg, struct edge **ret, struct err *e)
{
	_cleanup_(edge_stopp) struct edge *g = calloc(1, sizeof *g);
	if (!g)
		return err_errno(e, ENOMEM, "edge");
	pthread_mutex_init(&g->lock, NULL);
	pthread_cond_init(&g->wake, NULL);
	g->pidfd = -1;
	// Root's PATH need not have sbin in it.
	const char *found = access("/usr/sbin/nginx", X_OK) == 0 ? "/usr/sbin/nginx" : "nginx";
	g->program = strdup(cfg->nginx ? cfg->nginx : found);
	g->dir = strdup(cfg->dir);
	g->conf = str_printf("%s/nginx.conf", cfg->dir);
	if (!g->program || !g->dir || !g->conf)
		return err_errno(e, ENOMEM, "edge");
	int r = parse_listeners(g, cfg, e);
	if (r == 0) {
		gid_t group = edge_group();
		r = file_private_dir(AT_FDCWD, g->dir, 0710);
		if (r == 0 && group != (gid_t)-1)
			r = file_let_group_pass(AT_FDCWD, g->dir, group);
		if (r < 0)
			err_errno(e, r, "%s", g->dir);
	}
	if (r == 0) {
		end_leftover(g);
		r = check_free(g, e);
	}
	if (r == 0)
		r = configure(g, cfg, e);
	if (r == 0) {
		r = -pthread_create(&g->supervisor, NULL, supervise, g);
		if (r < 0)
			err_errno(e, r, "thread of the edge");
		g->supervised = r == 0;
	}
	if (r == 0)
		r = wait_ready(g, e);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(g);
	return 0;
}

void edge_drain(struct edge *g)
{
	if (!g)
		return;
	pthread_mutex_lock(&g->lock);
	g->stopping = true;
	if (g->pidfd >= 0)
		proc_kill(g->pidfd, SIGQUIT);
	pthread_cond_broadcast(&g->wake);
	pthread_mutex_unlock(&g->lock);
}

struct edge *edge_stop(struct edge *g)
{
	if (!g)
		return NULL;
	edge_drain(g);
	// A copy, since the supervisor closes its own as soon as nginx has ended.
	pthread_mutex_lock(&g->lock);
	_cleanup_close_ int pidfd = g->pidfd >= 0 ? dup(g->pidfd) : -1;
	pthread_mutex_unlock(&g->lock);
	if (pidfd >= 0 && !has_ended(pidfd, DRAIN_MS)) {
		proc_kill(pidfd, SIGTERM);
		if (!has_ended(pidfd, STOP_GRACE_MS))
			proc_kill(pidfd, SIGKILL);
	}
	if (g->supervised)
		pthread_join(g->supervisor, NULL);
	_cleanup_free_ char *path = pid_path(g);
	if (path)
		unlink(path);
	tls_drop(&g->listeners.tls);
	pthread_cond_destroy(&g->wake);
	pthread_mutex_destroy(&g->lock);
	free(g->program);
	free(g->dir);
	free(g->conf);
	free(g);
	return NULL;
}
