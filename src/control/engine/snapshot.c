// SPDX-License-Identifier: Apache-2.0
// How this works. A snapshot has its name when the host has made it, in the transaction of its end.
// One that had the name before loses it then, and its deletion is begun in the same transaction, as
// an operation of its own. What was not made, or has no name in the end, the reconciler drops by
// the journal.
#include "control/engine/snapshot.h"
#include <string.h>
#include "base/log.h"
#include "base/str.h"
#include "control/engine/effect.h"
#include "base/json.h"

int snapshot_begin(struct engine *en, struct task *t, const struct row_new *new, size_t n,
	const struct db_also *also, struct err *e)
{
	return templates_begin(
		en->db, task_text(t, "name"), t->op.owner, task_flag(t, "overwrite"), also, e);
}

static int call(struct engine *en, struct task *t)
{
	struct host_snapshot_create req = {0};
	memcpy(req.op_id, t->op.id, sizeof req.op_id);
	snprintf(req.id, sizeof req.id, "%s", t->op.sandbox);
	memcpy(req.snapshot, t->op.snapshot, sizeof req.snapshot);
	snprintf(req.rewarm, sizeof req.rewarm, "%s", task_text(t, "rewarm"));
	return en->host.ops->snapshot_create(en->host.host, &req, &t->snapshot, &t->e);
}

int snapshot_ask(struct engine *en, struct task *t)
{
	if (!t->adopted) {
		int rc = call(en, t);
		struct err why = {0};
		t->has_info = rc == 0 && t->op.sandbox[0] &&
			      engine_get(en, t->op.sandbox, &t->info, &why) == 0;
		return rc;
	}
	_cleanup_free_ struct host_snapshot *list = NULL;
	size_t n = 0;
	int rc = en->host.ops->snapshots(en->host.host, &list, &n, &t->e);
	for (size_t i = 0; rc == 0 && i < n; i++)
		if (str_eq(list[i].id, t->op.snapshot)) {
			t->snapshot = list[i];
			return 0;
		}
	if (rc < 0) { // that says nothing about it
		task_set(t, OUTCOME_UNKNOWN);
		return rc;
	}
	return task_is_wanted(en, t) ? call(en, t) : task_cut_short(t);
}

// What is written with the end: the deletion of the snapshot that had the name.
struct replacing {
	struct engine *en;
	const char *meant;	   // the one that is replaced, by a rewarm; "": whatever it is
	struct operation deletion; // its snapshot is "" when nothing had the name
	const struct db_also *end;
};

static int write_deletion(void *ctx, struct db *db, struct err *e)
{
	struct replacing *r = ctx;
	if (*r->meant && !str_eq(r->meant, r->deletion.snapshot))
		return err_set(e, ERR_CONFLICT, "it was replaced or deleted meanwhile");
	int rc = r->deletion.snapshot[0] ? operations_insert(db, &r->deletion, e) : 0;
	return rc == 0 ? db_run_also(db, r->end, e) : rc;
}

