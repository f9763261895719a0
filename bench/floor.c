// SPDX-License-Identifier: Apache-2.0
// floor JOB: what a restore costs with nothing of ours around it. The same VMM (Firecracker, or
// QEMU with the same arguments and memory hook) and backend, a disk cloned by FICLONE, the load of
// the device state, POST /init and /bin/true, straight to the agent. No jail, journal, database,
// edge, server. Prints the nanoseconds from the clone to the end of /bin/true, the process ids of
// the VMM and of the pager (0: none), and how many of the nanoseconds went by until the guest ran,
// until it was connected to, to the end of /init, to that of /bin/true. Then it waits: a line on
// standard input makes it run the job's work in the guest and print a line after it; the end of
// standard input ends all. Runs in a network namespace that holds tap0 (bench/floors.py makes it).
//
// JOB is a file of lines "key=value": disk (to clone), rootfs (the clone), memory (file; or empty),
// pager (arguments, separated by 0x1f), socket (the pager's), token (that the guest knows),
// newtoken, work (a shell command, may be missing); for QEMU qemu (its arguments, separated in the
// same way), hook, state (file), offset (of QEMU's stream in it), size (bytes of memory); for
// Firecracker firecracker (program) and root: see floor_firecracker.c.
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "floor.h"

static char *job[64][2];
static int n_job;

// A dead man's switch, seconds.
#define LIMIT_S 120

static const char *stage = "start";

static void too_late(int sig)
{
	(void)sig;
	ssize_t r = write(2, "floor: no end of: ", 18);
	r = write(2, stage, strlen(stage));
	r = write(2, "\n", 1);
	(void)r;
	_exit(1);
}

_Noreturn void die(const char *what)
{
	perror(what);
	exit(1);
}

uint64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static char *job_find(const char *key)
{
	for (int i = 0; i < n_job; i++)
		if (strcmp(job[i][0], key) == 0)
			return job[i][1];
	return NULL;
}

char *job_get(const char *key)
{
	char *value = job_find(key);
	if (value)
		return value;
	fprintf(stderr, "floor: the job has no %s\n", key);
	exit(1);
}

static void read_job(const char *path)
{
	FILE *f = fopen(path, "re");
	char *line = NULL;
	size_t cap = 0;
	if (!f)
		die(path);
	while (n_job < 64 && getline(&line, &cap, f) > 0) {
		line[strcspn(line, "\n")] = '\0';
		char *eq = strchr(line, '=');
		if (!eq)
			continue;
		*eq = '\0';
		job[n_job][0] = strdup(line);
		job[n_job++][1] = strdup(eq + 1);
	}
	free(line);
	fclose(f);
}

