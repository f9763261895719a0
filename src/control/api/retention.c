// SPDX-License-Identifier: Apache-2.0
#include "control/api/retention.h"
#include <string.h>
#include "base/clock.h"
#include "base/id.h"
#include "base/json.h"
#include "base/str.h"
#include "control/api/context.h"
#include "control/api/find.h"
#include "control/api/reply.h"
#include "control/api/work.h"
#include "control/engine/retention.h"
#include "control/state/render.h"

#define GRACE_DEFAULT_SEC 86400u
#define MAX_SEC (100ull * 366 * 86400)

static json_t *limit_json(bool has, uint64_t n)
{
	return has ? json_integer((json_int_t)n) : json_null();
}

static json_t *rule_json(const struct retention_rule *r)
{
	return json_pack("{s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:s, s:I, s:o}", "name", r->name,
		"what", r->kind == RETENTION_SANDBOX ? "paused" : "snapshots", "max_age_sec",
		limit_json(r->has_age, r->max_age_sec), "keep_newest",
		limit_json(r->has_newest, r->keep_newest), "max_bytes",
		limit_json(r->has_bytes, r->max_bytes), "key", render_text(r->api_key), "template",
		render_text(r->template), "per", retention_per_name(r->per), "grace_sec",
		(json_int_t)r->grace_sec, "created_at", render_time(r->created_ns));
}

static json_t *rules_json(struct control *c, struct err *e)
{
	_cleanup_free_ struct retention_rule *list = NULL;
	size_t n = 0;
	if (retention_rules(c->db, &list, &n, e) < 0)
		return NULL;
	json_t *out = json_array();
	for (size_t i = 0; i < n; i++)
		json_array_append_new(out, rule_json(&list[i]));
	return out;
}

static json_t *one_kept_json(enum retention_kind kind, const char *id)
{
	return json_pack("{s:s, s:s}", "kind", retention_kind_name(kind), "id", id);
}

static json_t *kept_json(struct control *c, struct err *e)
{
	_cleanup_free_ struct retention_kept *list = NULL;
	size_t n = 0;
	if (retention_kept(c->db, &list, &n, e) < 0)
		return NULL;
	json_t *out = json_array();
	for (size_t i = 0; i < n; i++)
		json_array_append_new(out, one_kept_json(list[i].kind, list[i].id));
	return out;
}

void retention_get(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	struct err e = {0};
	json_t *rules = rules_json(c, &e), *kept = rules ? kept_json(c, &e) : NULL;
	if (kept) {
		http_reply_json(r, 200, json_pack("{s:o, s:o}", "rules", rules, "kept", kept));
		return;
	}
	json_decref(rules);
	if (!err_is_set(&e))
		err_errno(&e, ENOMEM, "retention");
	reply_error(r, &e);
}

// --- rules

// A key by its id or its name.
static int find_key(struct control *c, const char *text, char ret[UUID_SIZE], struct err *e)
{
	_cleanup_free_ struct key_info *list = NULL;
	size_t n = 0, found = 0;
	int rc = keys_list(c->keys, &list, &n, e);
	for (size_t i = 0; rc == 0 && i < n; i++)
		if (str_eq(list[i].id, text) || str_eq(list[i].name, text)) {
			memcpy(ret, list[i].id, UUID_SIZE);
			found++;
		}
	if (rc == 0 && found != 1)
		rc = err_set(e, ERR_INVALID, "key: %s '%.64s'",
			found ? "more than one is called" : "no key", text);
	return rc;
}

static int read_rule(struct control *c, json_t *body, struct retention_rule *ret, struct err *e)
{
	const char *what = "", *key = "", *template = "", *per = "all";
	const struct json_field fields[] = {
		{"what", JF_STRING, &what, .required = true, .max = 16},
		{"max_age_sec", JF_U64, &ret->max_age_sec, .max = MAX_SEC,
			.present = &ret->has_age},
		{"keep_newest", JF_U64, &ret->keep_newest, .max = 1000000,
			.present = &ret->has_newest},
		{"max_bytes", JF_U64, &ret->max_bytes, .max = INT64_MAX,
			.present = &ret->has_bytes},
		{"key", JF_STRING, &key, .max = 64},
		{"template", JF_STRING, &template, .max = sizeof ret->template - 1},
		{"per", JF_STRING, &per, .max = 16},
		{"grace_sec", JF_U64, &ret->grace_sec, .max = MAX_SEC},
	};
	int rc = json_read_fields(body, fields, ARRAY_SIZE(fields), false, e);
	if (rc < 0)
		return rc;
	bool paused = str_eq(what, "paused");
	if (!paused && !str_eq(what, "snapshots"))
		return err_set(e, ERR_INVALID, "what: must be paused or snapshots");
	ret->kind = paused ? RETENTION_SANDBOX : RETENTION_SNAPSHOT;
	ret->per = RETENTION_PER_MAX;
	for (unsigned p = 0; p < RETENTION_PER_MAX; p++)
		if (str_eq(per, retention_per_name((enum retention_per)p)))
			ret->per = (enum retention_per)p;
	if (ret->per == RETENTION_PER_MAX)
		return err_set(e, ERR_INVALID, "per: must be all, key or template");
	if (!ret->has_age && !ret->has_newest && !ret->has_bytes)
		return err_set(e, ERR_INVALID,
			"a rule needs max_age_sec, keep_newest or max_bytes: without any it would "
			"take everything");
	snprintf(ret->template, sizeof ret->template, "%s", template);
	return *key ? find_key(c, key, ret->api_key, e) : 0;
}

