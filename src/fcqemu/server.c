// SPDX-License-Identifier: Apache-2.0
#include "fcqemu/server.h"
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

static void conn_close(struct server_conn *c)
{
	c->fd = safe_close(c->fd);
	http1_done(&c->parser);
	strbuf_done(&c->out);
	*c = (struct server_conn){.fd = -1};
}

int server_open(struct server *s, const char *path, struct api *api, struct err *e)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	*s = (struct server){.listen_fd = -1, .api = api};
	for (size_t i = 0; i < SERVER_CONNECTIONS_MAX; i++)
		s->conns[i].fd = -1;
	if (str_format(sa.sun_path, sizeof sa.sun_path, "%s", path) < 0)
		return err_set(e, ERR_INVALID, "%s: longer than a socket's path may be", path);
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&sa, sizeof sa) < 0)
		return err_errno(
			e, errno, "cannot bind %s (remove what a former process left)", path);
	if (listen(fd, 64) < 0)
		return err_errno(e, errno, "listen on %s", path);
	s->listen_fd = TAKE_FD(fd);
	return 0;
}

void server_close(struct server *s)
{
	for (size_t i = 0; i < SERVER_CONNECTIONS_MAX; i++)
		if (s->conns[i].fd >= 0)
			conn_close(&s->conns[i]);
	s->listen_fd = safe_close(s->listen_fd);
}

void server_poll_fill(const struct server *s, struct pollfd *pf)
{
	pf[0] = (struct pollfd){.fd = s->listen_fd, .events = POLLIN};
	for (size_t i = 0; i < SERVER_CONNECTIONS_MAX; i++) {
		const struct server_conn *c = &s->conns[i];
		// A client that does not read its answers is not read from either.
		pf[1 + i] = (struct pollfd){.fd = c->fd, .events = c->out.len ? POLLOUT : POLLIN};
	}
}

bool server_is_sending(const struct server *s)
{
	for (size_t i = 0; i < SERVER_CONNECTIONS_MAX; i++)
		if (s->conns[i].fd >= 0 && s->conns[i].out.len)
			return true;
	return false;
}

static void accept_one(struct server *s)
{
	_cleanup_close_ int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0)
		return;
	for (size_t i = 0; i < SERVER_CONNECTIONS_MAX; i++)
		if (s->conns[i].fd < 0) {
			s->conns[i] = (struct server_conn){.fd = TAKE_FD(fd)};
			return;
		}
	if (send(fd, http1_too_many, strlen(http1_too_many), MSG_NOSIGNAL) < 0) {
		// it is closed either way
	}
}

static void conn_write(struct server_conn *c)
{
	while (c->out.len) {
		ssize_t n = RETRY_EINTR(send(c->fd, c->out.data, c->out.len, MSG_NOSIGNAL));
		if (n < 0 && errno == EAGAIN)
			return;
		if (n < 0 || strbuf_check(&c->out) < 0) {
			conn_close(c);
			return;
		}
		strbuf_consume(&c->out, (size_t)n);
	}
	if (c->closing)
		conn_close(c);
}

// Answers what has been received until an answer cannot be sent at once.
static void conn_run(struct server *s, struct server_conn *c)
{
	while (c->fd >= 0 && !c->closing && c->out.len == 0 && !s->api->ended) {
		struct http1_request r = {0};
		int rc = http1_next(&c->parser, &r);
		if (rc == 0 && !c->parser.want_continue)
			return;
		if (rc == 0) {
			c->parser.want_continue = false;
			http1_answer_continue(&c->out);
		} else if (rc < 0) {
			http1_answer_error(&c->out, c->parser.error);
			c->closing = true;
		} else {
			api_handle(s->api, &r, &c->out);
			http1_request_done(&r);
		}
		conn_write(c);
	}
}

static void conn_read(struct server *s, struct server_conn *c)
{
	char buf[16384];
	ssize_t n = RETRY_EINTR(recv(c->fd, buf, sizeof buf, 0));
	if (n < 0 && errno == EAGAIN)
		return;
	if (n <= 0 || http1_feed(&c->parser, buf, (size_t)n) < 0) {
		conn_close(c);
		return;
	}
	conn_run(s, c);
}

void server_poll_run(struct server *s, const struct pollfd *pf)
{
	for (size_t i = 0; i < SERVER_CONNECTIONS_MAX; i++) {
		struct server_conn *c = &s->conns[i];
		if (c->fd < 0 || !pf[1 + i].revents)
			continue;
		if (c->out.len) {
			conn_write(c);
			conn_run(s, c); // requests that came behind the one just answered
		} else {
			conn_read(s, c);
		}
	}
	if (pf[0].revents)
		accept_one(s);
}
