// SPDX-License-Identifier: Apache-2.0
#include "played/cases.h"
#include <fcntl.h>
#include <fnmatch.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include "base/file.h"
#include "base/str.h"
#include "played/played.h"

#define FAILED 3    // exit status of a process in which a check failed
#define LIMIT_S 480 // a case that hangs; on a busy machine a sanitizer takes minutes

// Races of the host that are known (P6): recovery fills the table that the monitor reads already;
// phases are noted while others copy the sandbox; a sandbox is copied with its place in the table.
// Entries go as they are mended.
const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void)
{
	return "race:host_recover\nrace:machine_phase\nrace:build\nrace:find_due\n";
}

struct job {
	size_t i;
	pid_t pid;
	FILE *says;
	char dir[64];
};

void check_failed(const char *file, int line, const char *cond, const char *fmt, ...)
{
	char text[2048];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	const char *name = strrchr(file, '/');
	fprintf(stderr, "%s:%d: %s (%s)\n", name ? name + 1 : file, line, text, cond);
	fflush(NULL);
	if (world.stage)
		atomic_store(&world.stage->let_go, 1);
	_exit(CHECK_FAILED);
}

bool served(void (*f)(void *), void *arg)
{
	int status;
	fflush(NULL);
	pid_t self = getpid(), pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != self)
			_exit(0);
		alarm(LIMIT_S / 2);
		f(arg);
		exit(0);
	}
	check(pid > 0 && waitpid(pid, &status, 0) == pid, "fork");
	if (WIFEXITED(status) && WEXITSTATUS(status) == CHECK_FAILED)
		_exit(CHECK_FAILED);
	if (WIFEXITED(status))
		check(WEXITSTATUS(status) == 0, "the server's process ended with %d",
			WEXITSTATUS(status));
	else
		check(WTERMSIG(status) == SIGKILL, "the server's process was ended by signal %d",
			WTERMSIG(status));
	return WIFEXITED(status);
}

static bool fits(const char *pattern, const char *name)
{
	return fnmatch(pattern, name, 0) == 0;
}

static const struct known_fault *find_known(
	const struct known_fault *known, size_t n, const char *name)
{
	for (size_t i = 0; i < n; i++)
		if (fits(known[i].name, name))
			return &known[i];
	return NULL;
}

bool case_is_known;

static bool start(struct job *j, const struct played_case *c, bool known)
{
	j->says = tmpfile();
	if (!j->says || !world_make_dir())
		return false;
	memcpy(j->dir, world.dir, sizeof j->dir);
	fflush(NULL);
	j->pid = fork();
	if (j->pid != 0)
		return j->pid > 0;
	dup2(fileno(j->says), STDERR_FILENO);
	dup2(fileno(j->says), STDOUT_FILENO);
	alarm(LIMIT_S);
	case_is_known = known || getenv("PLAYED_IMPATIENT");
	world_make();
	c->run(c->arg);
	world_drop();
	exit(0);
}

struct totals {
	unsigned passed, failed, known, mended;
};

static void judge(struct job *j, const struct played_case *c, const struct known_fault *k,
	int status, struct totals *t)
{
	static char text[256 << 10];
	text[0] = '\0';
	// Its end: there it says what is wrong.
	if (fseek(j->says, -(long)(sizeof text - 1), SEEK_END) < 0)
		rewind(j->says);
	size_t n = fread(text, 1, sizeof text - 1, j->says);
	text[n] = '\0';
	fclose(j->says);
	if (!getenv("PLAYED_KEEP"))
		file_rm_rf(AT_FDCWD, j->dir);
	// Of a known fault the last line is enough.
	char *last = text;
	for (char *p = text; k && (p = strchr(p, '\n')); p++)
		last = p[1] ? p + 1 : last;
	bool ok = WIFEXITED(status) && WEXITSTATUS(status) == 0;
	if (!ok && WIFSIGNALED(status))
		snprintf(text + strlen(text), sizeof text - strlen(text), "ended by signal %d%s\n",
			WTERMSIG(status), WTERMSIG(status) == SIGALRM ? ": it hangs" : "");
	if (ok && !k) {
		t->passed++;
		return;
	}
	if (ok) {
		t->mended++;
		printf("MENDED %s: take it from the list of known faults (%s)\n", c->name,
			k->letter);
	} else if (k) {
		t->known++;
		printf("known  %s [%s]: %s", c->name, k->letter, last);
	} else {
		t->failed++;
		printf("FAILED %s: %s%s", c->name, text, *text ? "" : "without a word\n");
	}
}

int cases_run(int argc, char **argv, const struct played_case *cases, size_t n,
	const struct known_fault *known, size_t n_known)
{
	struct job jobs[16] = {0};
	size_t width = 8, running = 0, next = 0;
	struct totals t = {0};
	int names = 1;
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc > 2 && str_eq(argv[1], "-j")) {
		width = MIN(ARRAY_SIZE(jobs), (size_t)strtoul(argv[2], NULL, 10));
		names = 3;
	}
	if (argc > 1 && str_eq(argv[1], "--list")) {
		for (size_t i = 0; i < n; i++)
			printf("%s\n", cases[i].name);
		return 0;
	}
	// Under a sanitizer a case takes five times as long.
	const char *share_text = getenv("PLAYED_SHARE");
	size_t share = share_text ? MAX(1u, strtoul(share_text, NULL, 10)) : 1;
	while (next < n || running) {
		bool wanted = names >= argc && next % share == 0;
		for (int a = names; next < n && a < argc; a++)
			wanted |= fits(argv[a], cases[next].name);
		if (next < n && !wanted) {
			next++;
			continue;
		}
		if (next < n && running < MAX(width, 1u)) {
			struct job *j = jobs;
			while (j->pid)
				j++;
			j->i = next++;
			const char *name = cases[j->i].name;
			if (!start(j, &cases[j->i], find_known(known, n_known, name)))
				return 1;
			running++;
			continue;
		}
		int status;
		pid_t pid = wait(&status);
		for (size_t i = 0; i < ARRAY_SIZE(jobs); i++)
			if (pid > 0 && jobs[i].pid == pid) {
				const struct played_case *c = &cases[jobs[i].i];
				judge(&jobs[i], c, find_known(known, n_known, c->name), status, &t);
				jobs[i] = (struct job){0};
				running--;
			}
	}
	if (n > 1)
		printf("%u passed, %u failed, %u known faults, %u of them mended\n", t.passed,
			t.failed, t.known + t.mended, t.mended);
	return t.failed || t.mended ? 1 : 0;
}
