// SPDX-License-Identifier: Apache-2.0
#include "envd/wake/handover.h"
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <linux/magic.h>
#include "base/buildid.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/file.h"
#include "base/json.h"
#include "base/lock.h"
#include "base/log.h"
#include "envd/process/env.h"
#include "envd/process/handover.h"
#include "envd/process/spawn.h"
#include "envd/wake/resume.h"
#include "envd/wake/settings.h"
#include "envd/wake/sha256.h"

#define AGENT_DIR "/run/stasis" // where stasis-init has put the agent, a tmpfs
#define AGENT_FILE AGENT_DIR "/envd"
#define STATE_MAX (64u << 20)
#define CHECK_MS 10000
#define HOLD_MS 6000
#define IDLE_MS 2000
#ifndef MFD_EXEC // include/uapi/linux/memfd.h, since Linux 6.3
#define MFD_EXEC 0x0010U
#endif

// --- what is handed over

static json_t *state_json(struct agent *a, int listen_fd, int program_fd)
{
	pthread_mutex_lock(&a->lock);
	json_t *settings = settings_json(a);
	pthread_mutex_unlock(&a->lock);
	json_t *processes = process_table_save(a->processes);
	return json_pack("{s:i, s:i, s:i, s:o, s:o, s:I}", "format", 1, "listen", listen_fd,
		"program", program_fd, "settings", settings, "table", processes, "oomTold",
		(json_int_t)oom_watch_told_total(process_table_oom(a->processes)));
}

