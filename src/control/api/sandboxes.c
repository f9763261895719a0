// SPDX-License-Identifier: Apache-2.0
// /v1/sandboxes. A row (what was asked for) is written before the host is told, and a sandbox is
// shown as row and host's report together.
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include "base/clock.h"
#include "base/log.h"
#include "control/internal.h"
#include "http/json.h"

#define DEFAULT_TIMEOUT_SEC 300
#define MAX_ENV (64u << 10)
#define MAX_VCPUS 32
#define PAGE_MAX 100
#define MAX_TAIL 10000 // lines of a console

static int no_sandbox(const char *id, struct err *e)
{
	return err_set(e, ERR_NOT_FOUND, "no sandbox '%.64s'", id);
}

// --- what it is called

int control_key_id(struct control *c, struct http_request *r, char ret_id[UUID_SIZE], struct err *e)
{
	const char *key = control_request_key(r);
	return key && keys_find(c->keys, key, ret_id)
		       ? 0
		       : err_set(e, ERR_UNAUTHENTICATED, "unknown API key");
}

void sandboxes_resolve(struct control *c, struct http_request *r, const char *text, char ret_id[64])
{
	char key[UUID_SIZE];
	_cleanup_(row_unrefp) struct row *row = rows_get(c->rows, text);
	// Names cannot look like ids that are made.
	if (!row && id_is_name(text) && !id_is_made(text) && control_key_id(c, r, key, NULL) == 0)
		row = rows_named(c->rows, key, text);
	snprintf(ret_id, 64, "%s", row ? row->id : text);
}

void sandboxes_path_id(struct control *c, struct http_request *r, char ret_id[64])
{
	sandboxes_resolve(c, r, http_req_param(r, "id"), ret_id);
}

int sandboxes_resolve_filter(
	struct control *c, struct http_request *r, const char *text, char ret_id[64], struct err *e)
{
	ret_id[0] = '\0';
	if (!text)
		return 0;
	sandboxes_resolve(c, r, text, ret_id);
	_cleanup_(row_unrefp) struct row *row = rows_get(c->rows, ret_id);
	if (row || id_is_made(text))
		return 0;
	err_set(e, ERR_NOT_FOUND,
		"sandbox: no sandbox '%.64s'; of one that is forgotten the id is "
		"taken, not the name",
		text);
	return -ENOENT;
}

// --- what is known of one

static void synthesise(const struct row *row, enum sandbox_state state, struct host_sandbox *ret)
{
	*ret = (struct host_sandbox){.state = state, .on_timeout = row->on_timeout};
	snprintf(ret->id, sizeof ret->id, "%s", row->id);
	snprintf(ret->template, sizeof ret->template, "%s", row->template);
	ret->created_ns = row->created_ns;
}

static int unreachable(const struct row *row, struct host_sandbox *ret)
{
	synthesise(row, SANDBOX_UNREACHABLE, ret);
	return 0;
}

