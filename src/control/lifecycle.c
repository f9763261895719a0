// SPDX-License-Identifier: Apache-2.0
// Pause, resume and fork. Which of two calls at once wins is the host's decision; here only the
// plain cases are refused, with a clearer text.
//
// A fork writes the rows of all its children before the host is told, and confirms or drops each as
// the host is done with it. As a stream it runs on a thread of its own, and the reply's thread
// waits for lines: the first child that lives decides that the status is 200.
#include <pthread.h>
#include <string.h>
#include "base/clock.h"
#include "base/log.h"
#include "control/internal.h"
#include "http/json.h"

// --- pause

void lifecycle_pause(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	struct host_sandbox s;
	struct err e = {0};
	_cleanup_json_ json_t *body = NULL;
	_cleanup_(row_unrefp) struct row *row = NULL;
	int rc = http_req_json(r, true, &body, &e);
	if (rc == 0)
		rc = json_read_fields(body, NULL, 0, false, &e);
	if (rc == 0)
		rc = sandboxes_find_ready(c, http_req_param(r, "id"), &row, &e);
	if (rc == 0)
		rc = sandboxes_report(c, row, &s, &e);
	if (rc == 0 && s.state == SANDBOX_PAUSED)
		rc = err_set(&e, ERR_CONFLICT, "sandbox '%s' is paused already", row->id);
	if (rc == 0) {
		char op[UUID_SIZE];
		id_new_uuid(op);
		rc = c->host.ops->pause(c->host.host, op, row->id, &s, &e);
	}
	if (rc < 0)
		http_reply_error(r, &e);
	else
		sandboxes_reply(r, 200, row, &s);
}

// --- resume

struct resume_body {
	uint64_t timeout_sec;
	bool has_timeout, disk_only;
	const char *from;
};

static int read_resume(json_t *body, struct resume_body *b, struct err *e)
{
	const struct json_field fields[] = {
		{.name = "timeout_sec",
			.type = JF_U64,
			.out = &b->timeout_sec,
			.max = MAX_TIMEOUT_SEC,
			.present = &b->has_timeout},
		{.name = "from", .type = JF_STRING, .out = &b->from, .max = 63},
		{.name = "disk_only", .type = JF_BOOL, .out = &b->disk_only},
	};
	int r = json_read_fields(body, fields, ARRAY_SIZE(fields), false, e);
	if (r == 0 && b->from && !id_is_name(b->from))
		return err_set(e, ERR_INVALID, "from: " NAME_RULE);
	return r;
}

static int find_own_snapshot(struct control *c, const struct row *row, const char *name,
	char snapshot[UUID_SIZE], struct err *e)
{
	struct template t;
	int r = templates_get(c->templates, name, &t, e);
	if (r < 0)
		return err_prefix(e, r, "from");
	if (!str_eq(t.sandbox, row->id))
		return err_set(e, ERR_INVALID,
			"from: snapshot '%s' is of sandbox '%s': create a sandbox from it instead",
			name, t.sandbox);
	memcpy(snapshot, t.snapshot, UUID_SIZE);
	return 0;
}

static int resume(struct control *c, struct row *row, const struct resume_body *b,
	struct host_sandbox *ret, struct err *e)
{
	struct host_resume req = {.disk_only = b->disk_only, .token = row->token};
	int r = b->from ? find_own_snapshot(c, row, b->from, req.from, e) : 0;
	if (r == 0)
		r = sandboxes_report(c, row, ret, e);
	if (r < 0)
		return r;
	if (ret->state == SANDBOX_RUNNING && !b->from)
		return err_set(e, ERR_CONFLICT,
			"sandbox '%s' is running: there is nothing to resume", row->id);
	id_new_uuid(req.op_id);
	snprintf(req.id, sizeof req.id, "%s", row->id);
	req.ends_at_ns = sandboxes_ends_at(b->has_timeout ? b->timeout_sec : row->timeout_sec);
	r = c->host.ops->resume(c->host.host, &req, ret, e);
	if (r == 0)
		row->ready_ns = clock_monotonic_ns();
	return r;
}

void lifecycle_resume(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	struct resume_body b = {0};
	struct host_sandbox s;
	struct err e = {0};
	_cleanup_json_ json_t *body = NULL;
	_cleanup_(row_unrefp) struct row *row = NULL;
	int rc = http_req_json(r, true, &body, &e);
	if (rc == 0)
		rc = read_resume(body, &b, &e);
	if (rc == 0)
		rc = sandboxes_find_ready(c, http_req_param(r, "id"), &row, &e);
	if (rc == 0)
		rc = resume(c, row, &b, &s, &e);
	if (rc < 0)
		http_reply_error(r, &e);
	else
		sandboxes_reply(r, 200, row, &s);
}

