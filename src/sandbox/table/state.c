// SPDX-License-Identifier: Apache-2.0
// The life cycle as a table (docs/architecture.md, section 6).
#include <assert.h>
#include <string.h>
#include "base/log.h"
#include "sandbox/internal.h"

#define TO(s) (1u << SANDBOX_##s)

static const struct {
	const char *name;
	unsigned next; // allowed successors
} states[SANDBOX_STATE_MAX] = {
	[SANDBOX_PENDING] = {"pending", TO(RUNNING) | TO(STOPPING) | TO(STOPPED) | TO(ERROR)},
	[SANDBOX_RUNNING] = {"running", TO(PAUSING) | TO(STOPPING) | TO(STOPPED) | TO(ERROR)},
	[SANDBOX_PAUSING] = {"pausing",
		TO(PAUSED) | TO(RUNNING) | TO(STOPPING) | TO(STOPPED) | TO(ERROR)},
	[SANDBOX_PAUSED] = {"paused", TO(RESUMING) | TO(STOPPING) | TO(STOPPED) | TO(ERROR)},
	[SANDBOX_RESUMING] = {"resuming",
		TO(RUNNING) | TO(PAUSED) | TO(STOPPING) | TO(STOPPED) | TO(ERROR)},
	[SANDBOX_STOPPING] = {"stopping", TO(STOPPED) | TO(ERROR)},
	[SANDBOX_STOPPED] = {"stopped", 0},
	[SANDBOX_ERROR] = {"error", TO(STOPPING) | TO(STOPPED)},
};

const char *sandbox_state_name(enum sandbox_state s)
{
	return (unsigned)s < SANDBOX_STATE_MAX ? states[s].name : "unknown";
}

enum sandbox_state sandbox_state_parse(const char *name)
{
	int i = 0;
	while (i < SANDBOX_STATE_MAX && strcmp(states[i].name, name) != 0)
		i++;
	return (enum sandbox_state)i;
}

bool sandbox_state_may(enum sandbox_state from, enum sandbox_state to)
{
	return (unsigned)from < SANDBOX_STATE_MAX && (states[from].next & 1u << to);
}

void sandbox_move(struct host_sandbox *s, enum sandbox_state to, const char *why)
{
	log_debug("state sandbox=%s from=%s to=%s why=%s", s->id, sandbox_state_name(s->state),
		sandbox_state_name(to), why);
	assert(s->state == to || sandbox_state_may(s->state, to));
	s->generation += s->state != to;
	s->state = to;
}

void host_event_done(struct host_event *ev)
{
	json_decref(ev->data);
	ev->data = NULL;
}
