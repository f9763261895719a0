// SPDX-License-Identifier: Apache-2.0
// The API's socket and its connections, serial like Firecracker's: one request at a time is
// answered, in the order of each connection. Used inside the caller's poll loop.
#pragma once
#include <poll.h>
#include "fcqemu/api.h"

#define SERVER_CONNECTIONS_MAX 10u
#define SERVER_POLL_MAX (1 + SERVER_CONNECTIONS_MAX)

struct server_conn {
	int fd; // -1: free
	struct http1_parser parser;
	struct strbuf out;
	bool closing; // once everything is sent
};

struct server {
	int listen_fd;
	struct api *api;
	struct server_conn conns[SERVER_CONNECTIONS_MAX];
};

// Fails when the path exists, as Firecracker does.
int server_open(struct server *s, const char *path, struct api *api, struct err *e);
void server_close(struct server *s);
// Fills pf (SERVER_POLL_MAX entries) with what to wait for; entry i belongs to connection i - 1.
void server_poll_fill(const struct server *s, struct pollfd *pf);
// Whether an answer is still on its way.
bool server_is_sending(const struct server *s);
// Does what the returned events allow. Never blocks but in the API's own actions.
void server_poll_run(struct server *s, const struct pollfd *pf);
