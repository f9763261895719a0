// SPDX-License-Identifier: Apache-2.0
#include "control/api/find.h"
#include <string.h>
#include "base/str.h"
#include "control/api/caller.h"
#include "control/engine/catchup.h"
#include "control/engine/run.h"
#include "control/state/render.h"

int find_none(const char *id, struct err *e)
{
	return err_set(e, ERR_NOT_FOUND, "no sandbox '%.64s'", id);
}

void find_id(struct control *c, struct http_request *r, const char *text, char ret_id[64])
{
	const struct key_info *key = caller_key(r);
	_cleanup_(row_unrefp) struct sandbox_row *row = rows_get(c->rows, text);
	// Names cannot look like ids that are made.
	if (!row && key && id_is_name(text) && !id_is_made(text))
		row = rows_named(c->rows, key->id, text);
	snprintf(ret_id, 64, "%s", row ? row->id : text);
}

void find_path_id(struct control *c, struct http_request *r, char ret_id[64])
{
	find_id(c, r, http_req_param(r, "id"), ret_id);
}

int find_filter_id(
	struct control *c, struct http_request *r, const char *text, char ret_id[64], struct err *e)
{
	ret_id[0] = '\0';
	if (!text)
		return 0;
	find_id(c, r, text, ret_id);
	_cleanup_(row_unrefp) struct sandbox_row *row = rows_get(c->rows, ret_id);
	char owner[KEY_OWNER_SIZE];
	int rc = caller_owner(r) ? rows_owner(c->rows, ret_id, owner, e) : 0;
	if (rc < 0)
		return rc;
	if (caller_owner(r) && !caller_sees(r, owner))
		return find_none(text, e);
	if (row || id_is_made(text))
		return 0;
	err_set(e, ERR_NOT_FOUND,
		"sandbox: no sandbox '%.64s'; of one that is forgotten the id is "
		"taken, not the name",
		text);
	return -ENOENT;
}

// --- what is known of one

static void synthesise(
	const struct sandbox_row *row, enum sandbox_state state, struct host_sandbox *ret)
{
	*ret = (struct host_sandbox){.state = state, .on_timeout = row->on_timeout};
	snprintf(ret->id, sizeof ret->id, "%s", row->id);
	snprintf(ret->template, sizeof ret->template, "%s", row->template);
	ret->created_ns = row->created_ns;
}

void find_unreachable(const struct sandbox_row *row, struct host_sandbox *ret)
{
	synthesise(row, SANDBOX_UNREACHABLE, ret);
}

static int unreachable(const struct sandbox_row *row, struct host_sandbox *ret)
{
	find_unreachable(row, ret);
	return 0;
}

// The host does not have it. Whether that is a loss is the reconciler's to say.
static int report_missing(
	struct control *c, struct sandbox_row *row, struct host_sandbox *ret, struct err *e)
{
	if (row->now != ROW_CREATING && !underway_is_on(c->underway, row->id)) {
		int r = engine_correct(&c->engine, row->id, e);
		if (r < 0)
			return r;
	}
	const struct host_sandbox *ended = row_ended(row);
	if (ended)
		*ret = *ended;
	else if (c->engine.reach != ENGINE_REACHED)
		return unreachable(row, ret);
	else
		synthesise(row,
			row->now == ROW_CREATING ? SANDBOX_PENDING
			: row->now == ROW_PAUSED ? SANDBOX_PAUSED
						 : SANDBOX_RUNNING,
			ret);
	return 0;
}

int find_report(struct control *c, struct sandbox_row *row, struct host_sandbox *ret, struct err *e)
{
	const struct host_sandbox *ended = row_ended(row);
	if (ended) {
		*ret = *ended;
		return 0;
	}
	if (c->engine.reach == ENGINE_NO_VOLUME)
		return unreachable(row, ret);
	struct host_sandbox s;
	struct err why = {0};
	int r = c->host.ops->get(c->host.host, row->id, &s, &why);
	if (r < 0 && why.code == ERR_NOT_FOUND)
		return report_missing(c, row, ret, e);
	if (r < 0 && (why.code == ERR_UNAVAILABLE || why.code == ERR_TIMEOUT))
		return unreachable(row, ret);
	if (r < 0) {
		if (e)
			*e = why;
		return r;
	}
	if (s.state == SANDBOX_STOPPED && row->now != ROW_CREATING) {
		r = rows_end(c->rows, row, &s, NULL, e);
		if (r < 0)
			return r;
		s = *row_ended(row);
	}
	*ret = s;
	return 0;
}

