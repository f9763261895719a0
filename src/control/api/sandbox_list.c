// SPDX-License-Identifier: Apache-2.0
#include "control/api/sandbox_list.h"
#include <string.h>
#include "base/str.h"
#include "control/api/find.h"
#include "control/api/caller.h"
#include "control/api/page.h"
#include "control/api/reply.h"
#include "control/state/render.h"
#include "base/json.h"

struct filter {
	bool states[SANDBOX_STATE_MAX + 1]; // the last for SANDBOX_UNREACHABLE
	const char *template, *name;
	char *metadata; // "k1=v1&k2=v2", cut up into pairs below
	const char *key[16], *value[16];
	size_t n;
	struct page page;
};

static void filter_done(struct filter *f)
{
	free(f->metadata);
}

int states_read(const char *text, bool ret[SANDBOX_STATE_MAX + 1], struct err *e)
{
	for (int s = 0; s <= SANDBOX_STATE_MAX; s++)
		ret[s] = false;
	for (;;) {
		size_t len = strcspn(text, ",");
		char name[32];
		snprintf(name, sizeof name, "%.*s", (int)MIN(len, sizeof name), text);
		enum sandbox_state s = sandbox_state_parse(name);
		if (s == SANDBOX_STATE_MAX && !str_eq(name, "unreachable"))
			return err_set(e, ERR_INVALID,
				"state: '%s' is none of pending, running, pausing, paused, "
				"resuming, stopping, stopped, error, unreachable",
				name);
		ret[s] = true;
		if (!text[len])
			return 0;
		text += len + 1;
	}
}

static int read_states(const char *text, struct filter *f, struct err *e)
{
	for (int s = 0; s <= SANDBOX_STATE_MAX; s++)
		f->states[s] = text || s != SANDBOX_STOPPED;
	if (!text || str_eq(text, "all"))
		return 0;
	int r = states_read(text, f->states, e);
	if (r < 0 && e)
		strncat(e->text, ", all", sizeof e->text - strlen(e->text) - 1);
	return r;
}

static int read_metadata(struct filter *f, const char *metadata, struct err *e)
{
	if (metadata && !(f->metadata = strdup(metadata)))
		return err_errno(e, ENOMEM, "metadata");
	for (char *p = f->metadata; p && *p;) {
		char *next = strchr(p, '&'), *value;
		if (next)
			*next++ = '\0';
		if (!(value = strchr(p, '=')) || f->n == ARRAY_SIZE(f->key))
			return err_set(e, ERR_INVALID,
				"metadata: must be key=value pairs joined by '&', at most %zu",
				ARRAY_SIZE(f->key));
		*value++ = '\0';
		// A query string inside a query value: so that keys and values may hold '&' and
		// '='.
		if (str_percent_decode(p, true) < 0 || str_percent_decode(value, true) < 0)
			return err_set(e, ERR_INVALID, "metadata: bad percent-encoding");
		f->key[f->n] = p;
		f->value[f->n++] = value;
		p = next;
	}
	return 0;
}

static int read_filter(struct http_request *r, struct filter *f, struct err *e)
{
	f->template = http_req_query(r, "template");
	f->name = http_req_query(r, "name");
	const char *metadata = http_req_query(r, "metadata");
	// "--name $N" with an empty N must not mean all.
	if ((f->name && !*f->name) || (f->template && !*f->template) || (metadata && !*metadata))
		return err_set(e, ERR_INVALID, "%s: is empty",
			f->name && !*f->name	       ? "name"
			: f->template && !*f->template ? "template"
						       : "metadata");
	int rc = page_read(r, &f->page, e);
	if (rc < 0)
		return rc;
	rc = read_metadata(f, metadata, e);
	return rc == 0 ? read_states(http_req_query(r, "state"), f, e) : rc;
}
static bool fits(const struct filter *f, const struct sandbox_row *row, enum sandbox_state state)
{
	if (!f->states[state] || (f->template && !str_eq(f->template, row->template)))
		return false;
	char name[64];
	row_get_name(row, name);
	if (f->name && !str_eq(f->name, name))
		return false;
	_cleanup_json_ json_t *metadata = f->n ? row_metadata(row) : NULL;
	for (size_t i = 0; i < f->n; i++)
		if (!str_eq(json_string_value(json_object_get(metadata, f->key[i])), f->value[i]))
			return false;
	return true;
}

