// SPDX-License-Identifier: Apache-2.0
// A tar archive as files below a directory. The archive is a stranger's: whatever it says, nothing
// outside that directory is made, changed or linked to. Every path is walked from the directory,
// name by name, and no link is followed on the way, whoever made it; "..", absolute paths and bad
// names are refused, devices left out. Each file takes its place when it is whole (base/replace.h).
#pragma once
#include "archive/unpack_options.h"
#include "base/err.h"

struct unpack;

// o's texts must stay.
int unpack_new(const struct unpack_options *o, struct unpack **ret, struct err *e);
// A file under way is dropped.
struct unpack *unpack_free(struct unpack *u);
DEFINE_CLEANUP(struct unpack *, unpack_free)
int unpack_feed(struct unpack *u, const void *data, size_t len, struct err *e);
// The input is over. ERR_INVALID when the archive was not at its end.
int unpack_finish(struct unpack *u, struct err *e);
uint64_t unpack_files(const struct unpack *u);	 // that are in their places
uint64_t unpack_bytes(const struct unpack *u);	 // that came for files
const char *unpack_path(const struct unpack *u); // of the last entry; "" before the first
