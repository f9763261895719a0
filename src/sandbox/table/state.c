// SPDX-License-Identifier: Apache-2.0
// The life cycle as a table (docs/architecture.md, section 6).
#include <assert.h>
#include <string.h>
#include "base/clock.h"
#include "base/log.h"
#include "sandbox/table/state.h"

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
	[SANDBOX_ERROR] = {"error", TO(RUNNING) | TO(PAUSED) | TO(STOPPING) | TO(STOPPED)},
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

static const char *const causes[END_CAUSE_MAX] = {
	[END_KILLED] = "killed",
	[END_TIMEOUT] = "timeout",
	[END_GUEST_POWEROFF] = "guest_poweroff",
	[END_GUEST_PANIC] = "guest_panic",
	[END_GUEST_OOM] = "guest_oom",
	[END_VMM_CRASH] = "vmm_crash",
	[END_HOST_OOM] = "host_oom",
	[END_PAGER_LOST] = "pager_lost",
	[END_SHIM_LOST] = "shim_lost",
	[END_HOST_LOST] = "host_lost",
	[END_SERVER_STOPPED] = "server_stopped",
	[END_RETENTION] = "retention",
	[END_CREATE_FAILED] = "create_failed",
};

const char *end_cause_name(enum end_cause c)
{
	return (unsigned)c < END_CAUSE_MAX ? causes[c] : "unknown";
}

enum end_cause end_cause_parse(const char *name)
{
	int i = 0;
	while (i < END_CAUSE_MAX && strcmp(causes[i], name) != 0)
		i++;
	return (enum end_cause)i;
}

bool sandbox_state_may(enum sandbox_state from, enum sandbox_state to)
{
	return (unsigned)from < SANDBOX_STATE_MAX && (states[from].next & 1u << to);
}

void sandbox_move(struct host_sandbox *s, enum sandbox_state to, const char *why)
{
	log_debug("state sandbox=%s from=%s to=%s why=%s", s->id, sandbox_state_name(s->state),
		sandbox_state_name(to), why);
	// A destroy does not wait for what has the sandbox. That may come to its end later: what it
	// makes of its copy has no effect, the database refuses it (store_apply).
	if (s->state == SANDBOX_STOPPED)
		return;
	assert(s->state == to || sandbox_state_may(s->state, to));
	s->generation += s->state != to;
	s->state = to;
}

void host_event_done(struct host_event *ev)
{
	json_decref(ev->data);
	ev->data = NULL;
}

void sandbox_phase(struct host_sandbox *i, const char *name, uint64_t *since)
{
	uint64_t now = clock_monotonic_ns();
	if (i->n_phases < HOST_MAX_PHASES) {
		struct host_phase *p = &i->phases[i->n_phases++];
		snprintf(p->name, sizeof p->name, "%s", name);
		p->us = (now - *since) / 1000;
	}
	*since = now;
}

json_t *sandbox_phases_json(const struct host_sandbox *i)
{
	json_t *a = json_array();
	for (unsigned k = 0; k < i->n_phases; k++)
		json_array_append_new(
			a, json_pack("[s, I]", i->phases[k].name, (json_int_t)i->phases[k].us));
	return a;
}

bool sandbox_is_no_create(const struct host_sandbox *s)
{
	return s->state == SANDBOX_STOPPED && str_eq(s->cause, end_cause_name(END_CREATE_FAILED));
}
