// SPDX-License-Identifier: Apache-2.0
#include "sandbox/machine/halt.h"
#include <string.h>
#include "agentclient/client.h"
#include "agentclient/probe.h"
#include "base/clock.h"
#include "base/log.h"
#include "sandbox/machine/console.h"
#include "sandbox/table/table.h"
#include "shim/shim.h"

// Until the next question, doubled by each answer: a program that logs such a line.
#define PAUSE_MIN_NS (2 * NSEC_PER_SEC)
#define PAUSE_DOUBLINGS 5u

bool halt_listen(struct host *h, const char *id)
{
	pthread_mutex_lock(&h->lock);
	struct sandbox *s = host_find(h, id);
	uint64_t seen = s ? s->halt.console_seen : 0, size = seen;
	pthread_mutex_unlock(&h->lock);
	bool said = s && console_tells_of_halt(h, id, &size);
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&h->lock);
	if (!(s = host_find(h, id)))
		return false;
	if (size != seen) {
		s->halt.console_seen = size;
		s->halt.said = said;
		s->halt.silent = 0;
	}
	return s->halt.said && !s->halt.asking && s->info.state == SANDBOX_RUNNING &&
	       !s->operation && deadline_over(s->halt.after_ns);
}

// Also where an operation had the machine meanwhile: it may have stood still for that.
static void note_answer_locked(struct sandbox *s)
{
	s->halt.silent = 0;
	s->halt.answered = MIN(s->halt.answered + 1, PAUSE_DOUBLINGS);
	s->halt.after_ns = clock_monotonic_ns() + (PAUSE_MIN_NS << s->halt.answered);
}

void halt_ask(struct host *h, const char *id)
{
	pthread_mutex_lock(&h->lock);
	struct sandbox *s = host_find(h, id);
	bool mine = s && s->has_slot && !s->halt.asking && !s->operation && !s->removed;
	char address[sizeof s->slot.address], dir[512];
	uint64_t generation = 0;
	if (mine) {
		s->halt.asking = true;
		generation = s->info.generation;
		if (s->halt.generation != generation) // another machine, or it went on
			s->halt.silent = 0;
		s->halt.generation = generation;
		memcpy(address, s->slot.address, sizeof address);
	}
	pthread_mutex_unlock(&h->lock);
	if (!mine)
		return;
	int rc = envd_reach(address, ENVD_PORT, HALT_ASK_MS);
	bool silent = rc == -ETIMEDOUT || rc == -EHOSTUNREACH;
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&h->lock);
	if (!(s = host_find(h, id)))
		return;
	s->halt.asking = false;
	if (!silent || !s->halt.said || s->operation || s->info.generation != generation ||
		s->info.state != SANDBOX_RUNNING) {
		note_answer_locked(s);
		return;
	}
	s->halt.answered = 0;
	if (++s->halt.silent < HALT_SILENT)
		return;
	log_info("guest is halted sandbox=%s", id);
	if (host_run_path(h, id, dir) == 0)
		shim_end(dir, s->pidfd); // the monitor sees it
}