static int by_id(const void *a, const void *b)
{
	const struct host_sandbox *x = a, *y = b;
	return strcmp(x->id, y->id);
}

struct listing {
	struct control *c;
	const struct filter *f;
	const struct http_request *req; // NULL: who sees all
	struct host_sandbox *live;	// as the host says, by id
	size_t n_live;
	bool silent; // it says nothing
	json_t *out;
	uint64_t last_shown, next; // cursors; next 0: there is no other page
};

static int ask_host(struct listing *l, struct err *e)
{
	struct control *c = l->c;
	struct err why = {0};
	l->silent = c->engine.reach == ENGINE_NO_VOLUME;
	int rc = l->silent ? 0 : c->host.ops->list(c->host.host, &l->live, &l->n_live, &why);
	if (rc < 0 && why.code != ERR_UNAVAILABLE && why.code != ERR_TIMEOUT) {
		*e = why;
		return rc;
	}
	l->silent |= rc < 0;
	if (l->n_live)
		qsort(l->live, l->n_live, sizeof *l->live, by_id);
	return 0;
}

// What is known of it; found is room for what the list does not have.
static int look_at(struct listing *l, struct sandbox_row *row, struct host_sandbox *found,
	const struct host_sandbox **ret, struct err *e)
{
	*ret = found;
	if (row_ended(row))
		return find_report(l->c, row, found, e);
	snprintf(found->id, sizeof found->id, "%s", row->id);
	const struct host_sandbox *s =
		l->n_live ? bsearch(found, l->live, l->n_live, sizeof *l->live, by_id) : NULL;
	if (s)
		*ret = s;
	else if (l->silent)
		find_unreachable(row, found);
	else
		return find_report(l->c, row, found, e);
	return 0;
}

// 1: the page is full, and there is another one.
static int show(struct listing *l, struct sandbox_row *row, struct err *e)
{
	struct host_sandbox found;
	const struct host_sandbox *s;
	if (l->req && !caller_sees(l->req, row->owner))
		return 0;
	int rc = look_at(l, row, &found, &s, e);
	if (rc < 0 || !fits(l->f, row, s->state))
		return MIN(rc, 0);
	if (json_array_size(l->out) == l->f->page.limit) {
		l->next = l->last_shown;
		return 1;
	}
	json_t *j = render_sandbox(row, s);
	json_object_del(j, "port_token"); // one at a time, to who asks for it
	if (l->req)
		caller_hide(l->req, j);
	json_array_append_new(l->out, j);
	l->last_shown = row->created_ns;
	return 0;
}

static int list(struct listing *l, struct err *e)
{
	uint64_t before = l->f->page.before;
	struct sandbox_row *rows[PAGE_MAX];
	size_t n;
	int rc = ask_host(l, e);
	while (rc == 0 && (n = rows_older(l->c->rows, before, rows, PAGE_MAX)) > 0) {
		before = rows[n - 1]->created_ns;
		for (size_t i = 0; i < n; i++) {
			if (rc == 0)
				rc = show(l, rows[i], e);
			row_unref(rows[i]);
		}
	}
	free(l->live);
	return MIN(rc, 0);
}

json_t *sandboxes_page(struct control *c, size_t max, struct err *e)
{
	struct filter f = {.page = {max, UINT64_MAX}};
	struct listing l = {.c = c, .f = &f, .out = json_array()};
	int rc = read_states("all", &f, e);
	if (rc == 0)
		rc = list(&l, e);
	if (rc == 0)
		return l.out;
	json_decref(l.out);
	return NULL;
}

void sandboxes_list(struct http_request *r, void *ctx)
{
	_cleanup_(filter_done) struct filter f = {0};
	struct listing l = {.c = ctx, .f = &f, .req = r, .out = json_array()};
	struct err e = {0};
	int rc = read_filter(r, &f, &e);
	if (rc == 0)
		rc = list(&l, &e);
	if (rc == 0) {
		page_reply(r, "sandboxes", l.out, l.next);
		return;
	}
	json_decref(l.out);
	reply_error(r, &e);
}
