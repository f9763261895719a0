// SPDX-License-Identifier: Apache-2.0
// Refusal before the volume is full. A reserve is kept for pauses: what takes room and can wait
// (create, fork, snapshot) is refused below it, a pause only where its memory would not fit.
#pragma once
#include "disk/space.h"
#include "sandbox/table/table.h"

// Left again only when there is a quarter more than what it was entered for.
enum space_level {
	SPACE_OK,
	SPACE_WARNING, // less than twice the reserve, or not all that runs could be paused
	SPACE_LOW,     // less than the reserve: refused
};
const char *space_level_name(enum space_level l); // "ok", "warning", "low"

struct space {
	struct disk_space now;
	uint64_t reserve;
	uint64_t pause_bytes; // that pauses of all that runs could need at most
	enum space_level level;
};
// A pure function; was: the level before.
enum space_level space_judge(enum space_level was, const struct space *s);
// As it is now; the host's level follows. host.lock is not held.
void space_read(struct host *h, struct space *ret);
// ERR_NO_SPACE when what ("create") must wait: below the reserve, or less than that would be left
// after needs bytes more; with pause_room also after pauses of all that runs.
int space_check(struct host *h, const char *what, uint64_t needs, struct err *e);
// The same before a claimed sandbox starts. With pause_room it is given room for its pause, which
// nobody else is told of, until it runs or its claim ends.
int space_start(struct host *h, const char *what, struct sandbox *s, struct err *e);
// As space_check for what may use the reserve. Promised until it is given back, so that many at
// once are not told the same room.
int space_promise(struct host *h, const char *what, uint64_t bytes, struct err *e);
void space_give_back(struct host *h, uint64_t bytes);
