// SPDX-License-Identifier: Apache-2.0
// Pause: {}. Resume and roll-back: {from, disk_only, ends_at}.
#pragma once
#include "control/engine/task.h"

int pause_ask(struct engine *en, struct task *t);
int resume_ask(struct engine *en, struct task *t);
int rollback_ask(struct engine *en, struct task *t);
