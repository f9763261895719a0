// SPDX-License-Identifier: Apache-2.0
// How what is known of a sandbox is shown as JSON. All return a new reference.
#pragma once
#include "control/state/rows.h"

// Besides the host's states: it does not answer, or its volume is absent.
#define SANDBOX_UNREACHABLE SANDBOX_STATE_MAX
const char *render_state_name(enum sandbox_state s);

json_t *render_time(uint64_t realtime_ns); // RFC 3339, null for 0
json_t *render_text(const char *text);	   // null for ""
json_t *render_phases(const struct host_sandbox *s);
// Adds "agent_version" and "agent_weaknesses" of a recorded agent (agentclient/version.h).
int render_agent(json_t *object, const char *agent);
// A row and the host's report together. NULL when out of memory, or where a text is not UTF-8.
json_t *render_sandbox(const struct sandbox_row *row, const struct host_sandbox *s);
