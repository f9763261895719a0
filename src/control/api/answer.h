// SPDX-License-Identifier: Apache-2.0
// What a finished operation is answered with: a function of its task alone, so that it can be kept
// for the key of the request and given again.
#pragma once
#include "control/engine/task.h"

// The body of the answer (NULL: none).
json_t *answer_of(const struct task *t, int *ret_status);
json_t *answer_of_child(const struct task *t, size_t i);
json_t *answer_snapshot(const struct template *t); // the snapshot object
// What is kept: as answer_of, without tokens, which follow from the rows.
json_t *answer_to_keep(const struct task *t, int *ret_status);
// Puts the tokens back into what was kept.
void answer_show_tokens(json_t *body, struct rows *rows);