static int name_it(struct engine *en, struct task *t, const struct db_also *end, struct err *e)
{
	_cleanup_json_ json_t *none = json_object();
	struct replacing r = {.en = en, .meant = task_text(t, "rewarm"), .end = end};
	const struct db_also also = {write_deletion, &r};
	const struct host_snapshot *s = &t->snapshot;
	t->template = (struct template){.vcpus = s->vcpus,
		.memory_mb = s->memory_mb,
		.disk_mb = s->disk_mb,
		.memory_bytes = s->memory_bytes,
		.disk_bytes = s->disk_bytes,
		.created_ns = s->created_ns ? s->created_ns : en->now_ns(en->ctx)};
	snprintf(t->template.name, sizeof t->template.name, "%s", task_text(t, "name"));
	snprintf(t->template.parent, sizeof t->template.parent, "%s", task_text(t, "parent"));
	snprintf(t->template.api_key, sizeof t->template.api_key, "%s", task_text(t, "owner"));
	memcpy(t->template.owner, t->op.owner, sizeof t->template.owner);
	memcpy(t->template.snapshot, t->op.snapshot, sizeof t->template.snapshot);
	snprintf(t->template.sandbox, sizeof t->template.sandbox, "%s",
		*r.meant ? task_text(t, "sandbox") : t->op.sandbox);
	r.deletion.kind = OPERATION_SNAPSHOT_DELETE;
	memcpy(r.deletion.owner, t->op.owner, sizeof r.deletion.owner);
	r.deletion.request = none;
	r.deletion.created_ns = en->now_ns(en->ctx);
	en->new_uuid(en->ctx, r.deletion.id);
	int rc = templates_commit(
		en->db, &t->template, task_flag(t, "overwrite"), r.deletion.snapshot, &also, e);
	if (rc == 0 && r.deletion.snapshot[0]) {
		memcpy(t->follow_up, r.deletion.id, sizeof t->follow_up);
		if (underway_add_orphan(en->underway, &r.deletion, NULL) < 0)
			t->follow_up[0] = '\0'; // the next start finds it
	}
	return rc;
}

int snapshot_finish(struct engine *en, struct task *t, const struct db_also *also, struct err *e)
{
	if (task_is_done(t)) {
		int rc = name_it(en, t, also, e);
		// The name was taken meanwhile, or the host talks nonsense: a failure like others.
		if (rc == 0 || (e->code != ERR_CONFLICT && e->code != ERR_INVALID))
			return rc;
		task_set(t, OUTCOME_REFUSED);
		t->e = *e;
		*e = (struct err){0};
	}
	log_warn("snapshot failed name=%s snapshot=%s sandbox=%s: %s", task_text(t, "name"),
		t->op.snapshot, t->op.sandbox, t->e.text);
	int rc = engine_write(en, also, e);
	// Made or not, it is to go: the reconciler asks again where this fails.
	struct err why = {0};
	char op[UUID_SIZE];
	en->new_uuid(en->ctx, op);
	if (rc == 0 && en->host.ops->snapshot_delete(en->host.host, op, t->op.snapshot, &why) < 0 &&
		why.code != ERR_NOT_FOUND)
		log_warn("deletion is tried again later snapshot=%s: %s", t->op.snapshot, why.text);
	return rc;
}

struct checked_removal {
	const struct task *t;
	const struct db_also *also;
};

// By retention: the name may be another snapshot's by now.
static int check_removal(void *ctx, struct db *db, struct err *e)
{
	const struct checked_removal *c = ctx;
	const char *meant = task_text(c->t, "snapshot");
	if (*meant && !str_eq(meant, c->t->op.snapshot))
		return err_set(e, ERR_CONFLICT, "snapshot '%s' was replaced meanwhile",
			task_text(c->t, "name"));
	return db_run_also(db, c->also, e);
}

int snapshot_delete_begin(struct engine *en, struct task *t, const struct row_new *new, size_t n,
	const struct db_also *also, struct err *e)
{
	struct checked_removal c = {t, also};
	const struct db_also checked = {check_removal, &c};
	return templates_remove(en->db, task_text(t, "name"), t->op.snapshot, &checked, e);
}

// The name is gone: for the user that is all, and the host is asked until it has followed.
int snapshot_delete_ask(struct engine *en, struct task *t)
{
	if (!task_may_ask(en, t))
		return task_too_old(t);
	int rc = en->host.ops->snapshot_delete(en->host.host, t->op.id, t->op.snapshot, &t->e);
	if (rc == 0 || t->e.code == ERR_NOT_FOUND) {
		t->e = (struct err){0};
		return 0;
	}
	log_warn("deletion is tried again later snapshot=%s: %s", t->op.snapshot,
		err_text(&t->e, rc));
	task_set(t, OUTCOME_UNKNOWN);
	if (!t->adopted)
		task_set(t, OUTCOME_LATER);
	return rc;
}
