// SPDX-License-Identifier: Apache-2.0
// What is done about a look at everything, and about what is old.
#pragma once
#include "control/engine/look.h"

void engine_apply(struct engine *en, struct look *l);
// Drops what is old.
void engine_expire(struct engine *en);
