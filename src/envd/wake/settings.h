// SPDX-License-Identifier: Apache-2.0
// The settings of /init outlive the agent: a file, root's alone (0600), has the token, the
// environment, the defaults, the newest timestamp and the clock's rate. /init replaces it before it
// answers and before it lets anything go on.
#pragma once
#include "envd/wake/agent.h"

// Writes a->state_file, durably replaced as a whole; nothing without one. Call it with the lock
// held. A file that cannot be written is removed, so that an agent that is started again is closed
// rather than set to what no longer holds; an error only when that fails too.
int settings_save(struct agent *a, struct err *e);
// Takes what the file says, before the first request. Without one, and with one that somebody else
// could have written or that makes no sense (which is logged), nothing is set: the agent is closed.
void settings_load(struct agent *a);
// What the file has, owned by the caller; NULL without memory. Call it with the lock held.
json_t *settings_json(const struct agent *a);
int settings_take(struct agent *a, json_t *j, struct err *e); // as settings_parse
// What the file's text sets, in an agent that has only its environment; nothing on an error.
int settings_parse(struct agent *a, const char *text, size_t len, struct err *e);
