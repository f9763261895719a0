// SPDX-License-Identifier: Apache-2.0
// How this works. The rows of all children are written before the host is told, and each is
// confirmed or dropped as the host is done with it. As a stream the fork runs on a thread of its
// own, and the reply's thread waits for lines: the first child that lives decides that the status
// is 200.
#include "control/api/fork.h"
#include <pthread.h>
#include <string.h>
#include "base/str.h"
#include "control/api/answer.h"
#include "control/api/fields.h"
#include "control/api/find.h"
#include "control/api/caller.h"
#include "control/api/reply.h"
#include "control/api/work.h"
#include "control/engine/run.h"
#include "base/json.h"
#include "base/request_id.h"

struct fork {
	struct control *c;
	char id[64];
	const struct key_info *key; // of the children, as long as the request
	struct sandbox_row *source;
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
	task_done(&f->task);
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
			.max = FIELDS_MAX_TIMEOUT_SEC,
			.present = ret_has_timeout},
		{.name = "on_timeout", .type = JF_STRING, .out = ret_on_timeout},
		{.name = "env", .type = JF_STRING_MAP, .out = &f->env},
		{.name = "metadata", .type = JF_STRING_MAP, .out = &f->metadata},
	};
	int r = json_read_fields(f->body, fields, ARRAY_SIZE(fields), false, e);
	json_incref(f->metadata);
	f->n = count;
	return r == 0 ? fields_check_maps(f->env, f->metadata, e) : r;
}

static int find_source(struct fork *f, const char *on_timeout, struct err *e)
{
	int r = find_ready(f->c, f->id, &f->source, e);
	if (r < 0)
		return r;
	if (!f->metadata)
		f->metadata = row_metadata(f->source);
	f->on_timeout = f->source->on_timeout;
	return on_timeout ? fields_on_timeout(on_timeout, &f->on_timeout, e) : 0;
}

static int begin(struct fork *f, struct http_request *r, uint64_t timeout_sec, struct err *e)
{
	_cleanup_json_ json_t *none = json_object();
	_cleanup_json_ json_t *children = json_array();
	_cleanup_free_ struct row_new *new = calloc(f->n, sizeof *new);
	const struct row_size size = row_get_size(f->source);
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
			.api_key = f->key->id,
			.owner = f->source->owner,
			.size = size,
			.payer = f->key,
			.metadata = f->metadata,
			.env = f->env ? f->env : none,
			.on_timeout = f->on_timeout,
			.timeout_sec = timeout_sec,
			.is_private = f->source->is_private};
	}
	f->task.op.kind = OPERATION_FORK;
	snprintf(f->task.op.sandbox, sizeof f->task.op.sandbox, "%s", f->source->id);
	f->task.op.request =
		json_pack("{s:I, s:s, s:O}", "ends_at", (json_int_t)fields_ends_at(timeout_sec),
			"on_timeout", fields_on_timeout_text(f->on_timeout), "children", children);
	if (!f->task.op.request)
		return err_errno(e, ENOMEM, "fork");
	return work_begin(f->c, r, &f->task, new, f->n, e);
}

static void child_done(void *ctx, size_t i)
{
	struct fork *f = ctx;
	_cleanup_json_ json_t *j = f->streams ? answer_of_child(&f->task, i) : NULL;
	_cleanup_free_ char *line = j ? json_compact(j) : NULL;
	pthread_mutex_lock(&f->lock);
	f->n_alive += f->task.children[i].fate == CHILD_ALIVE;
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
	f->task.watch = (struct task_watch){child_done, f};
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
		if (alive && f->task.outcome == OUTCOME_UNKNOWN)
			task_set(&f->task, OUTCOME_LATER);
		work_reply(r, &f->task);
		return;
	}
	http_reply_header(r, "Stasis-Operation", f->task.op.id);
	http_reply_stream(r, 200, "application/x-ndjson", next_line, TAKE_PTR(*fp), fork_free);
}

void fork_sandbox(struct http_request *r, void *ctx)
{
	struct err e = {0};
	bool has_timeout = false;
	uint64_t timeout_sec = 0;
	const char *on_timeout = NULL;
	const char *accept = http_req_header(r, "Accept");
	_cleanup_(fork_freep) struct fork *f = calloc(1, sizeof *f);
	if (!f) {
		err_errno(&e, ENOMEM, "fork");
		reply_error(r, &e);
		return;
	}
	f->c = ctx;
	f->key = caller_key(r);
	pthread_mutex_init(&f->lock, NULL);
	pthread_cond_init(&f->wake, NULL);
	f->streams = accept && strstr(accept, "application/x-ndjson");
	find_path_id(f->c, r, f->id);
	// The host's messages have room for an id of this size.
	int rc =
		id_is_sandbox(f->id) && strlen(f->id) < SANDBOX_ID_SIZE
			? 0
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
		rc = caller_take_creates(f->c, r, f->n, &e);
	if (rc == 0)
		rc = begin(f, r, has_timeout ? timeout_sec : f->source->timeout_sec, &e);
	if (rc == 0 && f->streams) {
		f->runs = request_id_thread(&f->thread, run_fork, f) == 0;
		// Without a thread the answer comes all at once.
	}
	if (rc < 0)
		reply_error(r, &e);
	if (rc != 0)
		return;
	if (!f->runs)
		run_fork(f);
	reply_fork(r, &f);
}
