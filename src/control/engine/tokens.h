// SPDX-License-Identifier: Apache-2.0
// Another access token for a sandbox. Its number is durable first: from then on the edge knows the
// new one alone, whatever happens. Then the agent is told, and that it knows is noted. Where the
// agent cannot be told, or the server ends in between, it is told again: by the next pass of the
// upkeep, or by the next resume, which has the token with it.
#pragma once
#include "control/engine/engine.h"

struct sandbox_row;

// 0 when it is made; *ret_told: the agent has it.
int engine_rotate_token(struct engine *en, struct sandbox_row *row, bool *ret_told, struct err *e);
// Tells all agents that are behind.
void engine_tell_tokens(struct engine *en);
