// SPDX-License-Identifier: Apache-2.0
// A file as an archive describes it.
#pragma once
#include <sys/types.h>
#include <time.h>
#include "base/macro.h"

enum archive_type {
	ARCHIVE_FILE = '0', // values: of the type flag in the archive
	ARCHIVE_HARD_LINK = '1',
	ARCHIVE_SYMLINK = '2',
	ARCHIVE_DIRECTORY = '5',
	ARCHIVE_OTHER = '6', // devices, pipes
};

// A part of a file that has data; what lies between two is a hole.
struct archive_segment {
	uint64_t offset, length;
};

// Of one entry, both ways: what is beyond is left out, and told.
#define ARCHIVE_MAX_XATTRS 64
#define ARCHIVE_MAX_XATTR_BYTES (256u << 10) // of all values
#define ARCHIVE_XATTRS_LEFT_OUT "without some extended attributes: over 64, or 256 KiB"

struct archive_xattr {
	const char *name;
	const void *value;
	size_t len;
};

struct archive_entry {
	enum archive_type type;
	const char *path;
	const char *link; // of links: where to (of a hard link: a path in the archive)
	mode_t mode;	  // permissions and set-id bits
	uid_t uid;
	gid_t gid;
	uint64_t size; // of a file, its holes included
	struct timespec mtime;
	const struct archive_xattr *xattrs;
	size_t n_xattrs;
	// Of a file with holes, ascending; NULL and 0: it has none. A reader does not set them.
	const struct archive_segment *segments;
	size_t n_segments;
};

// Of what did not get into an archive, or not out of it.
enum archive_note {
	ARCHIVE_SKIPPED, // as a rule: a pipe, a device, a socket
	ARCHIVE_FAILED,	 // it should have been there: no right to read it
};
typedef void (*archive_note_fn)(
	void *ctx, enum archive_note what, const char *path, const char *why);
