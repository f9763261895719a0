// SPDX-License-Identifier: Apache-2.0
// Applies what a look found out about rows.
#pragma once
#include "control/engine/look.h"

// Of RECONCILE_MARK_*; nothing when something has come in between.
int marks_apply(
	struct engine *en, const struct look *l, const struct reconcile_action *a, struct err *e);
// Says in the log what came of an action.
void marks_log(const struct reconcile_action *a, int rc, const struct err *e);
