// SPDX-License-Identifier: Apache-2.0
// Whose turn it is. So many are inside at once; the others stand in line, and who has waited
// longest is next. All that the gate knows of somebody is a ticket, which its owner keeps; an order
// by more than the time of coming would look at what stands in the ticket.
//
// Thread-safe, but for a ticket: one thread at a time joins, waits and leaves with it. Any thread
// may cancel it or ask for its place, as long as it exists.
#pragma once
#include <pthread.h>
#include <stddef.h>
#include "base/err.h"

enum gate_where { GATE_AWAY, GATE_IN_LINE, GATE_INSIDE, GATE_SENT_AWAY };

// All zeros: away.
struct gate_ticket {
	enum gate_where where;
	pthread_cond_t turn;	  // of one in line: where has changed
	struct gate_ticket *next; // of one in line
};

struct gate {
	pthread_mutex_t lock;
	unsigned places, inside;
	struct gate_ticket *line; // the next one first
	bool closed;
};

// places: how many may be inside, at least 1.
void gate_init(struct gate *g, unsigned places);
void gate_done(struct gate *g); // nobody may be at it

// Does not block. True: inside, where there is a place and nobody waits. Else the ticket stands in
// line, and gate_wait must be called with it.
bool gate_join(struct gate *g, struct gate_ticket *t);
// Blocks until the ticket is inside. ERR_CONFLICT when it was cancelled, ERR_UNAVAILABLE when the
// gate was closed: it is away then.
int gate_wait(struct gate *g, struct gate_ticket *t, struct err *e);
// Makes room for the next one. Harmless for a ticket that is away.
void gate_leave(struct gate *g, struct gate_ticket *t);

// Ends the wait of a ticket; harmless for one that is not in line.
void gate_cancel(struct gate *g, struct gate_ticket *t);
// For good: nobody gets in any more and all in line are sent away. Who is inside stays.
void gate_close(struct gate *g);

// 1: the next one; 0: not in line.
size_t gate_place(struct gate *g, const struct gate_ticket *t);
void gate_count(struct gate *g, unsigned *ret_inside, size_t *ret_in_line);
