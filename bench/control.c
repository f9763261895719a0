// SPDX-License-Identifier: Apache-2.0
// The control plane on a model host, so that nothing but HTTP, authentication, the lookup and the
// answer is measured.
//
//	bench-control api [seconds] [connections]	GET /v1/sandboxes/{id} at the API socket:
//							requests per CPU second of the server
//	bench-control edge [requests]			time that the edge adds to a request to a
//							guest's port, p50, one connection
//
// The server is a process of its own; its CPU time is utime + stime of /proc/PID/stat before and
// after. The floor of "api" is GET /v1/health, of "edge" the same request straight to the guest.
// No root needed; with nginx for "edge". Needs 2 cores for clean figures.
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include "../tests/unit/control/model.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "control/control.h"

#define EDGE_LISTEN "127.0.0.1:17079"
#define GUEST_IP "127.91.7.1"
#define GUEST_PORT 8080

struct server {
	char dir[32], data[48], run[48], socket[64], key[64], id[64];
	pid_t pid;
};

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void serve(struct server *s, bool edge, int ready_fd)
{
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	sigset_t stop;
	sigemptyset(&stop);
	sigaddset(&stop, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &stop, NULL);
	log_setup("bench-control", LOG_LEVEL_WARN);
	static struct model m;
	model_init(&m);
	snprintf(m.address, sizeof m.address, GUEST_IP);
	const struct control_config cfg = {.data_dir = s->data,
		.run_dir = s->run,
		.listen = EDGE_LISTEN,
		.no_edge = !edge,
		.host = model_host(&m)};
	struct control *c = NULL;
	struct err e = {0};
	if (control_start(&cfg, &c, &e) < 0) {
		fprintf(stderr, "%s\n", e.text);
		exit(1);
	}
	file_write_full(ready_fd, "r", 1);
	int sig;
	sigwait(&stop, &sig);
	control_stop(c);
	exit(0);
}

static int dial_unix(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a) < 0)
		die(path);
	return fd;
}

static int dial_tcp(const char *ip, uint16_t port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
	inet_pton(AF_INET, ip, &a.sin_addr);
	int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a) < 0)
		die(ip);
	return fd;
}

// One request, one answer with Content-Length; its body's start in *ret_body (may be NULL).
static void ask(int fd, const char *request, size_t len, char *buf, size_t size, char **ret_body)
{
	if (file_write_full(fd, request, len) < 0)
		die("write");
	size_t n = 0, want = SIZE_MAX;
	while (n < want) {
		ssize_t got = recv(fd, buf + n, size - 1 - n, 0);
		if (got <= 0)
			die("the server closed the connection");
		n += (size_t)got;
		buf[n] = '\0';
		char *end = want == SIZE_MAX ? strstr(buf, "\r\n\r\n") : NULL;
		if (!end)
			continue;
		char *length = strcasestr(buf, "content-length: ");
		want = (size_t)(end + 4 - buf) + (length ? strtoul(length + 16, NULL, 10) : 0);
		if (ret_body)
			*ret_body = end + 4;
	}
	if (!strstr(buf, " 200 ") && !strstr(buf, " 201 ")) {
		fprintf(stderr, "%s\n", buf);
		exit(1);
	}
}

static void start(struct server *s, bool edge)
{
	snprintf(s->dir, sizeof s->dir, "/tmp/bench.XXXXXX");
	if (!mkdtemp(s->dir))
		die("mkdtemp");
	snprintf(s->data, sizeof s->data, "%s/data", s->dir);
	snprintf(s->run, sizeof s->run, "%s/run", s->dir);
	snprintf(s->socket, sizeof s->socket, "%s/control.sock", s->run);
	file_mkdir_p(AT_FDCWD, s->data, 0700);
	chmod(s->dir, 0711); // for nginx's workers
	int ready[2];
	char c;
	if (pipe(ready) < 0)
		die("pipe");
	s->pid = fork();
	if (s->pid == 0)
		serve(s, edge, ready[1]);
	close(ready[1]);
	if (read(ready[0], &c, 1) != 1)
		exit(1);
	close(ready[0]);
	_cleanup_free_ char *path = str_printf("%s/admin.key", s->data);
	_cleanup_free_ char *key = NULL;
	if (file_read_line(AT_FDCWD, path, &key) < 0)
		die(path);
	snprintf(s->key, sizeof s->key, "%s", key);
	char req[300], buf[8192], *body;
	int n = snprintf(req, sizeof req,
		"POST /v1/sandboxes HTTP/1.1\r\nHost: x\r\nX-API-Key: %s\r\nContent-Length: "
		"0\r\n\r\n",
		key);
	_cleanup_close_ int fd = dial_unix(s->socket);
	ask(fd, req, (size_t)n, buf, sizeof buf, &body);
	json_t *j = json_loads(body, 0, NULL);
	snprintf(s->id, sizeof s->id, "%s", json_string_value(json_object_get(j, "id")));
	json_decref(j);
}

static void stop(struct server *s)
{
	kill(s->pid, SIGTERM);
	waitpid(s->pid, NULL, 0);
	file_rm_rf(AT_FDCWD, s->dir);
}

// --- api

struct load {
	struct server *s;
	const char *path;
	uint64_t until_ns, n;
};

