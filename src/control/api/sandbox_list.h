// SPDX-License-Identifier: Apache-2.0
// Sandboxes by filter, page by page.
#pragma once
#include "control/api/context.h"

// Names of the state filter, comma-joined; ret has one flag a state, the last for unreachable.
int states_read(const char *text, bool ret[SANDBOX_STATE_MAX + 1], struct err *e);
void sandboxes_list(struct http_request *r, void *ctx);
// The newest of all states, an array: the list without HTTP. NULL on error.
json_t *sandboxes_page(struct control *c, size_t max, struct err *e);
