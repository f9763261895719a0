// SPDX-License-Identifier: Apache-2.0
// A file or a tree as a tar archive, made piece by piece as it is asked for. Symbolic links stay
// links, holes stay holes, further names of a file become hard links. Nothing is held in memory but
// a buffer, a descriptor for each directory on the way down, and the names of files that have
// several.
#pragma once
#include <sys/types.h>
#include "archive/entry.h"
#include "base/err.h"

#define PACK_FOLLOW 1u	    // what links lead to, everywhere
#define PACK_FOLLOW_ROOT 2u // of the thing itself alone
#define PACK_EXACT 4u	    // times to the nanosecond, extended attributes

struct pack;

// path below dirfd; root is what the archive calls it ("." for: what is in it). note (may be NULL:
// notes go into the archive) hears of what is left out, by its path in the archive.
int pack_new(int dirfd, const char *path, const char *root, unsigned flags, archive_note_fn note,
	void *ctx, struct pack **ret, struct err *e);
struct pack *pack_free(struct pack *p);
DEFINE_CLEANUP(struct pack *, pack_free)
// Fills buf. The count, 0 at the archive's end, or a negative errno: then what was made until now
// is no whole archive.
ssize_t pack_next(struct pack *p, char *buf, size_t max, struct err *e);
bool pack_is_dir(const struct pack *p);
// So far. Of a file that is under way its bytes, but not yet the file.
uint64_t pack_files(const struct pack *p);
uint64_t pack_bytes(const struct pack *p);
