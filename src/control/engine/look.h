// SPDX-License-Identifier: Apache-2.0
// A look at rows, journal and host, and what follows from it. Between the look and what is done
// about it anything may happen.
#pragma once
#include "control/engine/engine.h"
#include "control/state/templates.h"

struct look {
	bool reachable, volume_ok;
	bool single; // of one sandbox: operations only shield it
	char why[200];
	struct sandbox_row **rows; // references, as the next two
	uint64_t *versions;
	struct reconcile_row *rec_rows;
	size_t n_rows;
	struct host_sandbox *boxes, *more; // the list, and those asked about one by one
	size_t n_boxes, n_more, n_missing;
	struct host_snapshot *snaps;
	size_t n_snaps;
	struct template *named;
	size_t n_named;
	struct operation_ref *open;
	size_t n_open;
	struct operation_word *words; // one for each of unknown
	char (*unknown)[64];
	size_t n_words;
	struct reconcile_action *actions;
	size_t n_actions;
};
struct look *look_free(struct look *l);
DEFINE_CLEANUP(struct look *, look_free)

// Rows and open operations, then the host; id NULL: all sandboxes.
int look_collect(struct engine *en, const char *id, struct look **ret, struct err *e);
// A failure of the host in the middle: nothing is known then.
void look_is_silent(struct engine *en, struct look *l, const struct err *why);
// Names and journal, then the actions. explain: also why nothing is done.
int look_judge(struct engine *en, struct look *l, bool explain, struct err *e);
// The host's report on it; NULL: none.
const struct host_sandbox *look_report(const struct look *l, const char *id);
