// SPDX-License-Identifier: Apache-2.0
// The control plane: REST API, keys, desired state, edge. Reaches the host only through struct
// hostagent.
#pragma once
#include "base/err.h"
#include "hostagent/hostagent.h"

#define CONTROL_LISTEN_DEFAULT "127.0.0.1:7070"
#define CONTROL_ANSWER_MEMORY_DEFAULT (256ull << 20)
#define CONTROL_DOMAIN_DEFAULT "localhost"

struct control;
struct edge_limits;

struct control_config {
	const char *data_dir; // exists; control.db, secret, admin.key and lock are made in it
	const char *run_dir; // made when missing; control.sock, edge.sock and nginx/ are made in it
	const char *listen;  // address:port of the edge; NULL: CONTROL_LISTEN_DEFAULT
	const char *listen_plain, *listen_h2c, *tls_cert, *tls_key; // see struct edge_config
	const char *domain;		  // {port}-{id}.<domain>; NULL: CONTROL_DOMAIN_DEFAULT
	const char *nginx;		  // program; NULL: "nginx"
	const char *trusted;		  // see struct edge_config; NULL: its default
	const struct edge_limits *limits; // NULL: EDGE_LIMITS_DEFAULT
	uint64_t audit_size;		  // bytes of audit.log before it is moved aside; 0: 32 MiB
	uint64_t answer_memory;		  // bytes of output of commands under way; 0: 256 MiB
	const char *webhook_allow, *slot_range; // struct receiver_rules; NULL: none, the default
	bool ports_private; // those of new sandboxes, unless their create says otherwise
	bool no_edge;	    // only the socket: for tests and benchmarks
	struct hostagent host;
};

// Locks the data directory (the error names the holder's pid), opens the database, makes the first
// key, serves <run_dir>/control.sock and starts the edge. When it returns 0 requests are answered.
int control_start(const struct control_config *cfg, struct control **ret, struct err *e);
// Takes no new requests, lets running ones finish, ends the edge. The host is not touched.
struct control *control_stop(struct control *c);
DEFINE_CLEANUP(struct control *, control_stop)
// The edge takes the certificate and key as their files are now; where they are not good it keeps
// what it has.
int control_reload(struct control *c, struct err *e);
// Where clients connect, "127.0.0.1:7070", and the domain of sandbox hosts.
const char *control_listen(const struct control *c);
bool control_has_tls(const struct control *c);
const char *control_socket(const struct control *c);
