// SPDX-License-Identifier: Apache-2.0
// The engine's beginning and end.
#pragma once
#include "control/engine/engine.h"

extern const struct engine_guards engine_guards;

// The members up to guards are set already; the others are zero. What is open in the database is
// claimed: an open change of a row keeps others away from it, and from its new name.
int engine_init(struct engine *en, struct err *e);
void engine_done(struct engine *en);