static void clone_disk(void)
{
	int in = open(job_get("disk"), O_RDONLY | O_CLOEXEC);
	int out = open(job_get("rootfs"), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (in < 0 || out < 0 || ioctl(out, FICLONE, in) < 0)
		die("clone of the disk");
	close(in);
	close(out);
}

static int open_tap(void)
{
	struct ifreq r = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	snprintf(r.ifr_name, sizeof r.ifr_name, "tap0");
	if (fd < 0 || ioctl(fd, TUNSETIFF, &r) < 0)
		die("tap0");
	return fd;
}

static char **split(char *text)
{
	char **v = calloc(256, sizeof *v);
	for (int i = 0; i < 255 && text; i++)
		v[i] = strsep(&text, "\x1f");
	return v;
}

pid_t start(const char *root, char **argv, char *const *env, const int *fds, int n)
{
	pid_t pid = fork();
	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	int null = open("/dev/null", O_RDWR);
	int high[16];
	for (int i = 0; i < n; i++)
		high[i] = fds[i] < 0 ? -1 : fcntl(fds[i], F_DUPFD, 40);
	for (int i = 0; i < n; i++)
		if (high[i] >= 0)
			dup2(high[i], 3 + i);
	dup2(null, 0);
	dup2(null, 1);
	close_range(3 + (unsigned)n, ~0u, 0);
	if (root && (chroot(root) < 0 || chdir("/") < 0))
		_exit(127);
	execve(argv[0], argv, env);
	_exit(127);
}

static void command(int fd, const char *text, const char *until)
{
	static char buf[65536];
	static size_t len;
	if (text && write(fd, text, strlen(text)) < 0)
		die("QMP");
	for (;;) {
		char *end;
		while ((end = memchr(buf, '\n', len))) {
			*end = '\0';
			int found = strstr(buf, until) != NULL;
			size_t n = (size_t)(end - buf) + 1;
			memmove(buf, buf + n, len -= n);
			if (found)
				return;
		}
		ssize_t n = read(fd, buf + len, sizeof buf - len);
		if (n <= 0) {
			fprintf(stderr, "floor: QEMU ended while waiting for %s\n", until);
			exit(1);
		}
		len += (size_t)n;
	}
}

int connect_unix(const char *path)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	uint64_t begin = now();
	snprintf(sa.sun_path, sizeof sa.sun_path, "%s", path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	while (connect(fd, (struct sockaddr *)&sa, sizeof sa) < 0)
		if (now() - begin > LIMIT_S * 1000000000ull)
			die(path);
		else
			usleep(200);
	return fd;
}

static int connect_guest(void)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(49983)};
	inet_pton(AF_INET, "169.254.0.21", &a.sin_addr);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a) < 0)
		die("connect to the guest");
	return fd;
}

// One request; reads until a piece of the answer holds the text.
static void request(int fd, const char *path, const char *type, const char *token, const void *body,
	size_t len, const char *until)
{
	char head[1024], buf[65536];
	size_t got = 0;
	int n = snprintf(head, sizeof head,
		"POST %s HTTP/1.1\r\nHost: envd\r\nContent-Type: %s\r\nX-Access-Token: %s\r\n"
		"Authorization: Basic dXNlcjo=\r\nConnect-Protocol-Version: 1\r\n"
		"Content-Length: %zu\r\n\r\n",
		path, type, token, len);
	memcpy(buf, head, (size_t)n);
	memcpy(buf + n, body, len);
	if (write(fd, buf, (size_t)n + len) < 0)
		die(path);
	while (!memmem(buf, got, until, strlen(until))) {
		ssize_t r = read(fd, buf + got, sizeof buf - got);
		if (r <= 0 || got + (size_t)r == sizeof buf) {
			fprintf(stderr, "floor: %s: %.*s\n", path, (int)got, buf);
			exit(1);
		}
		got += (size_t)r;
	}
}

static void init_guest(int fd)
{
	char body[2048], stamp[64];
	struct timespec t;
	struct tm tm;
	clock_gettime(CLOCK_REALTIME, &t);
	strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", gmtime_r(&t.tv_sec, &tm));
	int n = snprintf(body, sizeof body,
		"{\"accessToken\":\"%s\",\"resumed\":true,\"hostname\":\"floor\","
		"\"timestamp\":\"%s.%03ldZ\",\"entropy\":\"MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5"
		"MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDEyMw==\"}",
		job_get("newtoken"), stamp, t.tv_nsec / 1000000);
	request(fd, "/init", "application/json", job_get("token"), body, (size_t)n, "HTTP/1.1 204");
}

// The body of /process.Process/Start; shorter than 256 bytes.
static void run(int fd, const char *json)
{
	char frame[5 + 256] = {0, 0, 0, 0, (char)strlen(json)};
	size_t len = strlen(json);
	if (len > 255)
		die("work");
	memcpy(frame + 5, json, len);
	request(fd, "/process.Process/Start", "application/connect+json", job_get("newtoken"),
		frame, 5 + len, "\"end\"");
}

