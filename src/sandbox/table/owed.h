// SPDX-License-Identifier: Apache-2.0
// What the agent of a machine that runs has not answered yet, as text: "", or a JSON object of
// "thaw", "init", "token", "clock_ppm".
#pragma once
#include "sandbox/table/host.h"

// Owned by the caller; NULL when out of memory.
char *owed_text(const struct sandbox *s);
// Sets s->owed and s->info.agent_silent. What is no such text: nothing is owed.
void owed_read(struct sandbox *s, const char *text);
