// SPDX-License-Identifier: Apache-2.0
#include "control/state/row.h"
#include "base/str.h"

static const char *const state_names[] = {"creating", "running", "paused", "stopped"};

const char *row_state_name(enum row_state s)
{
	return state_names[s];
}

struct sandbox_row *row_unref(struct sandbox_row *row)
{
	if (row && atomic_fetch_sub(&row->refs, 1) == 1) {
		json_decref(row->metadata);
		free(row->named); // of one that was never in the table
		free(row->ended);
		free(row);
	}
	return NULL;
}

bool row_is_deleted(const struct sandbox_row *row)
{
	const struct host_sandbox *ended = row_ended(row);
	return row->deleted || (ended && str_eq(ended->cause, "killed"));
}
