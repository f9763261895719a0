// SPDX-License-Identifier: Apache-2.0
// What guest memory held when it was loaded. Where the kernel does not tell which pages a guest
// wrote (before 6.7), pages that still hold that are left out of a diff: the image that the diff
// will lie over has the same.
#pragma once
#include "fcqemu/dirty.h"

enum loaded_kind {
	LOADED_NOTHING, // the guest was booted: zeros
	LOADED_FILE,	// the memory file
	LOADED_IMAGE,	// layers, by a page server
	LOADED_UNKNOWN, // nothing can be compared
};

struct loaded {
	enum loaded_kind kind;
	int file; // of LOADED_FILE, owned; else -1
	// Of LOADED_IMAGE: what the page server has. Borrowed; the files are opened when they are
	// first needed.
	const char *header_path, *layers_path;
	// A bit for each page that a snapshot of this guest has held since. The image that the next
	// diff lies over need not be the loaded one there. NULL until the first.
	uint64_t *replaced;
	uint64_t size;
};

void loaded_done(struct loaded *l); // as it was before the first use; a zeroed one has file 0
// Takes the pages that hold what they held out of list, by comparing bytes. The guest is stopped.
// What cannot be read or compared stays in it.
void loaded_drop_same(
	const struct loaded *l, const struct dirty_source *s, struct dirty_list *list);
// A snapshot of size bytes of memory is about to hold these pages; NULL: all. Without memory for
// the note nothing is compared any more.
void loaded_note(struct loaded *l, uint64_t size, const struct dirty_list *list);