pid_t qemu_load(void)
{
	char hook[160], preload[512];
	int qmp[2], rep[2], control[2];
	char *memory = job_get("memory");
	int tap = open_tap(), state = open(job_get("state"), O_RDONLY | O_CLOEXEC);
	if (state < 0 || lseek(state, atoll(job_get("offset")), SEEK_SET) < 0)
		die("state");
	int backend =
		*memory ? open(memory, O_RDONLY | O_CLOEXEC) : connect_unix(job_get("socket"));
	if (backend < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, qmp) < 0 ||
		socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, control) < 0 ||
		pipe2(rep, O_CLOEXEC) < 0)
		die("channels");
	// Numbers as in src/fcqemu/qemu.c: 3 QMP, 4 report, 5 control, 6 removed, 7 backend, 8
	// state, 10 tap.
	uint64_t size = strtoull(job_get("size"), NULL, 10);
	int removed = memfd_create("removed", MFD_CLOEXEC);
	if (removed < 0 || ftruncate(removed, (off_t)((size / 4096 + 63) / 64 * 8)) < 0)
		die("memfd");
	snprintf(hook, sizeof hook, "STASIS_RAMHOOK=%s:%llu:4:6:7:5", *memory ? "file" : "uffd",
		(unsigned long long)size);
	snprintf(preload, sizeof preload, "LD_PRELOAD=%s", job_get("hook"));
	char *const env[] = {preload, hook, "LC_ALL=C", NULL};
	const int fds[] = {qmp[1], rep[1], control[1], removed, backend, state, -1, tap};
	char **qv = split(job_get("qemu"));
	pid_t qemu = start(NULL, qv, env, fds, 8);
	close(qmp[1]);
	stage = "the greeting";
	command(qmp[0], NULL, "QMP");
	command(qmp[0], "{\"execute\":\"qmp_capabilities\"}\n", "return");
	stage = "the load";
	for (;;) {
		static const char q[] = "{\"execute\":\"query-status\"}\n";
		char buf[4096];
		if (write(qmp[0], q, sizeof q - 1) < 0)
			die("QMP");
		ssize_t n = read(qmp[0], buf, sizeof buf - 1);
		if (n <= 0)
			die("QEMU ended");
		buf[n] = '\0';
		if (strstr(buf, "\"paused\""))
			break;
		usleep(500);
	}
	command(qmp[0], "{\"execute\":\"cont\"}\n", "return");
	return qemu;
}

// A line of standard input: false at its end.
static bool told(void)
{
	char c = '\0';
	while (c != '\n')
		if (read(STDIN_FILENO, &c, 1) != 1)
			return false;
	return true;
}

static pid_t start_pager(void)
{
	if (*job_get("memory"))
		return 0;
	unlink(job_get("socket"));
	return start(NULL, split(job_get("pager")), (char *const[]){NULL}, NULL, 0);
}

int main(int argc, char **argv)
{
	if (argc != 2)
		return 2;
	read_job(argv[1]);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGALRM, too_late);
	alarm(LIMIT_S);
	bool firecracker = job_find("firecracker");
	if (firecracker)
		firecracker_prepare();
	uint64_t at[5] = {now()};
	clone_disk();
	stage = "the load";
	pid_t pager = start_pager();
	pid_t vmm = firecracker ? firecracker_load() : qemu_load();
	at[1] = now();
	stage = "the connection to the guest";
	int guest = connect_guest();
	at[2] = now();
	stage = "/init";
	init_guest(guest);
	at[3] = now();
	stage = "/bin/true";
	run(guest, "{\"process\":{\"cmd\":\"/bin/true\",\"args\":[]}}");
	at[4] = now();
	alarm(0);
	printf("%llu %d %d", (unsigned long long)(at[4] - at[0]), (int)vmm, (int)pager);
	for (int i = 1; i < 5; i++)
		printf(" %llu", (unsigned long long)(at[i] - at[i - 1]));
	puts("");
	fflush(stdout);
	stage = "the work";
	while (told()) {
		alarm(LIMIT_S);
		run(guest, job_get("work"));
		alarm(0);
		puts("done");
		fflush(stdout);
	}
	kill(vmm, SIGKILL);
	waitpid(vmm, NULL, 0);
	if (pager) {
		kill(pager, SIGKILL);
		waitpid(pager, NULL, 0);
	}
	return 0;
}
