// SPDX-License-Identifier: Apache-2.0
// Incremental reader of tar archives (see tar_write.h; GNU's long names too): fed with pieces of
// any size. It believes nothing: what it hands on has no NUL in its names, offsets ascend within
// the size, and no more than a header and its records (1 MiB) and a map of holes are held. What
// names may lead to is for its user to judge.
#pragma once
#include "archive/entry.h"
#include "base/err.h"

struct tar_reader;

struct tar_events {
	// All return 0, or a negative errno that ends the reading and is handed to the feeder.
	int (*entry)(void *ctx, const struct archive_entry *entry, struct err *e);
	// Of the file that was told last: data ascends, what is left out is a hole.
	int (*data)(void *ctx, uint64_t offset, const void *data, size_t len, struct err *e);
	int (*entry_end)(void *ctx, struct err *e); // of every entry
	archive_note_fn note;
};

int tar_reader_new(const struct tar_events *ev, void *ctx, struct tar_reader **ret, struct err *e);
struct tar_reader *tar_reader_free(struct tar_reader *r);
DEFINE_CLEANUP(struct tar_reader *, tar_reader_free)
int tar_reader_feed(struct tar_reader *r, const void *data, size_t len, struct err *e);
// The input is over: ERR_INVALID when the archive was not at its end.
int tar_reader_finish(struct tar_reader *r, struct err *e);
