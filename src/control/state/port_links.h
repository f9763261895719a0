// SPDX-License-Identifier: Apache-2.0
// One-time links to ports of private sandboxes that nobody has visited yet. They are in memory
// alone, and only as hashes of their codes: a restart of the server forgets them, so that none can
// be used twice.
#pragma once
#include "base/err.h"
#include "base/hash.h"

#define PORT_LINK_MAX 4096	 // of all sandboxes
#define PORT_LINK_MAX_SANDBOX 64 // of one
#define PORT_LINK_MAX_TTL_SEC 86400u
#define PORT_LINK_MAX_PATH 1000 // bytes
#define PORT_LINK_CODE_SIZE 65	// 64 hex digits, NUL

struct port_links;

struct port_links *port_links_new(void); // NULL when out of memory
struct port_links *port_links_free(struct port_links *l);

struct port_link {
	const char *id; // of the sandbox
	uint16_t port;
	uint64_t epoch; // of the sandbox's tokens: another one and the link is worthless
	const char *path;
	uint64_t expires_ns; // CLOCK_REALTIME
};

// Notes it and makes its code. ERR_LIMIT when there are too many that have not expired at now_ns.
int port_links_add(struct port_links *l, const struct port_link *link, uint64_t now_ns,
	char ret_code[PORT_LINK_CODE_SIZE], struct err *e);
// Uses it up: its path, owned by the caller. NULL: no link of this code, sandbox, port and epoch,
// or it has expired.
char *port_links_use(struct port_links *l, const char *code, const char *id, uint16_t port,
	uint64_t epoch, uint64_t now_ns);
