// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0
// What fcqemu asks of the thread that ramhook.so runs inside QEMU, over a SOCK_SEQPACKET pair: to
// write guest memory to a file, one copy from the guest's pages to the page cache. Pages that a
// page server has yet to supply are faulted in by it, which no other process can do. One request,
// one reply; the requester has the time-out.
#pragma once
#include <stdint.h>

#define HOOK_RANGES_MAX 128u
#define HOOK_BYTES_MAX (4ull << 20) // of one request: what is waited for at a time

struct hook_range {
	uint64_t offset, length; // in guest memory and in the file, multiples of 4096
};

// Sent with the file's descriptor and no more ranges than n.
struct hook_request {
	uint64_t id;
	uint32_t n;
	uint32_t skip_zeros; // pages of zeros are not written
	struct hook_range ranges[HOOK_RANGES_MAX];
};

struct hook_reply {
	uint64_t id;
	int64_t error; // positive errno, 0: all is written
};
