// SPDX-License-Identifier: Apache-2.0
// What a lost host.db is made anew from: state files and snapshots, read and not judged yet.
#pragma once
#include "sandbox/table/statefile.h"
#include "sandbox/table/store_types.h"
#include "snapshot/header.h"
#include "snapshot/seal.h"

struct box {
	struct sandbox s;
	struct statefile_op op;
	char made[UUID_SIZE], layer[UUID_SIZE]; // by its open operation
};

struct found {
	struct store_snapshot row;
	struct header *header;
	char kernel_id[72], agent[64];
	bool dropped, unknown, unquiesced;
};

struct rebuild {
	struct host h; // as much of one as rows need
	struct seal seal;
	struct box *boxes;
	size_t n_boxes;
	struct found *found;
	size_t n_found;
	struct host_rebuilt *out;
};

// A line of what is told to whoever asked for it.
void rebuild_say(struct rebuild *r, const char *fmt, ...) _printf_(2, 3);
// The sandbox of a state file; NULL: it has none.
struct box *rebuild_box(const struct rebuild *r, const char *id);
int rebuild_look(struct rebuild *r, struct err *e);
