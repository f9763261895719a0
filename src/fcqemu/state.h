// SPDX-License-Identifier: Apache-2.0
// The state file of a snapshot (snapshot_path): what machine it was, and the state of its devices
// as QEMU writes it. Little-endian:
//
//	 0	8	magic "STASISFQ"
//	 8	4	version of this layout, 1
//	12	4	length of the description
//	16	8	length of QEMU's stream
//	24	8	XXH3 (64 bits) of the stream
//	32	8	XXH3 of the description, seeded with that of bytes 0 to 31
//	40		the description, JSON
//			the stream, to the end of the file
//
// A reader takes nothing that a writer would not write, and names the file and the reason.
#pragma once
#include "base/str.h"
#include "fcqemu/config.h"

#define STATE_HEAD_SIZE 40u
#define STATE_LAYOUT 1u
#define STATE_DESCRIPTION_MAX (256u << 10)
#define STATE_STREAM_MAX (64ull << 20)

struct state {
	char qemu_version[32]; // "7.2.22"
	char accel[8];	       // "tcg", "kvm"
	uint64_t tsc_khz;      // of the guest, since it booted; 0: not known
	struct config config;  // taps not open
	uint64_t stream_offset, stream_length;
};

// "fcqemu-1/qemu-7.2.22": only a VMM that says the same can load the state.
void state_format(const char *qemu_version, char *out, size_t size);
void state_done(struct state *s);
// Appends the description alone; its length decides where the stream begins.
int state_encode_description(const struct state *s, struct strbuf *out);
// The first STATE_HEAD_SIZE bytes.
void state_encode_head(const struct strbuf *description, const void *stream, uint64_t stream_length,
	uint8_t out[STATE_HEAD_SIZE]);
// The whole file's bytes.
int state_decode(const void *data, size_t len, struct state *ret, struct err *e);
// Reads and checks a file; *ret_fd (may be NULL) is open for reading at the stream's begin.
int state_read(const char *path, struct state *ret, int *ret_fd, struct err *e);