static int write_state(struct agent *a, int listen_fd, int program_fd, int *ret, struct err *e)
{
	_cleanup_json_ json_t *j = state_json(a, listen_fd, program_fd);
	_cleanup_free_ char *text = j ? json_compact(j) : NULL;
	_cleanup_close_ int fd = memfd_create("stasis-handover", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (!text || fd < 0)
		return err_errno(e, text ? errno : ENOMEM, "state of the agent");
	size_t len = strlen(text);
	int rc = len > STATE_MAX ? -EFBIG : file_write_full(fd, text, len);
	explicit_bzero(text, len);
	if (rc == 0 && fcntl(fd, F_ADD_SEALS,
			       F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0)
		rc = -errno;
	if (rc == 0 && lseek(fd, 0, SEEK_SET) < 0)
		rc = -errno;
	if (rc < 0)
		return err_errno(e, rc, "state of the agent");
	*ret = TAKE_FD(fd);
	return 0;
}

// --- the program

static bool is_tmpfs(const char *path)
{
	struct statfs fs;
	return statfs(path, &fs) == 0 && fs.f_type == TMPFS_MAGIC;
}

// In a guest where it can be given the agent's name; elsewhere a memfd. Nobody can write to it any
// more but root, to the first of them.
static int store_program(const struct agent *a, const void *data, size_t len, int *ret)
{
	char path[32];
	bool named = a->guest && is_tmpfs(AGENT_DIR);
	_cleanup_close_ int fd = -1;
	if (named) {
		fd = open(AGENT_DIR, O_TMPFILE | O_RDWR | O_CLOEXEC, 0755);
	} else {
		fd = memfd_create("envd", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_EXEC);
		if (fd < 0 && errno == EINVAL)
			fd = memfd_create("envd", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	}
	int rc = fd < 0 ? -errno : file_write_full(fd, data, len);
	if (rc == 0 && !named &&
		fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK) < 0)
		rc = -errno;
	if (rc < 0)
		return rc;
	// What is open for writing cannot be executed.
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	int again = open(path, O_RDONLY | O_CLOEXEC);
	if (again < 0)
		return -errno;
	*ret = again;
	return 0;
}

// The program itself says whether it runs here and understands what it would be given.
static int try_program(struct agent *a, int program, struct err *e)
{
	char path[32];
	_cleanup_close_ int state = -1, null = open("/dev/null", O_RDWR | O_CLOEXEC), pidfd = -1;
	pid_t pid;
	siginfo_t si = {0};
	snprintf(path, sizeof path, "/proc/self/fd/%d", program);
	char *const argv[] = {(char *)"envd", (char *)HANDOVER_CHECK, NULL};
	char *const env[] = {(char *)"PATH=" ENV_PATH_DEFAULT, NULL};
	int rc = null < 0 ? err_errno(e, errno, "/dev/null") : write_state(a, 3, 3, &state, e);
	if (rc < 0)
		return rc;
	const struct spawn s = {.cmd = path,
		.argv = argv,
		.env = env,
		.cwd = "/",
		.fds = {state, null, null},
		.cgroup_fd = -1};
	if ((rc = spawn_process(&s, &pid, &pidfd, e)) < 0)
		return rc;
	struct pollfd pf = {.fd = pidfd, .events = POLLIN};
	int ends = RETRY_EINTR(poll(&pf, 1, CHECK_MS));
	bool ended = ends > 0;
	if (!ended)
		kill(-pid, SIGKILL);
	RETRY_EINTR(waitid(P_PID, (id_t)pid, &si, WEXITED));
	if (!ended || si.si_code != CLD_EXITED || si.si_status != 0)
		return err_set(e, ERR_CONFLICT,
			"the program does not take what it would be given (%s %d)",
			!ended			   ? "no end in ms"
			: si.si_code == CLD_EXITED ? "exit status"
						   : "signal",
			!ended ? CHECK_MS : si.si_status);
	return 0;
}

static int check_program(struct http_request *req, const void *data, size_t len, struct err *e)
{
	char sum[SHA256_TEXT_SIZE], build[BUILD_ID_SIZE];
	const char *wanted = http_req_query(req, "sha256");
	if (!wanted || !len)
		return err_set(e, ERR_INVALID, "needs ?sha256= and a program");
	sha256_text(data, len, sum);
	if (!str_eq(sum, wanted))
		return err_set(
			e, ERR_INVALID, "the program's SHA-256 is %s, not %.64s", sum, wanted);
	int rc = build_id_of(data, len, build);
	return rc < 0 ? err_set(e, ERR_INVALID,
				"not an ELF program of this machine with a build id")
		      : 0;
}

// --- the call

static int prepare(struct agent *a, struct http_request *req, struct err *e)
{
	size_t len = 0;
	const void *data = http_req_body(req, &len);
	_cleanup_close_ int program = -1;
	int listen_fd;
	int rc = check_program(req, data, len, e);
	if (rc < 0)
		return rc;
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&a->resume_lock);
	if (a->moving)
		return err_set(e, ERR_CONFLICT, "the agent is being replaced already");
	if ((rc = store_program(a, data, len, &program)) < 0)
		return err_errno(e, rc, "cannot keep the program");
	if ((rc = try_program(a, program, e)) < 0)
		return rc;
	// Who was connected before a snapshot is not there any more, and would be waited for.
	if (a->guest && str_eq(http_req_query(req, "resumed"), "1"))
		resume_end_connections(http_req_socket(req));
	a->moving = true; // before anything of it can be seen
	if ((rc = http_server_quiesce(a->server, &listen_fd, e)) < 0) {
		a->moving = false;
		return rc;
	}
	a->listen_fd = listen_fd;
	a->successor_fd = TAKE_FD(program);
	return 0;
}

void upgrade_post(struct http_request *req, void *ctx)
{
	struct agent *a = ctx;
	struct err e = {0};
	if (prepare(a, req, &e) < 0) {
		http_reply_error(req, &e);
		return;
	}
	http_reply_empty(req, 202);
	kill(getpid(), HANDOVER_SIGNAL); // blocked everywhere: the main thread waits for it
}

// --- the exec

// Whoever is stuck in the kernel would hold up the exec, beyond the point of no return.
static int find_stuck(struct err *e)
{
	DIR *d = opendir("/proc/self/task");
	int rc = 0;
	for (struct dirent *de; d && rc == 0 && (de = readdir(d));) {
		char path[64];
		_cleanup_free_ char *line = NULL;
		snprintf(path, sizeof path, "%.20s/stat", de->d_name);
		if (de->d_name[0] == '.' || file_read_line(dirfd(d), path, &line) < 0)
			continue;
		const char *state = strrchr(line, ')');
		if (state && state[1] == ' ' && state[2] == 'D')
			rc = err_set(
				e, ERR_CONFLICT, "a thread of the agent is stuck in the kernel");
	}
	if (d)
		closedir(d);
	return rc;
}

static void set_inherit(struct agent *a, int state, bool on)
{
	const int fds[] = {state, a->listen_fd, a->successor_fd};
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		fcntl(fds[i], F_SETFD, on ? 0 : FD_CLOEXEC);
	process_table_inherit(a->processes, on);
}

// Comes back when it failed.
static int become(struct agent *a, char *const *argv, struct err *e)
{
	char number[16];
	_cleanup_close_ int state = -1;
	int rc = find_stuck(e);
	if (rc == 0)
		rc = write_state(a, a->listen_fd, a->successor_fd, &state, e);
	if (rc == 0)
		rc = fault_hit("agent.before_exec", e);
	if (rc < 0)
		return rc;
	snprintf(number, sizeof number, "%d", state);
	if (setenv(HANDOVER_VARIABLE, number, 1) < 0)
		return err_errno(e, ENOMEM, "environment");
	log_info("another agent takes over");
	set_inherit(a, state, true);
	syscall(SYS_execveat, a->successor_fd, "", argv, environ, AT_EMPTY_PATH);
	rc = err_errno(e, errno, "cannot execute the program");
	set_inherit(a, state, false);
	unsetenv(HANDOVER_VARIABLE);
	return rc;
}

int handover_run(struct agent *a, char *const *argv, int *ret_fd, struct err *e)
{
	if (!a->moving)
		return 0;
	int rc = process_table_hold(a->processes, deadline_in_ms(HOLD_MS));
	if (rc < 0) {
		err_errno(e, rc, "the processes' output does not stand still");
	} else {
		// Who is still at something then is cut off, as by the end of an agent.
		if (!http_server_wait_idle(a->server, deadline_in_ms(IDLE_MS)))
			log_warn("a request is cut off by another agent");
		rc = become(a, argv, e);
		process_table_release(a->processes);
	}
	a->successor_fd = safe_close(a->successor_fd);
	*ret_fd = TAKE_FD(a->listen_fd);
	return rc;
}

// --- the new program

int handover_state_fd(void)
{
	const char *text = getenv(HANDOVER_VARIABLE);
	uint64_t fd;
	int rc = text && str_to_u64(text, INT32_MAX, &fd) == 0 && fd > 2 ? (int)fd : -1;
	unsetenv(HANDOVER_VARIABLE);
	return rc;
}

static int take(struct agent *a, json_t *j, bool check, int *ret_listen, struct err *e)
{
	int format = 0, listen_fd = -1, program = -1;
	uint64_t told = 0;
	json_t *settings = NULL, *table = NULL;
	const struct json_field f[] = {
		{"format", JF_INT, &format, .required = true, .max = INT32_MAX},
		{"listen", JF_INT, &listen_fd, .required = true, .max = INT32_MAX},
		{"program", JF_INT, &program, .required = true, .max = INT32_MAX},
		{"oomTold", JF_U64, &told, .max = INT64_MAX},
		{"settings", JF_OBJECT, &settings, .required = true},
		{"table", JF_OBJECT, &table, .required = true},
	};
	int rc = json_read_fields(j, f, ARRAY_SIZE(f), true, e);
	if (rc == 0 && (format != 1 || listen_fd < 3 || program < 3))
		rc = err_set(e, ERR_INVALID, "format %d, or a descriptor, is none", format);
	if (rc == 0 && check) {
		struct agent blank = {0};
		rc = settings_take(&blank, settings, e);
		free(blank.token);
		free(blank.default_user);
		free(blank.default_workdir);
		json_decref(blank.env);
	}
	if (rc == 0 && !check)
		rc = settings_take(a, settings, e);
	if (rc == 0)
		rc = process_table_load(check ? NULL : a->processes, table, check, e);
	if (rc < 0 || check)
		return rc;
	oom_watch_take(process_table_oom(a->processes), told);
	a->successor_fd = program;
	*ret_listen = listen_fd;
	return 0;
}

int handover_take(struct agent *a, int state_fd, bool check, int *ret_listen, struct err *e)
{
	char path[32];
	_cleanup_strbuf_ struct strbuf text = {0};
	_cleanup_json_ json_t *j = NULL;
	snprintf(path, sizeof path, "/proc/self/fd/%d", state_fd);
	int rc = file_read(AT_FDCWD, path, STATE_MAX, &text);
	if (rc < 0)
		return err_errno(e, rc, "state of the agent of before");
	rc = json_parse_object(text.data ? text.data : "", text.len, &j, e);
	if (text.data)
		explicit_bzero(text.data, text.len);
	if (rc == 0)
		rc = take(a, j, check, ret_listen, e);
	if (!check) {
		close(state_fd);
		prctl(PR_SET_NAME, "envd"); // after execveat it has a number
	}
	return rc < 0 ? err_prefix(e, rc, "state of the agent of before") : 0;
}

void handover_install(struct agent *a)
{
	char path[32];
	if (a->guest && is_tmpfs(AGENT_DIR)) {
		snprintf(path, sizeof path, "/proc/self/fd/%d", a->successor_fd);
		unlink(AGENT_FILE ".new");
		if (linkat(AT_FDCWD, path, AT_FDCWD, AGENT_FILE ".new", AT_SYMLINK_FOLLOW) < 0 ||
			rename(AGENT_FILE ".new", AGENT_FILE) < 0)
			log_warn("init would start the agent of before error=%s", strerror(errno));
	}
	a->successor_fd = safe_close(a->successor_fd);
}
