// SPDX-License-Identifier: Apache-2.0
// Addresses that the edge listens on.
#pragma once
#include <netinet/in.h>
#include "base/err.h"

struct listen_address {
	char host[INET6_ADDRSTRLEN]; // "127.0.0.1", "::"
	bool ipv6;
	bool any; // of IPv6: all addresses of IPv4 as well
	uint16_t port;
};

// text: "ADDRESS:PORT", "[IPv6]:PORT" or "localhost:PORT"; setting: its name, for the error.
int listen_parse(const char *setting, const char *text, struct listen_address *ret, struct err *e);
// Whether nobody else has it: nginx would try for seconds and then say less.
int listen_check_free(const char *setting, const struct listen_address *a, struct err *e);
// Whether something accepts connections there.
bool listen_accepts(const struct listen_address *a);
// Appends nginx's directives; options: what follows the address ("ssl http2", ""). IPv4 and IPv6
// have a socket each, so that clients of IPv4 are seen with addresses of IPv4.
struct strbuf;
void listen_add(struct strbuf *out, const struct listen_address *a, const char *options);
