// SPDX-License-Identifier: Apache-2.0
// Where a port is listened on, for the edge's answer about one that it cannot reach.
#pragma once
#include "http/server.h"

struct ports_found {
	bool loopback; // on 127.0.0.0/8 or ::1
	bool outside;  // on any other address, or on all
};

// By the kernel's tables of the network namespace (proc_net_tcp(5)); -errno when one cannot be
// read, -ENOENT apart, which counts as empty.
int ports_find(const char *tcp, const char *tcp6, uint16_t port, struct ports_found *ret);

// GET /ports/{port}: {"loopback": true, "outside": false}.
void ports_get(struct http_request *req, void *ctx);
