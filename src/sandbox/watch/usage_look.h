// SPDX-License-Identifier: Apache-2.0
// Who is on the volume and what they need, and all files, each added to its part.
#pragma once
#include "sandbox/table/table.h"
#include "sandbox/watch/usage_count.h"

// Parts that are no items, and the first item.
enum { USAGE_PENDING, USAGE_UNKNOWN, USAGE_DATABASES, USAGE_PROGRAMS, USAGE_ITEMS };

struct usage_need {
	char id[UUID_SIZE]; // a layer's
	uint32_t part;
};
struct usage_place {
	char id[64];
	uint32_t part;
};

struct usage_work {
	struct host *h;
	struct usage_count u;
	struct unknown *unknown;
	size_t n_unknown;
	struct usage_place *boxes, *snaps; // sorted by id
	size_t n_boxes, n_snaps;
	struct usage_need *needs; // sorted by layer, then part
	size_t n_needs, needs_size;
	size_t n_items;	  // parts below are items; those from there on are layers of several
	size_t *first;	  // of each layer of several: its needs
	size_t n_several; //
	struct host_usage sum;
};

// work.h and work.u.ask, deadline_ns are set. Under no lock: what is made or removed meanwhile
// counts or not. On an error too the caller frees (usage_work_done).
int usage_look(struct usage_work *w, struct err *e);
void usage_work_done(struct usage_work *w);
