// SPDX-License-Identifier: Apache-2.0
// What an archive may do where it is unpacked.
#pragma once
#include "archive/entry.h"

#define UNPACK_OWNER 1u	 // user and group by number; without the right to that, as nobody asked
#define UNPACK_TIMES 2u	 // of the last change
#define UNPACK_SET_ID 4u // set-user-id, set-group-id and sticky bits
#define UNPACK_XATTRS 8u // "user." attributes
#define UNPACK_ACLS 16u	 // and ACLs
#define UNPACK_FOLLOW_ROOT 32u	// a file follows a link that its own name is: the caller chose it
#define UNPACK_SPECIAL_ROOT 64u // its own name is a device or pipe, which it is written to
#define UNPACK_ROOT_IS_DIR 128u // ERR_INVALID when the first entry is something else
#define UNPACK_KEEP_DIRS 256u // directories that were there stay as they are, also in an exact copy

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
	// May be NULL. Asked between the pieces that are written to a device or pipe, of which a
	// hole can be without end, and where a signal interrupts that; not 0: -ECANCELED.
	int (*tick)(void *ctx);
	void *ctx; // of note and tick
};