// The host does not have it. Whether that is a loss is the reconciler's to say.
static int report_missing(
	struct control *c, struct row *row, struct host_sandbox *ret, struct err *e)
{
	if (row->now != ROW_CREATING && !operations_open_on(c->operations, row->id)) {
		_cleanup_(look_freep) struct look *l = NULL;
		int r = engine_look_at(&c->engine, row->id, &l, e);
		if (r < 0)
			return r;
		engine_apply(&c->engine, l);
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

int sandboxes_report(struct control *c, struct row *row, struct host_sandbox *ret, struct err *e)
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

const char *sandboxes_state_name(enum sandbox_state s)
{
	return s == SANDBOX_UNREACHABLE ? "unreachable" : sandbox_state_name(s);
}

static int add_cause(const struct host_sandbox *ended, int rc, struct err *e)
{
	if (e) {
		snprintf(e->cause, sizeof e->cause, "%s", ended->cause);
		e->ended_ns = ended->stopped_ns;
	}
	return rc;
}

void sandboxes_say_cause(const struct row *row, struct err *e)
{
	const struct host_sandbox *ended = row ? row_ended(row) : NULL;
	if (ended && (e->code == ERR_NOT_FOUND || e->code == ERR_CONFLICT))
		add_cause(ended, 0, e);
}

int sandboxes_say_ended(const struct host_sandbox *ended, struct err *e)
{
	int rc = err_set(e, ERR_NOT_FOUND, "no sandbox '%s' any more: it has ended (%s)", ended->id,
		ended->cause);
	return add_cause(ended, rc, e);
}

int sandboxes_find_live(struct control *c, const char *id, struct row **ret, struct err *e)
{
	struct row *row = rows_get(c->rows, id);
	const struct host_sandbox *ended = row ? row_ended(row) : NULL;
	if (!row || ended) {
		int r = ended ? sandboxes_say_ended(ended, e) : no_sandbox(id, e);
		row_unref(row);
		return r;
	}
	*ret = row;
	return 0;
}

int sandboxes_find_ready(struct control *c, const char *id, struct row **ret, struct err *e)
{
	int r = sandboxes_find_live(c, id, ret, e);
	// Where nobody is at the create any more, its end is what counts.
	if (r == 0 && (*ret)->now == ROW_CREATING &&
		(engine_settle_on(&c->engine, id, NULL) < 0 || row_ended(*ret) ||
			!(*ret)->linked)) {
		*ret = row_unref(*ret);
		r = sandboxes_find_live(c, id, ret, e);
	}
	if (r == 0 && (*ret)->now == ROW_CREATING) {
		r = err_set(e, ERR_CONFLICT, "sandbox '%s' is still being created", (*ret)->id);
		*ret = row_unref(*ret);
	}
	return r;
}

static int put(json_t *object, const char *key, json_t *value)
{
	return json_object_set_new_nocheck(object, key, value);
}

json_t *sandboxes_json(const struct row *row, const struct host_sandbox *s)
{
	json_t *j = json_object();
	char name[64], url[ROW_URL_SIZE];
	row_get_name(row, name);
	row_url(row, url);
	int r = put(j, "id", json_string(row->id));
	r |= put(j, "name", control_json_or_null(name));
	r |= put(j, "template", json_string(row->template));
	r |= put(j, "state", json_string(sandboxes_state_name(s->state)));
	r |= put(j, "vcpus", json_integer(s->vcpus));
	r |= put(j, "memory_mb", json_integer(s->memory_mb));
	r |= put(j, "disk_mb", json_integer((json_int_t)s->disk_mb));
	r |= put(j, "created_at", control_json_time(row->created_ns));
	r |= put(j, "started_at", control_json_time(s->started_ns));
	r |= put(j, "ends_at", control_json_time(s->ends_at_ns));
	r |= put(j, "stopped_at", control_json_time(s->stopped_ns));
	r |= put(j, "on_timeout",
		json_string(row->on_timeout == ON_TIMEOUT_PAUSE ? "pause" : "kill"));
	r |= put(j, "metadata", row_metadata(row));
	r |= put(j, "cause", control_json_or_null(s->cause));
	r |= put(j, "detail", control_json_or_null(s->detail));
	r |= put(j, "disk_used_bytes", json_integer((json_int_t)s->disk_bytes));
	r |= put(j, "backend", control_json_or_null(s->backend));
	r |= put(j, "generation", json_integer((json_int_t)s->generation));
	r |= put(j, "url", control_json_or_null(url));
	r |= put(j, "envd_token", json_string(row->token));
	r |= put(j, "phases", control_json_phases(s));
	if (r == 0)
		return j;
	json_decref(j);
	return NULL;
}

void sandboxes_reply(
	struct http_request *r, int status, const struct row *row, const struct host_sandbox *s)
{
	json_t *j = sandboxes_json(row, s);
	if (j) {
		http_reply_json(r, status, j);
		return;
	}
	struct err e = {0};
	err_set(&e, ERR_INTERNAL, "sandbox %s cannot be shown", row->id);
	http_reply_error(r, &e);
}

// --- create

int sandboxes_check_maps(json_t *env, json_t *metadata, struct err *e)
{
	_cleanup_free_ char *metadata_text = metadata ? json_compact(metadata) : NULL;
	if (metadata_text && strlen(metadata_text) > ROW_MAX_METADATA)
		return err_set(
			e, ERR_INVALID, "metadata: larger than %u bytes as JSON", ROW_MAX_METADATA);
	_cleanup_free_ char *env_text = env ? json_compact(env) : NULL;
	if (env_text && strlen(env_text) > MAX_ENV)
		return err_set(e, ERR_INVALID, "env: larger than %u bytes as JSON", MAX_ENV);
	const char *name;
	json_t *value;
	json_object_foreach (env, name, value)
		if (!*name || strchr(name, '='))
			return err_set(
				e, ERR_INVALID, "env: '%.100s' is not a variable name", name);
	return 0;
}

int sandboxes_parse_on_timeout(const char *text, enum on_timeout *ret, struct err *e)
{
	if (!str_eq(text, "kill") && !str_eq(text, "pause"))
		return err_set(e, ERR_INVALID, "on_timeout: must be \"kill\" or \"pause\"");
	*ret = str_eq(text, "pause") ? ON_TIMEOUT_PAUSE : ON_TIMEOUT_KILL;
	return 0;
}

static int check_name(const char *name, struct err *e)
{
	if (!id_is_name(name))
		return err_set(e, ERR_INVALID, "name: " NAME_RULE);
	if (id_is_made(name))
		return err_set(
			e, ERR_INVALID, "name: must not look like an id ('i' and 20 of a-z, 0-9)");
	return 0;
}

struct create_body {
	const char *template, *name;
	enum on_timeout on_timeout;
	uint64_t vcpus, memory_mb, disk_mb, timeout_sec;
	bool cold;
	json_t *env, *metadata;
};

static int read_create(json_t *body, struct create_body *b, struct err *e)
{
	const char *on_timeout = "kill";
	*b = (struct create_body){.template = "base", .timeout_sec = DEFAULT_TIMEOUT_SEC};
	const struct json_field fields[] = {
		{.name = "template", .type = JF_STRING, .out = &b->template, .max = 63},
		{.name = "name", .type = JF_STRING, .out = &b->name},
		{.name = "vcpus", .type = JF_U64, .out = &b->vcpus, .min = 1, .max = MAX_VCPUS},
		{.name = "memory_mb",
			.type = JF_U64,
			.out = &b->memory_mb,
			.min = 1,
			.max = 1u << 20},
		{.name = "disk_mb", .type = JF_U64, .out = &b->disk_mb, .min = 1, .max = 16u << 20},
		{.name = "timeout_sec",
			.type = JF_U64,
			.out = &b->timeout_sec,
			.max = MAX_TIMEOUT_SEC},
		{.name = "on_timeout", .type = JF_STRING, .out = &on_timeout},
		{.name = "cold", .type = JF_BOOL, .out = &b->cold},
		{.name = "env", .type = JF_STRING_MAP, .out = &b->env},
		{.name = "metadata", .type = JF_STRING_MAP, .out = &b->metadata},
	};
	int r = json_read_fields(body, fields, ARRAY_SIZE(fields), false, e);
	if (r < 0)
		return r;
	if (!id_is_name(b->template))
		return err_set(e, ERR_INVALID, "template: " NAME_RULE);
	if (b->name && (r = check_name(b->name, e)) < 0)
		return r;
	r = sandboxes_parse_on_timeout(on_timeout, &b->on_timeout, e);
	return r < 0 ? r : sandboxes_check_maps(b->env, b->metadata, e);
}

int sandboxes_find_base(struct control *c, const char *name, struct host_template *ret,
	size_t *ret_n, struct err *e)
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

static int check_disk(
	const struct create_body *b, const char *name, uint64_t disk_mb, struct err *e)
{
	if (b->disk_mb && b->disk_mb < disk_mb)
		return err_set(e, ERR_INVALID, "disk_mb: template '%s' needs at least %" PRIu64,
			name, disk_mb);
	return 0;
}

static int check_base(const struct create_body *b, const struct host_template *t, struct err *e)
{
	if (b->memory_mb && b->memory_mb < t->min_memory_mb)
		return err_set(e, ERR_INVALID, "memory_mb: template '%s' needs at least %u",
			t->name, t->min_memory_mb);
	return check_disk(b, t->name, t->disk_mb, e);
}

// A frozen machine has the processors and the memory that it has.
static int check_snapshot(const struct create_body *b, const struct template *t, struct err *e)
{
	if (b->vcpus && b->vcpus != t->vcpus)
		return err_set(e, ERR_INVALID,
			"vcpus: snapshot '%s' has %u baked in: leave it out or ask for that",
			t->name, t->vcpus);
	if (b->memory_mb && b->memory_mb != t->memory_mb)
		return err_set(e, ERR_INVALID,
			"memory_mb: snapshot '%s' has %u baked in: leave it out or ask for that",
			t->name, t->memory_mb);
	if (b->cold)
		return err_set(e, ERR_INVALID,
			"cold: '%s' is a snapshot of a running machine, which cannot be booted",
			t->name);
	return check_disk(b, t->name, t->disk_mb, e);
}

// The template must exist, and the machine fit it. snapshot: what to start from, "" for an image.
static int check_template(
	struct control *c, const struct create_body *b, char snapshot[UUID_SIZE], struct err *e)
{
	struct host_template base;
	struct template t;
	struct err why = {0};
	size_t n = 0;
	snapshot[0] = '\0';
	int r = sandboxes_find_base(c, b->template, &base, &n, e);
	if (r != 0)
		return r < 0 ? r : check_base(b, &base, e);
	r = templates_get(c->templates, b->template, &t, &why);
	if (r < 0 && why.code == ERR_NOT_FOUND)
		return err_set(e, ERR_NOT_FOUND, "template: no template '%s'%s", b->template,
			n == 0 ? "; build one with 'stasis image build base'" : "");
	if (r < 0) {
		if (e)
			*e = why;
		return r;
	}
	memcpy(snapshot, t.snapshot, UUID_SIZE);
	return check_snapshot(b, &t, e);
}

uint64_t sandboxes_ends_at(uint64_t timeout_sec)
{
	return timeout_sec ? clock_realtime_ns() + timeout_sec * NSEC_PER_SEC : 0;
}

static int create(struct control *c, struct http_request *r, const struct create_body *b,
	struct task *t, struct err *e)
{
	_cleanup_json_ json_t *none = json_object();
	char snapshot[UUID_SIZE], key[UUID_SIZE];
	int rc = check_template(c, b, snapshot, e);
	if (rc == 0)
		rc = control_key_id(c, r, key, e);
	if (rc < 0)
		return rc;
	id_new_sandbox(t->op.sandbox);
	t->op.request = json_pack("{s:I, s:I, s:I, s:I, s:b, s:s}", "vcpus", (json_int_t)b->vcpus,
		"memory_mb", (json_int_t)b->memory_mb, "disk_mb", (json_int_t)b->disk_mb, "ends_at",
		(json_int_t)sandboxes_ends_at(b->timeout_sec), "cold", b->cold, "from", snapshot);
	if (!t->op.request)
		return err_errno(e, ENOMEM, "create");
	const struct row_new n = {.id = t->op.sandbox,
		.template = b->template,
		.name = b->name,
		.api_key = key,
		.metadata = b->metadata ? b->metadata : none,
		.env = b->env ? b->env : none,
		.on_timeout = b->on_timeout,
		.timeout_sec = b->timeout_sec};
	rc = work_begin(c, r, t, &n, 1, e);
	if (rc != 0)
		return rc;
	engine_ask(&c->engine, t);
	engine_finish(&c->engine, t);
	return 0;
}

void sandboxes_create(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	_cleanup_json_ json_t *body = NULL;
	struct task t = {.op.kind = OPERATION_CREATE};
	struct create_body b;
	struct err e = {0};
	int rc = http_req_json(r, true, &body, &e);
	if (rc == 0)
		rc = read_create(body, &b, &e);
	if (rc == 0)
		rc = work_key(c, r, body, &t);
	if (rc == 0)
		rc = create(c, r, &b, &t, &e);
	if (rc < 0)
		http_reply_error(r, &e);
	else if (rc == 0)
		work_reply(r, &t);
	task_done(&c->engine, &t);
}

// --- one

void sandboxes_get(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	struct host_sandbox s;
	struct err e = {0};
	char id[64];
	sandboxes_path_id(c, r, id);
	_cleanup_(row_unrefp) struct row *row = rows_get(c->rows, id);
	int rc = row ? sandboxes_report(c, row, &s, &e) : no_sandbox(id, &e);
	if (rc < 0)
		http_reply_error(r, &e);
	else
		sandboxes_reply(r, 200, row, &s);
}

// One that ended by itself can be asked about, and its console read, for an hour; its deletion
// forgets it at once.
static int find_deletable(struct control *c, const char *id, bool *ret_forget, struct err *e)
{
	engine_settle_on(&c->engine, id, NULL);
	_cleanup_(row_unrefp) struct row *row = rows_get(c->rows, id);
	const struct host_sandbox *ended = row ? row_ended(row) : NULL;
	if (!row)
		return no_sandbox(id, e);
	if (ended && str_eq(ended->cause, "killed"))
		return sandboxes_say_ended(ended, e);
	if (row->now == ROW_CREATING)
		return err_set(e, ERR_CONFLICT, "sandbox '%s' is still being created", row->id);
	*ret_forget = ended != NULL;
	return 0;
}

void sandboxes_delete(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	struct err e = {0};
	struct task t = {.op.kind = OPERATION_DESTROY};
	bool forget = false;
	char id[64];
	int rc = work_key(c, r, NULL, &t);
	sandboxes_path_id(c, r, id);
	if (rc == 0 && (rc = find_deletable(c, id, &forget, &e)) < 0)
		http_reply_error(r, &e);
	if (rc == 0) {
		snprintf(t.op.sandbox, sizeof t.op.sandbox, "%s", id);
		t.op.request = json_pack("{s:s, s:b}", "cause", "killed", "forget", forget);
		work_run(c, r, &t);
	}
	task_done(&c->engine, &t);
}

void sandboxes_set_timeout(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	uint64_t sec = 0;
	const struct json_field fields[] = {{.name = "timeout_sec",
		.type = JF_U64,
		.out = &sec,
		.max = MAX_TIMEOUT_SEC,
		.required = true}};
	_cleanup_json_ json_t *body = NULL;
	_cleanup_(row_unrefp) struct row *row = NULL;
	struct task t = {.op.kind = OPERATION_SET_TIMEOUT};
	struct host_sandbox s;
	char id[64];
	struct err e = {0};
	int rc = http_req_json(r, false, &body, &e);
	if (rc == 0)
		rc = json_read_fields(body, fields, ARRAY_SIZE(fields), false, &e);
	if (rc == 0)
		rc = work_key(c, r, body, &t);
	sandboxes_path_id(c, r, id);
	if (rc == 0)
		rc = sandboxes_find_live(c, id, &row, &e);
	if (rc == 0)
		rc = sandboxes_report(c, row, &s, &e);
	if (rc == 0 && row_ended(row))
		rc = sandboxes_say_ended(&s, &e);
	// Its time does not run, and the next resume gives it a new one.
	if (rc == 0 && s.state == SANDBOX_PAUSED)
		rc = err_set(&e, ERR_CONFLICT,
			"sandbox '%s' is paused: resume it with the time-out it shall have",
			row->id);
	if (rc == 0) {
		snprintf(t.op.sandbox, sizeof t.op.sandbox, "%s", row->id);
		t.op.request = json_pack("{s:I}", "ends_at", (json_int_t)sandboxes_ends_at(sec));
		work_run(c, r, &t);
	}
	if (rc < 0)
		http_reply_error(r, &e);
	task_done(&c->engine, &t);
}

// --- update

// A merge patch of metadata: strings, and null for what is to go.
static int check_patch(json_t *patch, struct err *e)
{
	const char *key;
	json_t *value;
	if (patch && !json_is_null(patch) && !json_is_object(patch))
		return err_set(e, ERR_INVALID, "metadata: must be an object, or null to clear it");
	json_object_foreach (patch, key, value) {
		const char *text = json_string_value(value);
		if (!text && !json_is_null(value))
			return err_set(e, ERR_INVALID,
				"metadata: the value of '%.100s' must be a string, or null to "
				"remove it",
				key);
		if (text && strlen(text) != json_string_length(value))
			return err_set(e, ERR_INVALID,
				"metadata: the value of '%.100s' must not hold a NUL character",
				key);
	}
	return 0;
}

static int read_update(json_t *body, struct err *e)
{
	json_t *name = NULL, *metadata = NULL, *on_timeout = NULL;
	enum on_timeout parsed;
	const struct json_field fields[] = {
		{.name = "name", .type = JF_ANY, .out = &name},
		{.name = "metadata", .type = JF_ANY, .out = &metadata},
		{.name = "on_timeout", .type = JF_ANY, .out = &on_timeout},
	};
	int r = json_read_fields(body, fields, ARRAY_SIZE(fields), false, e);
	if (r < 0)
		return r;
	if (name && !json_is_null(name)) {
		const char *text = json_string_value(name);
		if (!text || strlen(text) != json_string_length(name))
			return err_set(e, ERR_INVALID, "name: must be a string, or null for none");
		if ((r = check_name(text, e)) < 0)
			return r;
	}
	if (on_timeout) {
		const char *text = json_string_value(on_timeout);
		if ((r = sandboxes_parse_on_timeout(text ? text : "", &parsed, e)) < 0)
			return r;
	}
	return check_patch(metadata, e);
}

void sandboxes_update(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	_cleanup_json_ json_t *body = NULL;
	_cleanup_(row_unrefp) struct row *row = NULL;
	struct task t = {.op.kind = OPERATION_UPDATE};
	struct host_sandbox s;
	struct err e = {0};
	char id[64];
	int rc = http_req_json(r, false, &body, &e);
	if (rc == 0)
		rc = read_update(body, &e);
	if (rc == 0)
		rc = work_key(c, r, body, &t);
	sandboxes_path_id(c, r, id);
	if (rc == 0)
		rc = sandboxes_find_ready(c, id, &row, &e);
	if (rc == 0)
		rc = sandboxes_report(c, row, &s, &e);
	if (rc == 0 && row_ended(row))
		rc = sandboxes_say_ended(&s, &e);
	if (rc == 0) {
		snprintf(t.op.sandbox, sizeof t.op.sandbox, "%s", row->id);
		t.op.request = json_incref(body);
		work_run(c, r, &t);
	}
	if (rc < 0)
		http_reply_error(r, &e);
	task_done(&c->engine, &t);
}

// --- console

// Where the last lines of a file begin; one that is not ended counts too.
static int find_tail(int fd, uint64_t size, uint64_t lines, uint64_t *ret_offset, struct err *e)
{
	char buf[16384];
	uint64_t end = size;
	bool first = true;
	while (end > 0) {
		size_t len = (size_t)MIN(end, (uint64_t)sizeof buf);
		ssize_t n = RETRY_EINTR(pread(fd, buf, len, (off_t)(end - len)));
		if (n != (ssize_t)len)
			return err_errno(e, n < 0 ? errno : EIO, "console log");
		for (size_t i = len; i-- > 0; first = false)
			if (buf[i] == '\n' && !first && --lines == 0) {
				*ret_offset = end - len + i + 1;
				return 0;
			}
		end -= len;
	}
	*ret_offset = 0;
	return 0;
}

void sandboxes_logs(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	struct err e = {0};
	_cleanup_(row_unrefp) struct row *row = NULL;
	_cleanup_close_ int fd = -1;
	struct stat st = {0};
	char id[64];
	uint64_t lines = 0, offset = 0;
	const char *tail = http_req_query(r, "tail");
	int rc = 0;
	if (tail && (str_to_u64(tail, MAX_TAIL, &lines) < 0 || lines == 0))
		rc = err_set(&e, ERR_INVALID, "tail: must be an integer from 1 to %d", MAX_TAIL);
	// Not only live ones: the log of one that crashed is what is wanted most.
	sandboxes_path_id(c, r, id);
	row = rows_get(c->rows, id);
	if (rc == 0)
		rc = row ? c->host.ops->open_log(c->host.host, row->id, &fd, &e)
			 : no_sandbox(id, &e);
	if (rc < 0)
		sandboxes_say_cause(row, &e);
	if (rc == 0 && fstat(fd, &st) < 0)
		rc = err_errno(&e, errno, "console log");
	if (rc == 0 && tail)
		rc = find_tail(fd, (uint64_t)st.st_size, lines, &offset, &e);
	if (rc < 0)
		http_reply_error(r, &e);
	else
		http_reply_fd(r, 200, "text/plain; charset=utf-8", TAKE_FD(fd), offset,
			(uint64_t)st.st_size - offset);
}

// --- list

struct filter {
	bool states[SANDBOX_STATE_MAX + 1]; // the last for SANDBOX_UNREACHABLE
	const char *template, *name;
	char *metadata; // "k1=v1&k2=v2", cut up into pairs below
	const char *key[16], *value[16];
	size_t n;
	uint64_t limit, before;
};

static void filter_done(struct filter *f)
{
	free(f->metadata);
}

int sandboxes_read_states(const char *text, bool ret[SANDBOX_STATE_MAX + 1], struct err *e)
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
	int r = sandboxes_read_states(text, f->states, e);
	if (r < 0 && e)
		strncat(e->text, ", all", sizeof e->text - strlen(e->text) - 1);
	return r;
}

static int read_filter(struct http_request *r, struct filter *f, struct err *e)
{
	f->limit = PAGE_MAX;
	f->before = UINT64_MAX;
	f->template = http_req_query(r, "template");
	f->name = http_req_query(r, "name");
	const char *metadata = http_req_query(r, "metadata");
	// "--name $N" with an empty N must not mean all.
	if ((f->name && !*f->name) || (f->template && !*f->template) || (metadata && !*metadata))
		return err_set(e, ERR_INVALID, "%s: is empty",
			f->name && !*f->name	       ? "name"
			: f->template && !*f->template ? "template"
						       : "metadata");
	const char *limit = http_req_query(r, "limit"), *cursor = http_req_query(r, "cursor");
	if (limit && (str_to_u64(limit, PAGE_MAX, &f->limit) < 0 || f->limit == 0))
		return err_set(e, ERR_INVALID, "limit: must be an integer from 1 to %d", PAGE_MAX);
	// The cursor is the creation time of the last one shown: unique, and it stays valid when
	// that one is gone.
	if (cursor && *cursor && str_to_u64(cursor, INT64_MAX, &f->before) < 0)
		return err_set(e, ERR_INVALID, "cursor: is not one that a list has given");
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
	return read_states(http_req_query(r, "state"), f, e);
}

static bool fits(const struct filter *f, const struct row *row, enum sandbox_state state)
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

static int list(
	struct control *c, const struct filter *f, json_t *out, uint64_t *ret_next, struct err *e)
{
	_cleanup_free_ struct host_sandbox *live = NULL;
	size_t n_live = 0;
	struct err why = {0};
	bool silent = c->engine.reach == ENGINE_NO_VOLUME;
	int rc = silent ? 0 : c->host.ops->list(c->host.host, &live, &n_live, &why);
	if (rc < 0 && why.code != ERR_UNAVAILABLE && why.code != ERR_TIMEOUT) {
		*e = why;
		return rc;
	}
	silent |= rc < 0;
	rc = 0;
	if (n_live)
		qsort(live, n_live, sizeof *live, by_id);
	uint64_t before = f->before, last_shown = 0;
	struct row *page[PAGE_MAX];
	size_t n;
	while (rc == 0 && (n = rows_older(c->rows, before, page, PAGE_MAX)) > 0) {
		before = page[n - 1]->created_ns;
		for (size_t i = 0; i < n; i++) {
			_cleanup_(row_unrefp) struct row *row = page[i];
			if (rc != 0)
				continue;
			struct host_sandbox key, *s = NULL;
			snprintf(key.id, sizeof key.id, "%s", row->id);
			if (n_live && !row_ended(row))
				s = bsearch(&key, live, n_live, sizeof *live, by_id);
			if (!s && silent && !row_ended(row)) {
				unreachable(row, &key);
				s = &key;
			}
			if (!s) {
				rc = sandboxes_report(c, row, &key, e);
				s = &key;
			}
			if (rc < 0 || !fits(f, row, s->state))
				continue;
			// One more fits than the page holds: there is a next page.
			if (json_array_size(out) == f->limit) {
				*ret_next = last_shown;
				rc = 1;
			} else {
				json_array_append_new(out, sandboxes_json(row, s));
				last_shown = row->created_ns;
			}
		}
	}
	return rc < 0 ? rc : 0;
}

json_t *sandboxes_page(struct control *c, size_t max, struct err *e)
{
	struct filter f = {.limit = max, .before = UINT64_MAX};
	json_t *out = json_array();
	uint64_t next = 0;
	int rc = read_states("all", &f, e);
	if (rc == 0)
		rc = list(c, &f, out, &next, e);
	if (rc == 0)
		return out;
	json_decref(out);
	return NULL;
}

void sandboxes_list(struct http_request *r, void *ctx)
{
	_cleanup_(filter_done) struct filter f = {0};
	_cleanup_json_ json_t *out = json_array();
	struct err e = {0};
	uint64_t next = 0;
	int rc = read_filter(r, &f, &e);
	if (rc == 0)
		rc = list(ctx, &f, out, &next, &e);
	if (rc < 0) {
		http_reply_error(r, &e);
		return;
	}
	json_t *cursor = json_null();
	if (next) {
		char text[24];
		snprintf(text, sizeof text, "%" PRIu64, next);
		cursor = json_string(text);
	}
	http_reply_json(r, 200, json_pack("{s:O, s:o}", "sandboxes", out, "next_cursor", cursor));
}