static int add_cause(const struct host_sandbox *ended, int rc, struct err *e)
{
	if (e) {
		snprintf(e->cause, sizeof e->cause, "%s", ended->cause);
		e->ended_ns = ended->stopped_ns;
	}
	return rc;
}

void find_say_cause(const struct sandbox_row *row, struct err *e)
{
	const struct host_sandbox *ended = row ? row_ended(row) : NULL;
	if (ended && (e->code == ERR_NOT_FOUND || e->code == ERR_CONFLICT))
		add_cause(ended, 0, e);
}

int find_say_ended(const struct host_sandbox *ended, struct err *e)
{
	int rc = err_set(e, ERR_NOT_FOUND, "no sandbox '%s' any more: it has ended (%s)", ended->id,
		ended->cause);
	return add_cause(ended, rc, e);
}

int find_mine(
	struct control *c, struct http_request *r, const char *text, char ret_id[64], struct err *e)
{
	char owner[KEY_OWNER_SIZE];
	find_id(c, r, text, ret_id);
	int rc = caller_owner(r) ? rows_owner(c->rows, ret_id, owner, e) : 0;
	return rc < 0 || !caller_owner(r) || caller_sees(r, owner) ? rc : find_none(text, e);
}

int find_snapshot(struct control *c, const struct http_request *r, const char *name, bool to_change,
	struct template *ret, struct err *e)
{
	int rc = templates_get(c->db, name, ret, e);
	if (rc < 0 || caller_sees(r, ret->owner))
		return rc;
	if (ret->public && !to_change)
		return 0;
	if (ret->public)
		return err_set(e, ERR_FORBIDDEN, "snapshot '%.63s' is not yours to change", name);
	return templates_none(name, e);
}

int find_live(struct control *c, const char *id, struct sandbox_row **ret, struct err *e)
{
	struct sandbox_row *row = rows_get(c->rows, id);
	const struct host_sandbox *ended = row ? row_ended(row) : NULL;
	if (!row || ended) {
		int r = ended ? find_say_ended(ended, e) : find_none(id, e);
		row_unref(row);
		return r;
	}
	*ret = row;
	return 0;
}

int find_ready(struct control *c, const char *id, struct sandbox_row **ret, struct err *e)
{
	int r = find_live(c, id, ret, e);
	// Where nobody is at the create any more, its end is what counts.
	if (r == 0 && (*ret)->now == ROW_CREATING &&
		(engine_settle_on(&c->engine, id, NULL) < 0 || row_ended(*ret) ||
			!(*ret)->linked)) {
		*ret = row_unref(*ret);
		r = find_live(c, id, ret, e);
	}
	if (r == 0 && (*ret)->now == ROW_CREATING) {
		r = err_set(e, ERR_CONFLICT, "sandbox '%s' is still being created", (*ret)->id);
		*ret = row_unref(*ret);
	}
	return r;
}

int find_running(struct control *c, const char *id, struct sandbox_row **ret,
	struct host_sandbox *ret_now, struct err *e)
{
	int rc = find_ready(c, id, ret, e);
	if (rc == 0)
		rc = find_report(c, *ret, ret_now, e);
	if (rc == 0 && row_ended(*ret))
		rc = find_say_ended(ret_now, e);
	return rc;
}

int find_base(struct control *c, const char *name, struct host_template *ret, size_t *ret_n,
	struct err *e)
{
	_cleanup_free_ struct host_template *list = NULL;
	size_t n = 0;
	int r = c->host.ops->templates(c->host.host, &list, &n, e);
	if (r < 0)
		return r;
	if (ret_n)
		*ret_n = n;
	for (size_t i = 0; i < n; i++)
		if (str_eq(list[i].name, name)) {
			*ret = list[i];
			return 1;
		}
	return 0;
}
