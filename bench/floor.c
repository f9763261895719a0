// SPDX-License-Identifier: Apache-2.0
// floor JOB: what a restore costs with nothing of ours around it. The same QEMU with the same
// arguments, the same memory hook and backend, a disk cloned by FICLONE, the load of the device
// state, POST /init and /bin/true, straight to the agent. No jail, journal, database, edge, server.
// Prints the nanoseconds from the clone to the end of /bin/true, the KiB of private memory of its
// QEMU, and how many of the nanoseconds went by until the guest ran, until it was connected to, to
// the end of /init, to that of /bin/true. Runs in a network namespace that
// holds tap0 (bench/restore.py makes it).
//
// JOB is a file of lines "key=value": qemu (its arguments, separated by 0x1f), hook, state (file),
// offset (of QEMU's stream in it), memory (file; or empty), pager (arguments, same), socket (the
// pager's), size (bytes of memory), disk (to clone), rootfs (the clone), init (body of /init),
// token (that the guest knows), newtoken.
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
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

static char *job[64][2];
static int n_job;

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

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static uint64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static char *get(const char *key)
{
	for (int i = 0; i < n_job; i++)
		if (strcmp(job[i][0], key) == 0)
			return job[i][1];
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
	int in = open(get("disk"), O_RDONLY | O_CLOEXEC);
	int out = open(get("rootfs"), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
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

// fds[i] becomes descriptor 3 + i where it is not negative.
static pid_t start(char **argv, char *const *env, const int *fds, int n)
{
	pid_t pid = fork();
	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	int high[16];
	for (int i = 0; i < n; i++)
		high[i] = fds[i] < 0 ? -1 : fcntl(fds[i], F_DUPFD, 40);
	for (int i = 0; i < n; i++)
		if (high[i] >= 0)
			dup2(high[i], 3 + i);
	int null = open("/dev/null", O_RDWR);
	dup2(null, 0);
	dup2(null, 1);
	close_range(3 + (unsigned)n, ~0u, 0);
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
		get("newtoken"), stamp, t.tv_nsec / 1000000);
	request(fd, "/init", "application/json", get("token"), body, (size_t)n, "HTTP/1.1 204");
}

static void run_true(int fd)
{
	static const char json[] = "{\"process\":{\"cmd\":\"/bin/true\",\"args\":[]}}";
	char frame[128] = {0, 0, 0, 0, sizeof json - 1};
	memcpy(frame + 5, json, sizeof json - 1);
	request(fd, "/process.Process/Start", "application/connect+json", get("newtoken"), frame,
		5 + sizeof json - 1, "\"end\"");
}

// In KiB.
static long private_dirty(pid_t pid)
{
	char path[64], line[256];
	long kib = -1;
	snprintf(path, sizeof path, "/proc/%d/smaps_rollup", (int)pid);
	FILE *f = fopen(path, "re");
	while (f && fgets(line, sizeof line, f))
		if (sscanf(line, "Private_Dirty: %ld", &kib) == 1)
			break;
	if (f)
		fclose(f);
	return kib;
}

int main(int argc, char **argv)
{
	char hook[160], preload[512], report[256];
	int qmp[2], rep[2], control[2];
	if (argc != 2)
		return 2;
	read_job(argv[1]);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGALRM, too_late);
	alarm(20);
	char *memory = get("memory");
	uint64_t begin = now();
	clone_disk();
	pid_t pager = 0;
	int backend = -1;
	if (!*memory) {
		char **pv = split(get("pager"));
		unlink(get("socket"));
		pager = start(pv, (char *const[]){NULL}, NULL, 0);
	}
	int tap = open_tap(), state = open(get("state"), O_RDONLY | O_CLOEXEC);
	if (state < 0 || lseek(state, atoll(get("offset")), SEEK_SET) < 0)
		die("state");
	if (*memory) {
		backend = open(memory, O_RDONLY | O_CLOEXEC);
	} else {
		struct sockaddr_un sa = {.sun_family = AF_UNIX};
		snprintf(sa.sun_path, sizeof sa.sun_path, "%s", get("socket"));
		backend = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		while (connect(backend, (struct sockaddr *)&sa, sizeof sa) < 0)
			if (now() - begin > 5000000000u)
				die("pager");
			else
				usleep(200);
	}
	if (backend < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, qmp) < 0 ||
		socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, control) < 0 ||
		pipe2(rep, O_CLOEXEC) < 0)
		die("channels");
	// Numbers as in src/fcqemu/qemu.c: 3 QMP, 4 report, 5 control, 6 removed, 7 backend, 8
	// state, 10 tap.
	uint64_t size = strtoull(get("size"), NULL, 10);
	int removed = memfd_create("removed", MFD_CLOEXEC);
	if (removed < 0 || ftruncate(removed, (off_t)((size / 4096 + 63) / 64 * 8)) < 0)
		die("memfd");
	snprintf(hook, sizeof hook, "STASIS_RAMHOOK=%s:%llu:4:6:7:5", *memory ? "file" : "uffd",
		(unsigned long long)size);
	snprintf(preload, sizeof preload, "LD_PRELOAD=%s", get("hook"));
	char *const env[] = {preload, hook, "LC_ALL=C", NULL};
	const int fds[] = {qmp[1], rep[1], control[1], removed, backend, state, -1, tap};
	char **qv = split(get("qemu"));
	pid_t qemu = start(qv, env, fds, 8);
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
	uint64_t at[5] = {begin, now()};
	stage = "the connection to the guest";
	int guest = connect_guest();
	at[2] = now();
	stage = "/init";
	init_guest(guest);
	at[3] = now();
	stage = "/bin/true";
	run_true(guest);
	at[4] = now();
	printf("%llu %ld", (unsigned long long)(at[4] - begin), private_dirty(qemu));
	for (int i = 1; i < 5; i++)
		printf(" %llu", (unsigned long long)(at[i] - at[i - 1]));
	putchar('\n');
	if (read(rep[0], report, 1) < 0)
		die("report");
	kill(qemu, SIGKILL);
	waitpid(qemu, NULL, 0);
	if (pager) {
		kill(pager, SIGKILL);
		waitpid(pager, NULL, 0);
	}
	return 0;
}