static void *run_load(void *arg)
{
	struct load *l = arg;
	char req[300], buf[8192];
	int len = snprintf(req, sizeof req, "GET %s HTTP/1.1\r\nHost: x\r\nX-API-Key: %s\r\n\r\n",
		l->path, l->s->key);
	_cleanup_close_ int fd = dial_unix(l->s->socket);
	while (clock_monotonic_ns() < l->until_ns) {
		ask(fd, req, (size_t)len, buf, sizeof buf, NULL);
		l->n++;
	}
	return NULL;
}

static double cpu_seconds(pid_t pid)
{
	_cleanup_free_ char *path = str_printf("/proc/%d/stat", (int)pid), *line = NULL;
	unsigned long long user = 0, kernel = 0;
	if (file_read_line(AT_FDCWD, path, &line) < 0 ||
		sscanf(strrchr(line, ')') + 1,
			" %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &user,
			&kernel) != 2)
		die("stat");
	return (double)(user + kernel) / (double)sysconf(_SC_CLK_TCK);
}

static void measure_api(struct server *s, const char *path, unsigned seconds, unsigned n)
{
	pthread_t t[64];
	struct load l[64];
	uint64_t total = 0, begin = clock_monotonic_ns();
	double cpu = cpu_seconds(s->pid);
	n = MIN(n, 64);
	for (unsigned i = 0; i < n; i++) {
		l[i] = (struct load){s, path, begin + seconds * NSEC_PER_SEC, 0};
		pthread_create(&t[i], NULL, run_load, &l[i]);
	}
	for (unsigned i = 0; i < n; i++) {
		pthread_join(t[i], NULL);
		total += l[i].n;
	}
	cpu = cpu_seconds(s->pid) - cpu;
	double wall = (double)(clock_monotonic_ns() - begin) / 1e9;
	printf("%-32s %8.0f requests per CPU second   %8.0f per second   %u connections\n", path,
		(double)total / cpu, (double)total / wall, n);
}

// --- edge

static void *guest_connection(void *arg)
{
	_cleanup_close_ int fd = (int)(intptr_t)arg;
	static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
	char buf[8192];
	size_t n = 0;
	for (ssize_t got; (got = recv(fd, buf + n, sizeof buf - 1 - n, 0)) > 0;) {
		n += (size_t)got;
		buf[n] = '\0';
		if (!strstr(buf, "\r\n\r\n"))
			continue;
		if (send(fd, answer, sizeof answer - 1, MSG_NOSIGNAL) < 0)
			break;
		n = 0;
	}
	return NULL;
}

static void *guest(void *arg)
{
	int listener = (int)(intptr_t)arg;
	for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0;) {
		pthread_t t;
		int one = 1;
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
		pthread_create(&t, NULL, guest_connection, (void *)(intptr_t)fd);
		pthread_detach(t);
	}
	return NULL;
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return (x > y) - (x < y);
}

static double p50_us(int fd, const char *request, unsigned n)
{
	_cleanup_free_ uint64_t *ns = calloc(n, sizeof *ns);
	char buf[8192];
	for (unsigned i = 0; i < n; i++) {
		uint64_t begin = clock_monotonic_ns();
		ask(fd, request, strlen(request), buf, sizeof buf, NULL);
		ns[i] = clock_monotonic_ns() - begin;
	}
	qsort(ns, n, sizeof *ns, compare);
	return (double)ns[n / 2] / 1e3;
}

static void measure_edge(struct server *s, unsigned n)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(GUEST_PORT)};
	inet_pton(AF_INET, GUEST_IP, &a.sin_addr);
	int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(listener, (struct sockaddr *)&a, sizeof a) < 0 || listen(listener, 64) < 0)
		die("guest");
	pthread_t t;
	pthread_create(&t, NULL, guest, (void *)(intptr_t)listener);
	char request[300];
	snprintf(request, sizeof request,
		"GET / HTTP/1.1\r\nHost: x\r\nE2b-Sandbox-Id: %s\r\nE2b-Sandbox-Port: %d\r\n\r\n",
		s->id, GUEST_PORT);
	clock_sleep_ns(6 * NSEC_PER_SEC); // ports of young sandboxes are probed first
	_cleanup_close_ int straight = dial_tcp(GUEST_IP, GUEST_PORT);
	_cleanup_close_ int edge = dial_tcp("127.0.0.1", 17079);
	p50_us(edge, request, 200);
	double floor = p50_us(straight, request, n), with = p50_us(edge, request, n);
	printf("straight %.0f us, through the edge %.0f us, added %.0f us (p50 of %u)\n", floor,
		with, with - floor, n);
}

int main(int argc, char **argv)
{
	struct server s = {0};
	const char *what = argc > 1 ? argv[1] : "";
	unsigned long x = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;
	unsigned long y = argc > 3 ? strtoul(argv[3], NULL, 10) : 0;
	signal(SIGPIPE, SIG_IGN);
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (str_eq(what, "api")) {
		char path[100];
		start(&s, false);
		snprintf(path, sizeof path, "/v1/sandboxes/%s", s.id);
		measure_api(&s, "/v1/health", x ? (unsigned)x : 3, y ? (unsigned)y : 4);
		measure_api(&s, path, x ? (unsigned)x : 3, y ? (unsigned)y : 4);
	} else if (str_eq(what, "edge")) {
		start(&s, true);
		measure_edge(&s, x ? (unsigned)x : 2000);
	} else {
		fprintf(stderr,
			"usage: bench-control api [seconds] [connections] | edge [requests]\n");
		return 2;
	}
	stop(&s);
	return 0;
}
