// SPDX-License-Identifier: Apache-2.0
// The working set of a snapshot: which memory the guest touched first after a resume, in order. It
// is advice for the next resume; a resume without it is merely slower.
#pragma once
#include "snapshot/header.h"

#define WORKING_SET_MAX_RANGES (1u << 18)

struct working_set_range {
	uint64_t offset; // of the memory, a multiple of SNAPSHOT_BLOCK
	uint32_t blocks; // never 0
};

// Embedded: working_set_init ... working_set_done.
struct working_set {
	uint64_t size;	      // of the memory
	char base[UUID_SIZE]; // header.base: any image of the lineage may use it
	struct working_set_range *ranges;
	size_t n, cap;
};

void working_set_init(struct working_set *w, const struct header *h);
void working_set_done(struct working_set *w);
// Appends blocks that were touched next; joined with the last range where they follow it. -ENOSPC
// at WORKING_SET_MAX_RANGES, -ENOMEM.
int working_set_add(struct working_set *w, uint64_t offset, uint32_t blocks);
uint64_t working_set_bytes(const struct working_set *w);

// Appends the file's bytes.
int working_set_encode(const struct working_set *w, struct strbuf *out);
// Strict. *ret is initialised on success only.
int working_set_decode(const void *data, size_t len, struct working_set *ret, struct err *e);
// Errors begin with the file's name. Refused when it belongs to another lineage or memory size than
// h (may be NULL).
int working_set_read(int dirfd, const char *path, const struct header *h, struct working_set *ret,
	struct err *e);
