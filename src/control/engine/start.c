// SPDX-License-Identifier: Apache-2.0
#include "control/engine/start.h"
#include <string.h>
#include "base/str.h"
#include "control/engine/change.h"

static bool unchanged(struct engine *en, const struct sandbox_row *row, uint64_t version)
{
	return row->version == version && !underway_is_on(en->underway, row->id);
}

static bool made_since(struct engine *en, const char *id)
{
	_cleanup_(row_unrefp) struct sandbox_row *row = rows_get(en->rows, id);
	return row != NULL;
}

static bool unwanted(struct engine *en, const char *id)
{
	_cleanup_(row_unrefp) struct sandbox_row *row = rows_get(en->rows, id);
	return !(row && !row_ended(row)) && !underway_is_on(en->underway, id);
}

static bool overtaken(const struct task *t)
{
	return t->row && row_is_deleted(t->row);
}

const struct engine_guards engine_guards = {reconcile, unchanged, made_since, unwanted, overtaken};

static int claim_rows(struct engine *en, struct err *e)
{
	struct operation_ref *list;
	size_t n;
	int rc = underway_list(en->underway, &list, &n, e);
	if (rc < 0)
		return rc;
	for (size_t i = 0; i < n; i++) {
		struct task t = {.adopted = true};
		struct err why = {0};
		if (list[i].kind == OPERATION_UPDATE &&
			operations_get(en->db, list[i].id, &t.op, &why) == 1) {
			t.row = rows_get(en->rows, t.op.sandbox);
			update_claim(en, &t);
		}
		task_done(&t);
	}
	operation_refs_free(list, n);
	return 0;
}

int engine_init(struct engine *en, struct err *e)
{
	pthread_mutex_init(&en->lock, NULL);
	pthread_mutex_init(&en->events, NULL);
	pthread_mutex_init(&en->retention, NULL);
	if (!en->guards)
		en->guards = &engine_guards;
	return claim_rows(en, e);
}

void engine_done(struct engine *en)
{
	if (!en->guards)
		return;
	pthread_mutex_destroy(&en->lock);
	pthread_mutex_destroy(&en->events);
	pthread_mutex_destroy(&en->retention);
	en->guards = NULL;
}
