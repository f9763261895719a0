// SPDX-License-Identifier: Apache-2.0
// The server over real Unix sockets, spoken to byte by byte.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <fcntl.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/un.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "http/server.h"

struct fixture {
	char dir[32], path[64];
	struct http_server *server;
	atomic_int streams_freed, streams_made, done_calls, last_status, slow_entered;
	atomic_ulong sunk;
	int gate[2]; // a byte lets the gated stream go on
};

static void on_echo(struct http_request *r, void *ctx)
{
	size_t len;
	const void *body = http_req_body(r, &len);
	http_reply_header(r, "X-Method", http_req_method(r));
	http_reply_data(r, 200, "application/octet-stream", body, len);
}

static void on_item(struct http_request *r, void *ctx)
{
	const char *q = http_req_query(r, "q");
	http_reply_json(
		r, 200, json_pack("{s:s, s:s}", "id", http_req_param(r, "id"), "q", q ? q : "-"));
}

static void on_rest(struct http_request *r, void *ctx)
{
	http_reply_json(r, 200, json_pack("{s:s}", "rest", http_req_param(r, "path")));
}

static void on_silent(struct http_request *r, void *ctx)
{
}

static void on_empty(struct http_request *r, void *ctx)
{
	http_reply_empty(r, 202);
}

static void on_json(struct http_request *r, void *ctx)
{
	json_t *j = NULL;
	struct err e = {0};
	if (http_req_json(r, true, &j, &e) < 0)
		http_reply_error(r, &e);
	else
		http_reply_json(r, 200, j);
}

static void on_file(struct http_request *r, void *ctx)
{
	int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	http_reply_fd(r, 200, "application/octet-stream", fd, 1, 3);
}

// 5 bytes, whatever was promised.
static void on_other_length(struct http_request *r, void *ctx)
{
	uint64_t length = 0;
	int fd = memfd_create("five", MFD_CLOEXEC);
	assert_int_equal(file_write_full(fd, "1500\n", 5), 0);
	assert_int_equal(str_to_u64(http_req_query(r, "length"), UINT64_MAX, &length), 0);
	http_reply_fd(r, 200, "application/octet-stream", fd, 0, length);
}

static void on_slow(struct http_request *r, void *ctx)
{
	struct fixture *f = ctx;
	f->slow_entered = 1;
	char c;
	assert_int_equal(read(f->gate[0], &c, 1), 1);
	http_reply_data(r, 200, "text/plain", "slow", 4);
}

static void on_sink_start(struct http_request *r, void *ctx)
{
	if (http_req_query(r, "refuse")) {
		struct err e = {0};
		err_set(&e, ERR_CONFLICT, "refused before the body");
		http_reply_error(r, &e);
	}
}

static int on_sink(struct http_request *r, void *ctx, const void *data, size_t len)
{
	struct fixture *f = ctx;
	if (len == 0) {
		http_reply_empty(r, 204);
		return 0;
	}
	f->sunk += len;
	if (http_req_query(r, "full"))
		return -ENOSPC;
	return 0;
}

struct stream {
	struct fixture *f;
	struct http_request *req;
	int n;
};

static ssize_t gated_next(void *p, char *buf, size_t max)
{
	struct stream *s = p;
	if (s->n++ == 3)
		return 0;
	for (;;) {
		struct pollfd pf[2] = {{.fd = s->f->gate[0], .events = POLLIN},
			{.fd = http_req_socket(s->req), .events = POLLRDHUP}};
		poll(pf, 2, 50);
		if (http_req_aborted(s->req))
			return -ECONNRESET;
		if (http_req_closing(s->req))
			return 0;
		if (pf[0].revents & POLLIN)
			break;
	}
	char c;
	if (read(s->f->gate[0], &c, 1) != 1)
		return -EIO;
	return snprintf(buf, max, "piece%d\n", s->n);
}

static ssize_t broken_next(void *p, char *buf, size_t max)
{
	struct stream *s = p;
	if (s->n++)
		return -EIO;
	memcpy(buf, "part", 4);
	return 4;
}

