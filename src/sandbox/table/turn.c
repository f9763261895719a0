// SPDX-License-Identifier: Apache-2.0
// The turn of a start (a create, a resume, each child of a fork). A guest that comes up wants a
// processor. Where too many come up at once, none gets the share that its time-outs are made for.
// So a start waits at the gate before it makes anything, and all of its time-outs begin after that.
// A start that waits has its row in the table, and no slot, disk or process.
#include <string.h>
#include "base/clock.h"
#include "base/log.h"
#include "sandbox/table/turn.h"

bool turn_join(struct host *h, struct sandbox *s)
{
	if (gate_join(&h->gate, &s->ticket))
		return true;
	s->info.phases[0] = (struct host_phase){.name = "queue"};
	s->info.n_phases = 1;
	// Who came to remove it meanwhile did not find it in line.
	pthread_cond_broadcast(&h->changed);
	return false;
}

int turn_wait(struct host *h, struct sandbox *s, struct err *e)
{
	uint64_t began = clock_monotonic_ns();
	log_debug("waits for its turn sandbox=%s place=%zu", s->info.id,
		gate_place(&h->gate, &s->ticket));
	int rc = gate_wait(&h->gate, &s->ticket, e);
	pthread_mutex_lock(&h->lock);
	s->info.phases[0].us = (clock_monotonic_ns() - began) / 1000;
	pthread_mutex_unlock(&h->lock);
	return rc < 0 ? err_prefix(e, rc, "sandbox '%s'", s->info.id) : 0;
}

uint64_t turn_ends_at(uint64_t ends_at_ns, uint64_t asked_ns)
{
	uint64_t took = clock_monotonic_ns() - asked_ns;
	return ends_at_ns ? MIN(ends_at_ns, (uint64_t)INT64_MAX - took) + took : 0;
}