// --- fork

struct child {
	struct row *row;
	struct host_sandbox info;
	json_t *result; // set when it is done
	bool alive;
};

struct fork {
	struct control *c;
	struct row *source;
	json_t *body; // env and metadata are in it
	json_t *env, *metadata;
	struct host_fork req;
	struct child *children; // as many as req.n
	int rc;
	struct err e;
	// as a stream
	pthread_t thread;
	bool streams, runs;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	struct strbuf lines; // under lock, as the two below
	size_t n_alive;
	bool finished;
};

static void fork_free(void *p)
{
	struct fork *f = p;
	if (f->runs)
		pthread_join(f->thread, NULL);
	for (size_t i = 0; f->children && i < f->req.n; i++) {
		row_unref(f->children[i].row);
		json_decref(f->children[i].result);
	}
	free(f->children);
	free(f->req.children);
	row_unref(f->source);
	json_decref(f->metadata);
	json_decref(f->body);
	strbuf_done(&f->lines);
	pthread_cond_destroy(&f->wake);
	pthread_mutex_destroy(&f->lock);
	free(f);
}
static void fork_freep(struct fork **f)
{
	if (*f)
		fork_free(*f);
}

static int read_fork(struct fork *f, bool *ret_has_timeout, uint64_t *ret_timeout, struct err *e)
{
	const char *on_timeout = NULL;
	uint64_t count = 1;
	json_t *metadata = NULL;
	const struct json_field fields[] = {
		{.name = "count", .type = JF_U64, .out = &count, .min = 1, .max = HOST_FORK_MAX},
		{.name = "timeout_sec",
			.type = JF_U64,
			.out = ret_timeout,
			.max = MAX_TIMEOUT_SEC,
			.present = ret_has_timeout},
		{.name = "on_timeout", .type = JF_STRING, .out = &on_timeout},
		{.name = "env", .type = JF_STRING_MAP, .out = &f->env},
		{.name = "metadata", .type = JF_STRING_MAP, .out = &metadata},
	};
	int r = json_read_fields(f->body, fields, ARRAY_SIZE(fields), false, e);
	if (r == 0)
		r = sandboxes_check_maps(f->env, metadata, e);
	if (r == 0)
		r = sandboxes_find_ready(f->c, f->req.id, &f->source, e);
	if (r < 0)
		return r;
	f->req.n = count;
	f->metadata = json_incref(metadata ? metadata : f->source->metadata);
	f->req.on_timeout = f->source->on_timeout;
	return on_timeout ? sandboxes_parse_on_timeout(on_timeout, &f->req.on_timeout, e) : 0;
}

static int add_rows(struct fork *f, uint64_t timeout_sec, struct err *e)
{
	size_t n = f->req.n;
	_cleanup_json_ json_t *none = json_object();
	_cleanup_free_ struct row_new *new = calloc(n, sizeof *new);
	_cleanup_free_ struct row **rows = calloc(n, sizeof *rows);
	f->children = calloc(n, sizeof *f->children);
	f->req.children = calloc(n, sizeof *f->req.children);
	if (!new || !rows || !f->children || !f->req.children)
		return err_errno(e, ENOMEM, "fork");
	for (size_t i = 0; i < n; i++) {
		struct host_fork_child *child = &f->req.children[i];
		id_new_uuid(child->op_id);
		id_new_sandbox(child->id);
		child->env = f->env;
		child->info = &f->children[i].info;
		new[i] = (struct row_new){.id = child->id,
			.template = f->source->template,
			.metadata = f->metadata,
			.env = f->env ? f->env : none,
			.on_timeout = f->req.on_timeout,
			.timeout_sec = timeout_sec};
	}
	int r = rows_add(f->c->rows, new, n, rows, e);
	if (r < 0)
		return r;
	for (size_t i = 0; i < n; i++) {
		f->children[i].row = rows[i];
		f->req.children[i].token = rows[i]->token;
	}
	return 0;
}

static json_t *error_json(const char *id, const struct err *e)
{
	return json_pack("{s:{s:s, s:o}, s:s}", "error", "code", err_info(e->code)->name, "message",
		control_json_or_null(e->text), "id", id);
}

