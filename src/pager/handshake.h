// SPDX-License-Identifier: Apache-2.0
// The VMM hands its guest's memory over: Firecracker's hand-shake on a Unix socket, one connection.
#pragma once
#include "pager/region.h"

struct handshake {
	int uffd;   // non-blocking
	int socket; // stays open: its end tells that the VMM is gone
	int pidfd;  // of the process that connected, -1 when it is not visible from here
	struct region_map map;
};

// Listens on a new socket at path (0600). The path appears only when a connection is accepted at
// once: whoever waits for it need not try again. A socket that was there is replaced.
int handshake_listen(const char *path, int *ret_fd, struct err *e);
// Waits for the connection, checks that it comes from our own uid, receives regions and descriptor.
// Each of the two steps has timeout_ms. ERR_TIMEOUT, ERR_FORBIDDEN, ERR_INVALID.
int handshake_accept(
	int listen_fd, int timeout_ms, uint64_t memory_size, struct handshake *ret, struct err *e);
void handshake_done(struct handshake *h);
