// SPDX-License-Identifier: Apache-2.0
// A tar archive as files below a directory. The archive is a stranger's: whatever it says, nothing
// outside that directory is made, changed or linked to. Every path is walked from the directory,
// name by name, and no link is followed on the way, whoever made it; "..", absolute paths and bad
// names are refused, devices left out. Each file takes its place when it is whole (base/replace.h).
#pragma once
#include "archive/entry.h"
#include "base/err.h"

#define UNPACK_OWNER 1u	 // user and group by number; without the right to that, as nobody asked
#define UNPACK_TIMES 2u	 // of the last change
#define UNPACK_SET_ID 4u // set-user-id, set-group-id and sticky bits
#define UNPACK_XATTRS 8u // "user." attributes
#define UNPACK_ACLS 16u	 // and ACLs
#define UNPACK_FOLLOW_ROOT 32u	// a file follows a link that its own name is: the caller chose it
#define UNPACK_SPECIAL_ROOT 64u // and is written to a device or pipe
#define UNPACK_ROOT_IS_DIR 128u // ERR_INVALID when the first entry is something else

struct unpack_options {
	int dirfd; // borrowed
	// The archive must be of one thing, which gets this name instead of its own; "": it is the
	// directory itself. NULL: everything is named as in the archive.
	const char *root;
	unsigned flags;
	bool give; // what is made belongs to uid and gid, unless UNPACK_OWNER says otherwise
	uid_t uid;
	gid_t gid;
	archive_note_fn note; // may be NULL: of what is left out, here or when it was packed
	void *ctx;
};

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
