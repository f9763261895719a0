// SPDX-License-Identifier: Apache-2.0
// A file's new content, written beside the old one and put in its place when it is whole: whoever
// stops in between, the old content is there, and nothing else. See replace.c for where that is not
// possible.
#pragma once
#include <limits.h>
#include <sys/stat.h>
#include "base/macro.h"

// What a file under way is called where it needs a name: this, a random number and ".part".
#define REPLACE_PREFIX ".stasis-"

#define REPLACE_FOLLOW 1u  // a symbolic link of that name is followed, also one that leads nowhere
#define REPLACE_SPECIAL 2u // a device or pipe is written to (at once, as it comes)
#define REPLACE_SYNC 4u	   // on the disk before the old content goes

struct replace {
	int fd;		 // to write to (and to read back); -1: none
	int dir;	 // that of the name
	unsigned flags;	 // as given
	bool exists;	 // a regular file is there: old is its state
	bool in_place;	 // fd is written to the file itself at the end
	bool special;	 // fd is the device or pipe
	struct stat old; // where exists
	char name[NAME_MAX + 1];
	char part[40]; // its name for now; "" when it has none
};
#define REPLACE_INIT ((struct replace){.fd = -1, .dir = -1})

// path is below dirfd, which is borrowed. mode is that of a new file, before the umask. -EISDIR for
// a directory, -EINVAL for a device or pipe without REPLACE_SPECIAL. *r is empty after an error.
int replace_begin(struct replace *r, int dirfd, const char *path, unsigned flags, mode_t mode);
// Owner, permissions and extended attributes (ACLs) of the old file, where there is one. Not set-id
// bits and capabilities, which another content must not have by itself.
void replace_take_old(struct replace *r);
// Gives it a name for now and closes fd: for who has many under way.
int replace_park(struct replace *r);
// Puts it in its place. *r is empty then, also after an error, which leaves what was there.
int replace_commit(struct replace *r);
// Drops it. For cleanup, too: nothing to do for an empty one.
void replace_abort(struct replace *r);
#define _cleanup_replace_ _cleanup_(replace_abort)
