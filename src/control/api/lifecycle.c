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
#include "control/internal.h"
#include "http/json.h"

// --- pause

void lifecycle_pause(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	struct host_sandbox s;
	struct err e = {0};
	struct task t = {.op.kind = OPERATION_PAUSE};
	char id[64];
	_cleanup_json_ json_t *body = NULL;
	_cleanup_(row_unrefp) struct row *row = NULL;
	int rc = http_req_json(r, true, &body, &e);
	if (rc == 0)
		rc = json_read_fields(body, NULL, 0, false, &e);
	if (rc == 0)
		rc = work_key(c, r, body, &t);
	sandboxes_path_id(c, r, id);
	if (rc == 0)
		rc = sandboxes_find_ready(c, id, &row, &e);
	if (rc == 0)
		rc = sandboxes_report(c, row, &s, &e);
	if (rc == 0 && s.state == SANDBOX_PAUSED)
		rc = err_set(&e, ERR_CONFLICT, "sandbox '%s' is paused already", row->id);
	if (rc == 0) {
		snprintf(t.op.sandbox, sizeof t.op.sandbox, "%s", row->id);
		work_run(c, r, &t);
	}
	if (rc < 0)
		http_reply_error(r, &e);
	task_done(&c->engine, &t);
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

static int prepare_resume(struct control *c, struct row *row, const struct resume_body *b,
	struct task *t, struct err *e)
{
	struct host_sandbox s;
	char from[UUID_SIZE] = "";
	int r = b->from ? find_own_snapshot(c, row, b->from, from, e) : 0;
	if (r == 0)
		r = sandboxes_report(c, row, &s, e);
	if (r < 0)
		return r;
	if (s.state == SANDBOX_RUNNING && !b->from)
		return err_set(e, ERR_CONFLICT,
			"sandbox '%s' is running: there is nothing to resume", row->id);
	uint64_t ends_at = sandboxes_ends_at(b->has_timeout ? b->timeout_sec : row->timeout_sec);
	t->op.kind = b->from ? OPERATION_ROLLBACK : OPERATION_RESUME;
	snprintf(t->op.sandbox, sizeof t->op.sandbox, "%s", row->id);
	t->op.request = json_pack("{s:s, s:b, s:I}", "from", from, "disk_only", b->disk_only,
		"ends_at", (json_int_t)ends_at);
	return t->op.request ? 0 : err_errno(e, ENOMEM, "resume");
}

void lifecycle_resume(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	struct resume_body b = {0};
	struct task t = {0};
	char id[64];
	struct err e = {0};
	_cleanup_json_ json_t *body = NULL;
	_cleanup_(row_unrefp) struct row *row = NULL;
	int rc = http_req_json(r, true, &body, &e);
	if (rc == 0)
		rc = read_resume(body, &b, &e);
	if (rc == 0)
		rc = work_key(c, r, body, &t);
	sandboxes_path_id(c, r, id);
	if (rc == 0)
		rc = sandboxes_find_ready(c, id, &row, &e);
	if (rc == 0)
		rc = prepare_resume(c, row, &b, &t, &e);
	if (rc == 0) {
		work_run(c, r, &t);
		if (t.rc == 0)
			row->ready_ns = clock_monotonic_ns();
	}
	if (rc < 0)
		http_reply_error(r, &e);
	task_done(&c->engine, &t);
}

// --- fork

struct fork {
	struct control *c;
	char id[64];
	char api_key[UUID_SIZE]; // of the children
	struct row *source;
	json_t *body; // env and metadata are in it
	json_t *env, *metadata;
	enum on_timeout on_timeout;
	size_t n;
	struct task task;
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
	task_done(&f->c->engine, &f->task);
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

static int read_fork(struct fork *f, bool *ret_has_timeout, uint64_t *ret_timeout,
	const char **ret_on_timeout, struct err *e)
{
	uint64_t count = 1;
	const struct json_field fields[] = {
		{.name = "count", .type = JF_U64, .out = &count, .min = 1, .max = HOST_FORK_MAX},
		{.name = "timeout_sec",
			.type = JF_U64,
			.out = ret_timeout,
			.max = MAX_TIMEOUT_SEC,
			.present = ret_has_timeout},
		{.name = "on_timeout", .type = JF_STRING, .out = ret_on_timeout},
		{.name = "env", .type = JF_STRING_MAP, .out = &f->env},
		{.name = "metadata", .type = JF_STRING_MAP, .out = &f->metadata},
	};
	int r = json_read_fields(f->body, fields, ARRAY_SIZE(fields), false, e);
	json_incref(f->metadata);
	f->n = count;
	return r == 0 ? sandboxes_check_maps(f->env, f->metadata, e) : r;
}

static int find_source(struct fork *f, const char *on_timeout, struct err *e)
{
	int r = sandboxes_find_ready(f->c, f->id, &f->source, e);
	if (r < 0)
		return r;
	if (!f->metadata)
		f->metadata = row_metadata(f->source);
	f->on_timeout = f->source->on_timeout;
	return on_timeout ? sandboxes_parse_on_timeout(on_timeout, &f->on_timeout, e) : 0;
}

static int begin(struct fork *f, struct http_request *r, uint64_t timeout_sec, struct err *e)
{
	_cleanup_json_ json_t *none = json_object();
	_cleanup_json_ json_t *children = json_array();
	_cleanup_free_ struct row_new *new = calloc(f->n, sizeof *new);
	if (!new || !none || !children)
		return err_errno(e, ENOMEM, "fork");
	for (size_t i = 0; i < f->n; i++) {
		char op[UUID_SIZE], id[SANDBOX_ID_SIZE];
		id_new_uuid(op);
		id_new_sandbox(id);
		json_t *child = json_pack("{s:s, s:s}", "id", id, "op", op);
		if (json_array_append_new(children, child) < 0)
			return err_errno(e, ENOMEM, "fork");
		new[i] = (struct row_new){.id = json_string_value(json_object_get(child, "id")),
			.template = f->source->template,
			.api_key = f->api_key,
			.metadata = f->metadata,
			.env = f->env ? f->env : none,
			.on_timeout = f->on_timeout,
			.timeout_sec = timeout_sec};
	}
	f->task.op.kind = OPERATION_FORK;
	snprintf(f->task.op.sandbox, sizeof f->task.op.sandbox, "%s", f->source->id);
	f->task.op.request = json_pack("{s:I, s:s, s:O}", "ends_at",
		(json_int_t)sandboxes_ends_at(timeout_sec), "on_timeout",
		f->on_timeout == ON_TIMEOUT_PAUSE ? "pause" : "kill", "children", children);
	if (!f->task.op.request)
		return err_errno(e, ENOMEM, "fork");
	return work_begin(f->c, r, &f->task, new, f->n, e);
}

static void child_done(void *ctx, size_t i)
{
	struct fork *f = ctx;
	_cleanup_json_ json_t *j = f->streams ? task_child_answer(&f->task, i) : NULL;
	_cleanup_free_ char *line = j ? json_compact(j) : NULL;
	pthread_mutex_lock(&f->lock);
	f->n_alive += f->task.children[i].alive;
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
	f->task.child_done = child_done;
	f->task.ctx = f;
	engine_ask(&f->c->engine, &f->task);
	engine_finish(&f->c->engine, &f->task);
	pthread_mutex_lock(&f->lock);
	f->finished = true;
	pthread_cond_broadcast(&f->wake);
	pthread_mutex_unlock(&f->lock);
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
	if (!f->streams || !alive) {
		// A child that lives is an answer, whatever is not known of the others yet.
		if (alive)
			f->task.rc = 0;
		work_reply(r, &f->task);
		return;
	}
	http_reply_header(r, "Stasis-Operation", f->task.op.id);
	http_reply_stream(r, 200, "application/x-ndjson", next_line, TAKE_PTR(*fp), fork_free);
}

void lifecycle_fork(struct http_request *r, void *ctx)
{
	struct err e = {0};
	bool has_timeout = false;
	uint64_t timeout_sec = 0;
	const char *on_timeout = NULL;
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
	sandboxes_path_id(f->c, r, f->id);
	// The host's messages have room for an id of this size.
	int rc =
		id_is_sandbox(f->id) && strlen(f->id) < SANDBOX_ID_SIZE
			? control_key_id(f->c, r, f->api_key, &e)
			: err_set(&e, ERR_NOT_FOUND, "no sandbox '%.64s'", http_req_param(r, "id"));
	if (rc == 0)
		rc = http_req_json(r, true, &f->body, &e);
	if (rc == 0)
		rc = read_fork(f, &has_timeout, &timeout_sec, &on_timeout, &e);
	if (rc == 0)
		rc = work_key(f->c, r, f->body, &f->task);
	if (rc == 0)
		rc = find_source(f, on_timeout, &e);
	if (rc == 0)
		rc = begin(f, r, has_timeout ? timeout_sec : f->source->timeout_sec, &e);
	if (rc == 0 && f->streams) {
		f->runs = pthread_create(&f->thread, NULL, run_fork, f) == 0;
		// Without a thread the answer comes all at once.
	}
	if (rc < 0)
		http_reply_error(r, &e);
	if (rc != 0)
		return;
	if (!f->runs)
		run_fork(f);
	reply_fork(r, &f);
}
