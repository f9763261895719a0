// SPDX-License-Identifier: Apache-2.0
// nginx's configuration: written once, out of nginx.conf.in.
#pragma once
#include <pwd.h>
#include "base/err.h"

// Of requests under way at once, and of requests a second; a second's worth more may come at once.
// Beyond them they are answered 429. 0: no limit.
struct edge_limits {
	// Of one address (IPv6: one /64), that show no API key or token of the sandbox.
	unsigned address_connections, address_rate;
	// To one sandbox.
	unsigned sandbox_connections, sandbox_rate;
};
#define EDGE_LIMITS_DEFAULT                                                                        \
	((struct edge_limits){                                                                     \
		.address_connections = 128,                                                        \
		.address_rate = 300,                                                               \
		.sandbox_connections = 512,                                                        \
		.sandbox_rate = 1000,                                                              \
	})
// To one sandbox's agent at once; the agent takes more (envd.c).
#define EDGE_AGENT_CONNECTIONS 192u

struct edge_config {
	const char *nginx;	 // program; NULL: "nginx"
	const char *dir;	 // its own directory: configuration, pid, temporary files
	const char *listen;	 // IPv4 address:port
	const char *domain;	 // of sandbox hosts
	const char *socket;	 // the API server's
	const char *edge_socket; // of the server that answers the edge's own questions
	const char *key;	 // sent with each internal request as X-Stasis-Edge
	// Proxies whose X-Forwarded-* are believed: IPv4 addresses and CIDRs with ',' or blanks
	// between, or "none"; NULL: CONF_TRUSTED_DEFAULT.
	const char *trusted;
	const struct edge_limits *limits; // NULL: EDGE_LIMITS_DEFAULT
};

// A proxy on this machine. Nobody else connects where the edge listens on loopback alone; where it
// listens on more, strangers come from other addresses.
#define CONF_TRUSTED_DEFAULT "127.0.0.0/8"

// Whom nginx's workers run as where it is started by root; NULL: nobody suitable.
const struct passwd *conf_worker_user(struct passwd *pw, char *buf, size_t size);
// listen: address and port as nginx has them.
int conf_write(const char *path, const char *listen, const struct edge_config *cfg, struct err *e);
// nginx takes it.
int conf_check(const char *program, const char *dir, const char *path, struct err *e);
