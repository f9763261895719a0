// SPDX-License-Identifier: Apache-2.0
// The agent of this installation, which takes the place of older ones in guests that come up.
#pragma once
#include "agentclient/client.h"
#include "sandbox/table/table.h"

struct agent_program {
	struct envd_program file; // owns its data
	char build[AGENT_BUILD_SIZE];
	char version[24]; // "0.1.0-3"
};

// The one of the installation, or the file that STASIS_AGENT names (tests). *ret is NULL, and the
// reason logged, where there is none that can be sent: guests keep theirs then.
void agent_program_open(struct agent_program **ret);
struct agent_program *agent_program_free(struct agent_program *p);
// Whether a guest that tells that of itself is to get this one: it can, and has an older one or
// another build of the same. p may be NULL.
bool agent_program_is_due(const struct agent_program *p, const struct agent_version *guest);

// Replaces the guest's agent where that is due, and brings *version up to date. The guest's
// processes go on, or stay frozen, as they are. On a failure the guest has the agent that it had,
// if it answers at all; what was done is noted in the sandbox (agent_program_note). c: to the
// agent, t: as it is called there. resumed: connections of before the snapshot end.
void agent_program_send(struct host *h, struct sandbox *s, struct http_client *c,
	const struct envd_target *t, bool resumed);
// Adds to an event's data what became of the agent at the last start, if anything.
void agent_program_note(const struct sandbox *s, json_t *data);