static void stream_free(void *p)
{
	struct stream *s = p;
	s->f->streams_freed++;
	free(s);
}

static void on_stream(struct http_request *r, void *ctx)
{
	struct stream *s = calloc(1, sizeof *s);
	s->f = ctx;
	s->req = r;
	s->f->streams_made++;
	http_reply_stream(r, 200, "text/plain",
		http_req_query(r, "broken") ? broken_next : gated_next, s, stream_free);
}

static const struct http_route routes[] = {
	{.method = "POST", .pattern = "/echo", .handler = on_echo, .body_limit = 100000},
	{.method = "GET", .pattern = "/items/{id}", .handler = on_item, .flags = 2},
	{.method = "DELETE", .pattern = "/items/{id}", .handler = on_silent},
	{.method = "GET", .pattern = "/rest/{path...}", .handler = on_rest},
	{.method = "POST", .pattern = "/empty", .handler = on_empty},
	{.method = "POST", .pattern = "/json", .handler = on_json},
	{.method = "GET", .pattern = "/file", .handler = on_file},
	{.method = "GET", .pattern = "/five", .handler = on_other_length},
	{.method = "GET", .pattern = "/slow", .handler = on_slow},
	{.method = "GET", .pattern = "/stream", .handler = on_stream},
	{.method = "PUT",
		.pattern = "/sink",
		.handler = on_sink_start,
		.body = on_sink,
		.body_limit = SIZE_MAX},
	{.method = "*", .pattern = "/secret", .handler = on_echo, .flags = 1},
};

static bool before(struct http_request *r, const struct http_route *route, void *ctx)
{
	if (!(route->flags & 1))
		return false;
	struct err e = {0};
	err_set(&e, ERR_UNAUTHENTICATED, "no key");
	http_reply_error(r, &e);
	return true;
}