static void child_done(void *ctx, size_t i)
{
	struct fork *f = ctx;
	struct child *child = &f->children[i];
	struct host_fork_child *h = &f->req.children[i];
	if (child->result)
		return;
	if (h->rc == 0)
		h->rc = sandboxes_confirm(f->c, child->row, &h->e);
	child->alive = h->rc == 0;
	if (!child->alive) {
		if (!err_is_set(&h->e))
			err_errno(&h->e, h->rc, "fork");
		sandboxes_drop(f->c, child->row, h->e.text);
	}
	child->result = child->alive ? sandboxes_json(child->row, &child->info)
				     : error_json(child->row->id, &h->e);
	if (!child->result)
		child->result = json_pack("{s:s}", "id", child->row->id);
	_cleanup_free_ char *line = f->streams ? json_compact(child->result) : NULL;
	pthread_mutex_lock(&f->lock);
	f->n_alive += child->alive;
	if (line) {
		strbuf_adds(&f->lines, line);
		strbuf_addc(&f->lines, '\n');
	}
	pthread_cond_broadcast(&f->wake);
	pthread_mutex_unlock(&f->lock);
}

static void *run_fork(void *arg)
{
	struct fork *f = arg;
	f->req.done = child_done;
	f->req.ctx = f;
	f->rc = f->c->host.ops->fork(f->c->host.host, &f->req, &f->e);
	for (size_t i = 0; i < f->req.n; i++) {
		struct host_fork_child *h = &f->req.children[i];
		if (f->children[i].result)
			continue;
		if (f->rc < 0) {
			h->rc = f->rc;
			h->e = f->e;
		}
		child_done(f, i);
	}
	pthread_mutex_lock(&f->lock);
	f->finished = true;
	pthread_cond_broadcast(&f->wake);
	pthread_mutex_unlock(&f->lock);
	log_info("forked sandbox=%s children=%zu of=%zu", f->source->id, f->n_alive, f->req.n);
	return NULL;
}

static ssize_t next_line(void *stream, char *buf, size_t max)
{
	struct fork *f = stream;
	pthread_mutex_lock(&f->lock);
	while (f->lines.len == 0 && !f->finished)
		pthread_cond_wait(&f->wake, &f->lock);
	ssize_t n = f->lines.failed ? -ENOMEM : (ssize_t)MIN(max, f->lines.len);
	if (n > 0) {
		memcpy(buf, f->lines.data, (size_t)n);
		strbuf_consume(&f->lines, (size_t)n);
	}
	pthread_mutex_unlock(&f->lock);
	return n;
}

// Steals f when the answer is a stream.
static void reply_fork(struct http_request *r, struct fork **fp)
{
	struct fork *f = *fp;
	pthread_mutex_lock(&f->lock);
	while (!f->finished && f->n_alive == 0)
		pthread_cond_wait(&f->wake, &f->lock);
	bool alive = f->n_alive > 0;
	pthread_mutex_unlock(&f->lock);
	if (!alive) {
		http_reply_error(r, &f->req.children[0].e);
		return;
	}
	if (f->streams) {
		http_reply_stream(
			r, 200, "application/x-ndjson", next_line, TAKE_PTR(*fp), fork_free);
		return;
	}
	json_t *list = json_array();
	for (size_t i = 0; i < f->req.n; i++)
		json_array_append(list, f->children[i].result);
	http_reply_json(r, 200, json_pack("{s:o}", "children", list));
}

void lifecycle_fork(struct http_request *r, void *ctx)
{
	struct err e = {0};
	bool has_timeout = false;
	uint64_t timeout_sec = 0;
	const char *accept = http_req_header(r, "Accept");
	_cleanup_(fork_freep) struct fork *f = calloc(1, sizeof *f);
	if (!f) {
		err_errno(&e, ENOMEM, "fork");
		http_reply_error(r, &e);
		return;
	}
	f->c = ctx;
	pthread_mutex_init(&f->lock, NULL);
	pthread_cond_init(&f->wake, NULL);
	f->streams = accept && strstr(accept, "application/x-ndjson");
	const char *id = http_req_param(r, "id");
	// What is longer is no sandbox's, and must not become one by being cut.
	int rc = id_is_sandbox(id) && strlen(id) < sizeof f->req.id
			 ? 0
			 : err_set(&e, ERR_NOT_FOUND, "no sandbox '%.64s'", id);
	if (rc == 0) {
		snprintf(f->req.id, sizeof f->req.id, "%s", id);
		rc = http_req_json(r, true, &f->body, &e);
	}
	if (rc == 0)
		rc = read_fork(f, &has_timeout, &timeout_sec, &e);
	if (rc == 0) {
		if (!has_timeout)
			timeout_sec = f->source->timeout_sec;
		f->req.ends_at_ns = sandboxes_ends_at(timeout_sec);
		id_new_uuid(f->req.op_id);
		rc = add_rows(f, timeout_sec, &e);
	}
	if (rc == 0 && f->streams) {
		f->runs = pthread_create(&f->thread, NULL, run_fork, f) == 0;
		// Without a thread the answer comes all at once.
	}
	if (rc < 0) {
		http_reply_error(r, &e);
		return;
	}
	if (!f->runs)
		run_fork(f);
	reply_fork(r, &f);
}