void retention_set_rule(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	const char *name = http_req_param(r, "name");
	struct retention_rule rule = {
		.grace_sec = GRACE_DEFAULT_SEC, .created_ns = clock_realtime_ns()};
	_cleanup_json_ json_t *body = NULL;
	struct err e = {0};
	if (work_refuse_key(r, "setting a rule twice is setting it once"))
		return;
	int rc = http_req_json(r, false, &body, &e);
	if (rc == 0 && !id_is_name(name))
		rc = err_set(&e, ERR_INVALID,
			"name: must be a-z, 0-9, '.', '_' and '-', at most 63, beginning with a "
			"letter "
			"or digit");
	if (rc == 0)
		rc = read_rule(c, body, &rule, &e);
	snprintf(rule.name, sizeof rule.name, "%s", rc == 0 ? name : "");
	if (rc == 0)
		rc = retention_put_rule(c->db, &rule, &e);
	if (rc < 0)
		reply_error(r, &e);
	else
		http_reply_json(r, 200, rule_json(&rule));
}

void retention_delete_rule(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	struct err e = {0};
	if (work_refuse_key(r, "removing a rule twice is removing it once"))
		return;
	if (retention_remove_rule(c->db, http_req_param(r, "name"), &e) < 0)
		reply_error(r, &e);
	else
		http_reply_empty(r, 204);
}

// --- what is kept

// A sandbox that has not ended (by id or name) and a snapshot may have the same name. Both are
// meant then: whoever keeps one must not lose the other. Appends what was kept or released to list.
static int set_kept(struct control *c, struct http_request *r, bool on, json_t *list, struct err *e)
{
	const char *name = http_req_param(r, "name");
	char id[64];
	struct template t;
	find_id(c, r, name, id);
	_cleanup_(row_unrefp) struct sandbox_row *row = rows_get(c->rows, id);
	int rc = templates_get(c->db, name, &t, e);
	if (rc < 0 && e->code != ERR_NOT_FOUND)
		return rc;
	// What is gone may be noted as kept still.
	const bool meant[] = {!on || (row && !row_ended(row)), !on || rc == 0};
	const char *const ids[] = {id, name};
	*e = (struct err){0};
	for (unsigned k = RETENTION_SANDBOX; k <= RETENTION_SNAPSHOT; k++) {
		enum retention_kind kind = (enum retention_kind)k;
		rc = meant[k] ? retention_keep(c->db, kind, ids[k], on, e) : 0;
		if (rc < 0)
			return rc;
		if (on ? meant[k] : rc == 1)
			json_array_append_new(list, one_kept_json(kind, ids[k]));
	}
	if (json_array_size(list))
		return 0;
	return err_set(e, ERR_NOT_FOUND,
		on ? "no sandbox or snapshot '%.63s'" : "nothing is kept under '%.63s'", name);
}

static void answer_kept(struct http_request *r, struct control *c, bool on)
{
	struct err e = {0};
	_cleanup_json_ json_t *list = json_array();
	if (work_refuse_key(r, "keeping it twice is keeping it once"))
		return;
	if (set_kept(c, r, on, list, &e) < 0)
		reply_error(r, &e);
	else
		http_reply_json(r, 200, json_pack("{s:O}", on ? "kept" : "released", list));
}

void retention_set_kept(struct http_request *r, void *ctx)
{
	answer_kept(r, ctx, true);
}

void retention_delete_kept(struct http_request *r, void *ctx)
{
	answer_kept(r, ctx, false);
}

// --- a pass

static json_t *outcome_json(const struct retention_outcome *o)
{
	const struct retention_subject *s = &o->subject;
	return json_pack("{s:s, s:s, s:o, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:o}", "kind",
		retention_kind_name(s->kind), "id", s->id, "name", render_text(s->name), "rule",
		o->rule, "action", retention_action_name(o->action), "reason", s->reason, "age_sec",
		(json_int_t)s->age_sec, "left_sec", (json_int_t)o->left_sec, "unique_bytes",
		(json_int_t)s->unique_bytes, "frees_bytes", (json_int_t)s->frees_bytes, "error",
		render_text(o->e.text));
}

void retention_run_now(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	bool dry_run = false;
	const struct json_field fields[] = {{"dry_run", JF_BOOL, &dry_run}};
	_cleanup_free_ struct retention_outcome *list = NULL;
	_cleanup_json_ json_t *body = NULL;
	size_t n = 0;
	struct err e = {0};
	if (work_refuse_key(r, "a pass is not done again"))
		return;
	int rc = http_req_json(r, true, &body, &e);
	if (rc == 0 && body)
		rc = json_read_fields(body, fields, ARRAY_SIZE(fields), false, &e);
	if (rc == 0)
		rc = engine_retention(&c->engine, c->feed, dry_run, &list, &n, &e);
	if (rc < 0) {
		reply_error(r, &e);
		return;
	}
	json_t *out = json_array();
	for (size_t i = 0; i < n; i++)
		json_array_append_new(out, outcome_json(&list[i]));
	http_reply_json(r, 200, json_pack("{s:b, s:o}", "dry_run", dry_run, "items", out));
}