static void done(struct http_request *r, int status, uint64_t ns, void *ctx)
{
	struct fixture *f = ctx;
	f->last_status = status;
	f->done_calls++;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof *f);
	snprintf(f->dir, sizeof f->dir, "/tmp/http.XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	assert_int_equal(pipe(f->gate), 0);
	snprintf(f->path, sizeof f->path, "%s/s", f->dir);
	struct err e = {0};
	int fd = http_listen_unix(f->path, 0600, &e);
	assert_true(fd >= 0);
	struct stat st;
	assert_int_equal(stat(f->path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	struct http_server_config cfg = {
		.routes = routes,
		.n_routes = ARRAY_SIZE(routes),
		.ctx = f,
		.listen_fd = fd,
		.before = before,
		.done = done,
	};
	assert_int_equal(http_server_start(&cfg, &f->server, &e), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	f->server = http_server_free(f->server);
	assert_int_equal(f->streams_made, f->streams_freed);
	close(f->gate[0]);
	close(f->gate[1]);
	file_rm_rf(AT_FDCWD, f->dir);
	free(f);
	return 0;
}

static int dial(struct fixture *f)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	snprintf(a.sun_path, sizeof a.sun_path, "%s", f->path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct timeval tv = {.tv_sec = 10};
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
	return fd;
}

static void say(int fd, const char *s)
{
	assert_int_equal(file_write_full(fd, s, strlen(s)), 0);
}

// Reads until the text holds the mark or the end of the connection.
static char *hear(int fd, const char *mark, char *buf, size_t size)
{
	size_t n = 0;
	buf[0] = '\0';
	while (n + 1 < size) {
		ssize_t r = recv(fd, buf + n, size - 1 - n, 0);
		if (r <= 0)
			break;
		n += (size_t)r;
		buf[n] = '\0';
		if (mark && strstr(buf, mark))
			break;
	}
	return buf;
}

static char *ask(struct fixture *f, const char *request, char *buf, size_t size)
{
	int fd = dial(f);
	say(fd, request);
	hear(fd, NULL, buf, size);
	close(fd);
	return buf;
}

#define CLOSE "Host: x\r\nConnection: close\r\n\r\n"
#define assert_has(text, part)                                                                     \
	do {                                                                                       \
		if (!strstr(text, part))                                                           \
			fail_msg("no '%s' in:\n%s", part, text);                                   \
	} while (0)

static void test_routes(void **state)
{
	struct fixture *f = *state;
	char b[4096];
	ask(f, "GET /items/a%2Fb%20c?q=1+2%26&z HTTP/1.1\r\n" CLOSE, b, sizeof b);
	assert_has(b, "HTTP/1.1 200");
	assert_has(b, "{\"id\":\"a/b c\",\"q\":\"1 2&\"}");
	ask(f, "GET /rest/a/b%2fc HTTP/1.1\r\n" CLOSE, b, sizeof b);
	assert_has(b, "{\"rest\":\"a/b/c\"}");
	ask(f, "GET /rest/ HTTP/1.1\r\n" CLOSE, b, sizeof b);
	assert_has(b, "{\"rest\":\"\"}");
	ask(f, "GET /items/ HTTP/1.1\r\n" CLOSE, b, sizeof b);
	assert_has(b, "404");
	ask(f, "GET /items HTTP/1.1\r\n" CLOSE, b, sizeof b);
	assert_has(b, "404");
	ask(f, "GET /items/a/b HTTP/1.1\r\n" CLOSE, b, sizeof b);
	assert_has(b, "404");
	assert_has(b, "\"code\":\"not_found\"");
	ask(f, "POST /items/a HTTP/1.1\r\nContent-Length: 0\r\n" CLOSE, b, sizeof b);
	assert_has(b, "HTTP/1.1 405");
	assert_has(b, "Allow: GET, DELETE\r\n");
}

static void test_bad_escapes(void **state)
{
	struct fixture *f = *state;
	static const char *const bad[] = {
		"/items/%zz", "/items/a%00b", "/items/%", "/items/a?q=%00", "/items/a?q=%4"};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		char req[256], b[4096];
		snprintf(req, sizeof req, "GET %s HTTP/1.1\r\n" CLOSE, bad[i]);
		assert_has(ask(f, req, b, sizeof b), "HTTP/1.1 400");
	}
}

static void test_head_is_get_without_body(void **state)
{
	struct fixture *f = *state;
	char b[4096];
	ask(f, "HEAD /items/a HTTP/1.1\r\n" CLOSE, b, sizeof b);
	assert_has(b, "HTTP/1.1 200");
	assert_null(strstr(b, "\"id\""));
}

static void test_bodies(void **state)
{
	struct fixture *f = *state;
	char b[8192];
	ask(f,
		"POST /echo HTTP/1.1\r\nContent-Length: 5\r\nHost: x\r\nConnection: "
		"close\r\n\r\nhello",
		b, sizeof b);
	assert_has(b, "\r\n\r\nhello");
	ask(f,
		"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\nHost: x\r\nConnection: "
		"close\r\n\r\n"
		"3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n",
		b, sizeof b);
	assert_has(b, "\r\n\r\nabcdefg");
	// An extension of a chunk is left out, or refused: libmicrohttpd 1.0.1 does that.
	ask(f,
		"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\nHost: x\r\nConnection: "
		"close\r\n\r\n"
		"3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\n\r\n",
		b, sizeof b);
	assert_has(b, MHD_get_version()[0] == '0' ? "\r\n\r\nabcdefg" : "HTTP/1.1 400");
	ask(f, "POST /empty HTTP/1.1\r\nContent-Length: 0\r\n" CLOSE, b, sizeof b);
	assert_has(b, "HTTP/1.1 202");
	assert_has(b, "Content-Length: 0\r\n");
	ask(f, "GET /file HTTP/1.1\r\n" CLOSE, b, sizeof b);
	assert_has(b, "\r\n\r\nELF");
}

// The client keeps its connection: only an end of it can tell that the body is short.
static void test_files_of_another_length(void **state)
{
	struct fixture *f = *state;
	char b[4096];
	static const char *const more[] = {"4096", "6", "9223372036854775807"};
	for (size_t i = 0; i < ARRAY_SIZE(more); i++) {
		int fd = dial(f);
		snprintf(b, sizeof b, "GET /five?length=%s HTTP/1.1\r\nHost: x\r\n\r\n", more[i]);
		say(fd, b);
		assert_has(hear(fd, "1500\n", b, sizeof b), more[i]);
		assert_has(b, "\r\n\r\n1500\n");
		assert_int_equal(recv(fd, b, sizeof b, 0), 0);
		close(fd);
	}
	ask(f, "GET /five?length=4 HTTP/1.1\r\n" CLOSE, b, sizeof b);
	assert_has(b, "Content-Length: 4\r\n");
	assert_true(str_ends(b, "\r\n\r\n1500"));
	ask(f, "GET /five?length=0 HTTP/1.1\r\n" CLOSE, b, sizeof b);
	assert_has(b, "Content-Length: 0\r\n");
}

static void test_expect_continue(void **state)
{
	struct fixture *f = *state;
	char b[8192];
	int fd = dial(f);
	say(fd, "POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: "
		"2\r\n\r\n");
	assert_has(hear(fd, "\r\n\r\n", b, sizeof b), "100 Continue");
	say(fd, "ok");
	assert_has(hear(fd, "ok", b, sizeof b), "HTTP/1.1 200");
	close(fd);
	// A refusal comes instead of the 100, and nothing of the body is wanted.
	fd = dial(f);
	say(fd, "POST /secret HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: "
		"1000000\r\n\r\n");
	hear(fd, NULL, b, sizeof b);
	assert_has(b, "HTTP/1.1 401");
	assert_null(strstr(b, "100 Continue"));
	close(fd);
}

struct upload {
	int fd;
	size_t left;
};

static void *pump(void *p)
{
	struct upload *u = p;
	static const char zeros[65536];
	while (u->left) {
		ssize_t n = send(u->fd, zeros, MIN(u->left, sizeof zeros), MSG_NOSIGNAL);
		if (n <= 0)
			break;
		u->left -= (size_t)n;
	}
	return NULL;
}

// Sends a body of len zeros while reading; the answer, and how much could be sent.
static size_t upload(struct fixture *f, const char *path, size_t len, char *b, size_t size)
{
	char head[256];
	snprintf(head, sizeof head,
		"%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n", path,
		len);
	struct upload u = {.fd = dial(f), .left = len};
	say(u.fd, head);
	pthread_t t;
	pthread_create(&t, NULL, pump, &u);
	hear(u.fd, NULL, b, size);
	pthread_join(t, NULL);
	close(u.fd);
	return len - u.left;
}

static void test_refusals_with_body(void **state)
{
	struct fixture *f = *state;
	char b[8192];
	size_t len = 8u << 20;
	// Each refusal is read by a client that sends its whole body first.
	assert_int_equal(upload(f, "POST /secret", len, b, sizeof b), len);
	assert_has(b, "HTTP/1.1 401");
	assert_int_equal(upload(f, "POST /nowhere", len, b, sizeof b), len);
	assert_has(b, "HTTP/1.1 404");
	assert_int_equal(upload(f, "POST /echo", len, b, sizeof b), len);
	assert_has(b, "HTTP/1.1 413");
	assert_has(b, "too_large");
	assert_int_equal(upload(f, "PUT /sink?refuse=1", len, b, sizeof b), len);
	assert_has(b, "HTTP/1.1 409");
	assert_int_equal(upload(f, "PUT /sink?full=1", len, b, sizeof b), len);
	assert_has(b, "HTTP/1.1 507");
}

static void test_chunked_over_limit(void **state)
{
	struct fixture *f = *state;
	char b[8192];
	int fd = dial(f);
	say(fd, "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: "
		"close\r\n\r\n");
	static const char block[50000] = {0};
	for (int i = 0; i < 3; i++) {
		say(fd, "c350\r\n");
		assert_int_equal(file_write_full(fd, block, sizeof block), 0);
		say(fd, "\r\n");
	}
	say(fd, "0\r\n\r\n");
	assert_has(hear(fd, NULL, b, sizeof b), "HTTP/1.1 413");
	close(fd);
}

static void test_streaming_upload(void **state)
{
	struct fixture *f = *state;
	char b[8192];
	size_t len = 20u << 20;
	assert_int_equal(upload(f, "PUT /sink", len, b, sizeof b), len);
	assert_has(b, "HTTP/1.1 204");
	assert_int_equal(f->sunk, len);
}

// The answer comes, and the connection ends, while the client still owes its body.
static void test_refusals_do_not_wait_for_the_body(void **state)
{
	struct fixture *f = *state;
	static const struct {
		const char *request, *status;
	} refusals[] = {
		{"POST /secret", "HTTP/1.1 401"},
		{"POST /nowhere", "HTTP/1.1 404"},
		{"PUT /echo", "HTTP/1.1 405"},
		{"POST /items/%zz", "HTTP/1.1 400"},
		{"PUT /sink?refuse=1", "HTTP/1.1 409"},
		{"POST /echo", "HTTP/1.1 413"},
	};
	static const char *const bodies[] = {"Content-Length: 1000000\r\n\r\n",
		"Content-Length: 1000000\r\n\r\nx", "Transfer-Encoding: chunked\r\n\r\n",
		"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", "Content-Length: 3\r\n\r\nab"};
	char b[8192], head[256];
	for (size_t i = 0; i < ARRAY_SIZE(refusals); i++)
		for (size_t k = 0; k < ARRAY_SIZE(bodies); k++) {
			// Too large is only what says so before.
			if (strstr(refusals[i].status, "413") && k > 1)
				continue;
			int fd = dial(f);
			snprintf(head, sizeof head, "%s HTTP/1.1\r\nHost: x\r\n%s",
				refusals[i].request, bodies[k]);
			say(fd, head);
			assert_has(hear(fd, "\r\n\r\n", b, sizeof b), refusals[i].status);
			assert_has(b, "Connection: close");
			hear(fd, NULL, b, sizeof b);
			char c;
			assert_int_equal(recv(fd, &c, 1, 0), 0);
			close(fd);
		}
}

static bool is_owner(const struct sockaddr *peer, void *ctx)
{
	struct in_addr owner = {htonl(INADDR_LOOPBACK + 1)};
	const struct sockaddr_in *in = (const void *)peer;
	return in->sin_family == AF_INET && in->sin_addr.s_addr == owner.s_addr;
}

// Another server, at a port of the loopback, where 127.0.0.2 is the owner.
struct narrow {
	struct fixture *f;
	struct http_server *server;
	struct sockaddr_in at;
};

static struct narrow narrow_start(struct fixture *f, struct http_server_config cfg)
{
	struct narrow n = {.f = f};
	struct err e = {0};
	socklen_t len = sizeof n.at;
	cfg.routes = routes;
	cfg.n_routes = ARRAY_SIZE(routes);
	cfg.ctx = f;
	cfg.before = before;
	cfg.listen_fd = http_listen_tcp("127.0.0.1", 0, &e);
	assert_true(cfg.listen_fd >= 0);
	assert_int_equal(getsockname(cfg.listen_fd, (struct sockaddr *)&n.at, &len), 0);
	assert_int_equal(http_server_start(&cfg, &n.server, &e), 0);
	return n;
}

static int narrow_dial(const struct narrow *n, bool owner)
{
	struct sockaddr_in from = {
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK + (owner ? 1 : 2))};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct timeval tv = {.tv_sec = 60};
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
	assert_int_equal(bind(fd, (struct sockaddr *)&from, sizeof from), 0);
	assert_int_equal(connect(fd, (const struct sockaddr *)&n->at, sizeof n->at), 0);
	return fd;
}

static bool narrow_ask(const struct narrow *n, bool owner, const char *request, const char *status)
{
	char b[8192];
	int fd = narrow_dial(n, owner);
	ssize_t sent = send(fd, request, strlen(request), MSG_NOSIGNAL);
	hear(fd, NULL, b, sizeof b);
	close(fd);
	return sent > 0 && strstr(b, status);
}

#define ITEM "GET /items/x HTTP/1.1\r\n" CLOSE

static void test_silent_strangers_leave_places_for_others(void **state)
{
	struct narrow n = narrow_start(
		*state, (struct http_server_config){
				.is_favoured = is_owner, .max_others = 4, .max_connections = 16});
	int fd[40];
	for (size_t i = 0; i < ARRAY_SIZE(fd); i++)
		fd[i] = narrow_dial(&n, false);
	for (int i = 0; i < 3; i++)
		assert_true(narrow_ask(&n, true, ITEM, "HTTP/1.1 200"));
	assert_true(http_server_connections(n.server) <= 5);
	assert_false(narrow_ask(&n, false, ITEM, "HTTP/1.1 200"));
	for (size_t i = 0; i < ARRAY_SIZE(fd); i++)
		close(fd[i]);
	while (!narrow_ask(&n, false, ITEM, "HTTP/1.1 200"))
		clock_sleep_ns(10 * NSEC_PER_MSEC);
	http_server_free(n.server);
}

static void test_places_that_are_kept(void **state)
{
	// Which flags the routes have is theirs: those of /items are 2.
	struct narrow n = narrow_start(
		*state, (struct http_server_config){
				.max_connections = 8, .reserve = 4, .reserve_flags = 2});
	int fd[5];
	for (size_t i = 0; i < ARRAY_SIZE(fd); i++) {
		fd[i] = narrow_dial(&n, true);
		// So that it is counted.
		say(fd[i], "GET /items/x HTTP/1.1\r\nHost: x\r\n\r\n");
		char b[8192];
		assert_has(hear(fd[i], "}", b, sizeof b), "HTTP/1.1 200");
	}
	assert_true(narrow_ask(&n, true, "POST /echo HTTP/1.1\r\n" CLOSE, "HTTP/1.1 429"));
	assert_true(narrow_ask(&n, true, ITEM, "HTTP/1.1 200"));
	for (size_t i = 0; i < ARRAY_SIZE(fd); i++)
		close(fd[i]);
	while (!narrow_ask(&n, true, "POST /echo HTTP/1.1\r\n" CLOSE, "HTTP/1.1 200"))
		clock_sleep_ns(10 * NSEC_PER_MSEC);
	http_server_free(n.server);
}

static void test_silence_ends_a_connection(void **state)
{
	struct fixture *f = *state;
	struct narrow n = narrow_start(
		f, (struct http_server_config){.idle_timeout_s = 1, .body_timeout_s = 1});
	static const char *const begun[] = {"", "GET /items/x HT",
		"GET /items/x HTTP/1.1\r\nHost: x\r\n",
		"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx",
		"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nx"};
	char b[8192];
	int fd[ARRAY_SIZE(begun)], kept = narrow_dial(&n, true), slow = narrow_dial(&n, true),
				   stream, upload = narrow_dial(&n, true);
	for (size_t i = 0; i < ARRAY_SIZE(begun); i++) {
		fd[i] = narrow_dial(&n, true);
		say(fd[i], begun[i]);
	}
	say(kept, "GET /items/x HTTP/1.1\r\nHost: x\r\n\r\n");
	assert_has(hear(kept, "}", b, sizeof b), "HTTP/1.1 200");
	say(upload, "PUT /sink HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nx");
	say(slow, "GET /slow HTTP/1.1\r\n" CLOSE);
	for (size_t i = 0; i < ARRAY_SIZE(begun); i++) {
		hear(fd[i], NULL, b, sizeof b);
		assert_null(strstr(b, "HTTP/1.1 200"));
		close(fd[i]);
	}
	assert_string_equal(hear(kept, NULL, b, sizeof b), "");
	// Neither a handler that takes its time nor a stream is silence.
	clock_sleep_ns(1500 * NSEC_PER_MSEC);
	assert_int_equal(write(f->gate[1], "x", 1), 1);
	assert_has(hear(slow, NULL, b, sizeof b), "slow");
	stream = narrow_dial(&n, true);
	say(stream, "GET /stream HTTP/1.1\r\n" CLOSE);
	assert_int_equal(write(f->gate[1], "x", 1), 1);
	assert_has(hear(stream, "piece1", b, sizeof b), "HTTP/1.1 200");
	clock_sleep_ns(1500 * NSEC_PER_MSEC);
	assert_int_equal(write(f->gate[1], "xx", 2), 2);
	assert_has(hear(stream, NULL, b, sizeof b), "piece3");
	say(upload, "y");
	assert_has(hear(upload, "\r\n\r\n", b, sizeof b), "HTTP/1.1 204");
	close(kept);
	close(slow);
	close(stream);
	close(upload);
	http_server_free(n.server);
}

static void test_bodies_have_a_budget(void **state)
{
	struct narrow n = narrow_start(*state, (struct http_server_config){.body_budget = 150000});
	static const char post[] = "POST /echo HTTP/1.1\r\nHost: x\r\n";
	static char zeros[60000];
	char head[200], b[8192];
	int fd[2];
	memset(zeros, 'z', sizeof zeros);
	snprintf(head, sizeof head, "%sContent-Length: %zu\r\n\r\n", post, sizeof zeros + 1);
	for (size_t i = 0; i < ARRAY_SIZE(fd); i++) {
		fd[i] = narrow_dial(&n, true);
		say(fd[i], head);
		assert_int_equal(file_write_full(fd[i], zeros, sizeof zeros), 0);
	}
	// Until both are there: then there is no room for a third, announced or not.
	while (!narrow_ask(&n, true, head, "HTTP/1.1 429"))
		clock_sleep_ns(10 * NSEC_PER_MSEC);
	int third = narrow_dial(&n, true);
	snprintf(head, sizeof head, "%sTransfer-Encoding: chunked\r\n\r\n%zx\r\n", post,
		sizeof zeros);
	say(third, head);
	assert_int_equal(file_write_full(third, zeros, sizeof zeros), 0);
	say(third, "\r\n0\r\n\r\n");
	assert_has(hear(third, "limit", b, sizeof b), "HTTP/1.1 429");
	assert_has(b, "Retry-After: 1");
	close(third);
	// A small one fits, and the two are answered.
	assert_true(narrow_ask(&n, true,
		"POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: "
		"2\r\n\r\nok",
		"HTTP/1.1 200"));
	for (size_t i = 0; i < ARRAY_SIZE(fd); i++) {
		say(fd[i], "!");
		assert_has(hear(fd[i], "\r\n\r\n", b, sizeof b), "HTTP/1.1 200");
		close(fd[i]);
	}
	// What they held is free again.
	snprintf(
		head, sizeof head, "%sExpect: 100-continue\r\nContent-Length: 90000\r\n\r\n", post);
	do {
		fd[0] = narrow_dial(&n, true);
		say(fd[0], head);
		hear(fd[0], "\r\n\r\n", b, sizeof b);
		close(fd[0]);
	} while (strstr(b, "HTTP/1.1 429"));
	assert_has(b, "100 Continue");
	http_server_free(n.server);
}

static void test_json(void **state)
{
	struct fixture *f = *state;
	char b[8192], req[1024];
	static const struct {
		const char *body, *want;
	} cases[] = {
		{"", "\r\n\r\n{}"},
		{"{\"a\":1}", "{\"a\":1}"},
		{"[1]", "request body: must be a JSON object"},
		{"{\"a\":1,\"a\":2}", "HTTP/1.1 400"},
		{"{\"a\":\"\\u0000\"}", "HTTP/1.1 400"},
		{"{", "HTTP/1.1 400"},
		{"{\"a\":\"\xff\"}", "HTTP/1.1 400"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		snprintf(req, sizeof req,
			"POST /json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
			"Content-Length: %zu\r\n\r\n%s",
			strlen(cases[i].body), cases[i].body);
		assert_has(ask(f, req, b, sizeof b), cases[i].want);
	}
}

static void test_deep_json_is_refused(void **state)
{
	struct fixture *f = *state;
	_cleanup_strbuf_ struct strbuf req = {0};
	char b[8192];
	strbuf_adds(&req, "POST /json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
			  "Content-Length: 100000\r\n\r\n{\"a\":");
	for (int i = 0; i < 99995; i++)
		strbuf_addc(&req, '[');
	assert_has(ask(f, req.data, b, sizeof b), "nested deeper");
}

static void test_forgotten_reply_is_500(void **state)
{
	struct fixture *f = *state;
	char b[4096];
	assert_has(ask(f, "DELETE /items/a HTTP/1.1\r\n" CLOSE, b, sizeof b), "HTTP/1.1 500");
	assert_int_equal(f->last_status, 500);
}

static void test_stream_arrives_at_once(void **state)
{
	struct fixture *f = *state;
	char b[4096];
	int fd = dial(f);
	say(fd, "GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
	// The headers are there before the first piece exists, each piece before the next.
	assert_has(hear(fd, "\r\n\r\n", b, sizeof b), "HTTP/1.1 200");
	for (int i = 1; i <= 3; i++) {
		char want[16];
		assert_int_equal(write(f->gate[1], "x", 1), 1);
		snprintf(want, sizeof want, "piece%d\n", i);
		// The end follows the last piece without waiting.
		assert_has(hear(fd, i < 3 ? want : "\r\n0\r\n\r\n", b, sizeof b), want);
	}
	// The connection lives on.
	say(fd, "GET /items/x HTTP/1.1\r\nHost: x\r\n\r\n");
	assert_has(hear(fd, "\"id\"", b, sizeof b), "HTTP/1.1 200");
	close(fd);
}

static bool wait_for(atomic_int *value, int want)
{
	for (int i = 0; i < 1000 && *value != want; i++)
		clock_sleep_ns(10 * NSEC_PER_MSEC);
	return *value == want;
}

static void test_aborted_stream_is_freed(void **state)
{
	struct fixture *f = *state;
	char b[4096];
	int fd = dial(f);
	say(fd, "GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
	hear(fd, "\r\n\r\n", b, sizeof b);
	close(fd);
	assert_true(wait_for(&f->streams_freed, 1));
}

static void test_broken_stream_is_cut(void **state)
{
	struct fixture *f = *state;
	char b[4096];
	ask(f, "GET /stream?broken=1 HTTP/1.1\r\nHost: x\r\n\r\n", b, sizeof b);
	assert_has(b, "part");
	assert_null(strstr(b, "\r\n0\r\n"));
	assert_true(wait_for(&f->streams_freed, 1));
}

static void *stop_server(void *p)
{
	struct fixture *f = p;
	f->server = http_server_free(f->server);
	return NULL;
}

static void test_stop_lets_handlers_finish(void **state)
{
	struct fixture *f = *state;
	char b[4096];
	int slow = dial(f), idle = dial(f), stream = dial(f);
	say(slow, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n");
	assert_true(wait_for(&f->slow_entered, 1));
	say(stream, "GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
	hear(stream, "\r\n\r\n", b, sizeof b);
	pthread_t t;
	pthread_create(&t, NULL, stop_server, f);
	assert_true(wait_for(&f->streams_freed, 1)); // it ends by http_req_closing
	assert_int_equal(write(f->gate[1], "x", 1), 1);
	assert_has(hear(slow, NULL, b, sizeof b), "slow");
	pthread_join(t, NULL);
	close(slow);
	close(idle);
	close(stream);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_routes),
		T(test_bad_escapes),
		T(test_head_is_get_without_body),
		T(test_bodies),
		T(test_files_of_another_length),
		T(test_expect_continue),
		T(test_refusals_with_body),
		T(test_chunked_over_limit),
		T(test_streaming_upload),
		T(test_refusals_do_not_wait_for_the_body),
		T(test_silent_strangers_leave_places_for_others),
		T(test_places_that_are_kept),
		T(test_silence_ends_a_connection),
		T(test_bodies_have_a_budget),
		T(test_json),
		T(test_deep_json_is_refused),
		T(test_forgotten_reply_is_500),
		T(test_stream_arrives_at_once),
		T(test_aborted_stream_is_freed),
		T(test_broken_stream_is_cut),
		T(test_stop_lets_handlers_finish),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
