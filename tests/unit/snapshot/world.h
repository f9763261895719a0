// SPDX-License-Identifier: Apache-2.0
// A store in a temporary directory, and diffs as a VMM writes them.
#pragma once
#include "base/err.h"
#include "snapshot/header.h"

struct world {
	char dir[256];
	int data_fd, layers_fd; // <dir>/data and its layers/
	int work_fd;		// <dir>/work, where "the VMM" writes
	uint8_t *image;		// world_expect's
	size_t image_size;
};

// Below $STASIS_TEST_DIR, else /dev/shm (tmpfs: holes of 4 KiB, syncs cost nothing).
void world_init(struct world *w);
void world_done(struct world *w);

// Writes a sparse file of the size into work/<name>: block i of the memory is data where dirty[i].
void world_write_diff(
	struct world *w, const char *name, const uint8_t *memory, const bool *dirty, uint64_t size);
// Fails the test when the image is not exactly memory.
void world_expect(struct world *w, const struct header *h, const uint8_t *memory);
int world_count_files(int dirfd, const char *path);

// A small generator whose seed the test prints.
uint64_t world_random(uint64_t *state);

// Fails the test with the error's text.
void run_ok(int r, const struct err *e);
// Fails it unless there is an error whose text has both.
void expect_reason(int r, const struct err *e, const char *what, const char *reason);
