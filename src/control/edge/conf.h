// SPDX-License-Identifier: Apache-2.0
// nginx's configuration: written at the start and at each reload, out of nginx.conf.in.
#pragma once
#include <pwd.h>
#include "base/err.h"
#include "control/edge/limits.h"
#include "control/edge/listen.h"
#include "control/edge/tls.h"

struct edge_config {
	const char *nginx;		// program; NULL: "nginx"
	const char *dir;		// its own directory: configuration, pid, temporary files
	const char *listen;		// address:port; speaks TLS where there is a certificate
	const char *listen_plain;	// beside that, never TLS; NULL: none
	const char *listen_h2c;		// HTTP/2 alone, without TLS; NULL: none
	const char *tls_cert, *tls_key; // PEM files; NULL: no TLS
	const char *domain;		// of sandbox hosts
	const char *socket;		// the API server's
	const char *edge_socket;	// of the server that answers the edge's own questions
	const char *key;		// sent with each internal request as X-Stasis-Edge
	// Proxies whose X-Forwarded-* are believed: addresses and CIDRs with ',' or blanks
	// between, or "none"; NULL: CONF_TRUSTED_DEFAULT.
	const char *trusted;
	const struct edge_limits *limits; // NULL: EDGE_LIMITS_DEFAULT
};

// A proxy on this machine. Nobody else connects where the edge listens on loopback alone; where it
// listens on more, strangers come from other addresses.
#define CONF_TRUSTED_DEFAULT "127.0.0.0/8, ::1"

// Whom nginx's workers run as where it is started by root; NULL: nobody suitable.
const struct passwd *conf_worker_user(struct passwd *pw, char *buf, size_t size);
enum conf_listener { CONF_LISTEN, CONF_PLAIN, CONF_H2C, CONF_LISTENERS };
// Where nginx listens, as parsed; port 0: not there.
struct conf_listeners {
	struct listen_address at[CONF_LISTENERS];
	struct tls_pair tls; // for at[CONF_LISTEN]
};
int conf_write(const char *path, const struct conf_listeners *listeners,
	const struct edge_config *cfg, struct err *e);
// nginx takes it.
int conf_check(const char *program, const char *dir, const char *path, struct err *e);
