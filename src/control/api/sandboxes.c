// SPDX-License-Identifier: Apache-2.0
#include "control/api/sandboxes.h"
#include <inttypes.h>
#include <string.h>
#include "base/str.h"
#include "control/api/fields.h"
#include "control/api/find.h"
#include "control/api/caller.h"
#include "control/api/reply.h"
#include "control/api/work.h"
#include "control/state/render.h"
#include "base/json.h"

#define DEFAULT_TIMEOUT_SEC 300
#define MAX_VCPUS 32
#define DNS_SIZE 160 // as the contract has it

// --- create

struct create_body {
	const char *template, *name;
	enum on_timeout on_timeout;
	uint64_t vcpus, memory_mb, disk_mb, timeout_sec;
	bool cold, is_public;
	json_t *env, *metadata;
	char dns[DNS_SIZE]; // commas between
};

// What is an address, and which are right, is for the host to say.
static int read_dns(const json_t *list, char ret[DNS_SIZE], struct err *e)
{
	static const char rule[] = "dns: must be a list of one to three IPv4 addresses";
	const json_t *one;
	size_t i, len = 0;
	if (json_array_size(list) < 1 || json_array_size(list) > 3)
		return err_set(e, ERR_INVALID, rule);
	json_array_foreach (list, i, one) {
		const char *text = json_string_value(one);
		size_t n = text ? strlen(text) : 0;
		if (n == 0 || n > 45 || strspn(text, "0123456789abcdefABCDEF.:") != n)
			return err_set(e, ERR_INVALID, "%s, not '%.60s'", rule, text ? text : "");
		len += (size_t)snprintf(ret + len, DNS_SIZE - len, "%s%s", i ? "," : "", text);
	}
	return 0;
}

static int read_create(struct control *c, json_t *body, struct create_body *b, struct err *e)
{
	const char *on_timeout = "kill";
	json_t *dns = NULL;
	*b = (struct create_body){.template = "base",
		.timeout_sec = DEFAULT_TIMEOUT_SEC,
		.is_public = !c->ports_private};
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
			.max = FIELDS_MAX_TIMEOUT_SEC},
		{.name = "on_timeout", .type = JF_STRING, .out = &on_timeout},
		{.name = "cold", .type = JF_BOOL, .out = &b->cold},
		{.name = "env", .type = JF_STRING_MAP, .out = &b->env},
		{.name = "metadata", .type = JF_STRING_MAP, .out = &b->metadata},
		{.name = "dns", .type = JF_ARRAY, .out = &dns},
		{.name = "public", .type = JF_BOOL, .out = &b->is_public},
	};
	int r = json_read_fields(body, fields, ARRAY_SIZE(fields), false, e);
	if (r == 0 && dns)
		r = read_dns(dns, b->dns, e);
	if (r < 0)
		return r;
	if (!id_is_name(b->template))
		return err_set(e, ERR_INVALID, "template: " FIELDS_NAME_RULE);
	if (b->name && (r = fields_check_name(b->name, e)) < 0)
		return r;
	r = fields_on_timeout(on_timeout, &b->on_timeout, e);
	return r < 0 ? r : fields_check_maps(b->env, b->metadata, e);
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

static struct row_size size_of(
	const struct create_body *b, unsigned vcpus, unsigned memory_mb, uint64_t disk_mb)
{
	return (struct row_size){b->vcpus ? (unsigned)b->vcpus : vcpus,
		b->memory_mb ? (unsigned)b->memory_mb : memory_mb,
		b->disk_mb ? b->disk_mb : disk_mb};
}

// The template must exist, and the machine fit it. snapshot: what to start from, "" for an image.
// *ret_size: what the sandbox is promised.
static int check_template(struct control *c, const struct http_request *req,
	const struct create_body *b, char snapshot[UUID_SIZE], struct row_size *ret_size,
	struct err *e)
{
	struct host_template base;
	struct template t;
	struct err why = {0};
	size_t n = 0;
	snapshot[0] = '\0';
	int r = find_base(c, b->template, &base, &n, e);
	if (r < 0)
		return r;
	if (r == 1) {
		*ret_size = size_of(b, base.vcpus, base.memory_mb, base.disk_mb);
		return check_base(b, &base, e);
	}
	r = find_snapshot(c, req, b->template, false, &t, &why);
	if (r < 0 && why.code == ERR_NOT_FOUND)
		return err_set(e, ERR_NOT_FOUND, "template: no template '%s'%s", b->template,
			n == 0 ? "; build one with 'stasis image build base'" : "");
	if (r < 0) {
		if (e)
			*e = why;
		return r;
	}
	memcpy(snapshot, t.snapshot, UUID_SIZE);
	*ret_size = size_of(b, t.vcpus, t.memory_mb, t.disk_mb);
	return check_snapshot(b, &t, e);
}

static int create(struct control *c, struct http_request *r, const struct create_body *b,
	struct task *t, struct err *e)
{
	_cleanup_json_ json_t *none = json_object();
	const struct key_info *key = caller_key(r);
	char snapshot[UUID_SIZE];
	struct row_size size = {0};
	int rc = check_template(c, r, b, snapshot, &size, e);
	if (rc == 0)
		rc = caller_take_creates(c, r, 1, e);
	if (rc < 0)
		return rc;
	id_new_sandbox(t->op.sandbox);
	t->op.request = json_pack("{s:I, s:I, s:I, s:I, s:b, s:s, s:s}", "vcpus",
		(json_int_t)b->vcpus, "memory_mb", (json_int_t)b->memory_mb, "disk_mb",
		(json_int_t)b->disk_mb, "ends_at", (json_int_t)fields_ends_at(b->timeout_sec),
		"cold", b->cold, "from", snapshot, "dns", b->dns);
	if (!t->op.request)
		return err_errno(e, ENOMEM, "create");
	const struct row_new n = {.id = t->op.sandbox,
		.template = b->template,
		.name = b->name,
		.api_key = key->id,
		.owner = key->owner,
		.size = size,
		.payer = key,
		.metadata = b->metadata ? b->metadata : none,
		.env = b->env ? b->env : none,
		.on_timeout = b->on_timeout,
		.timeout_sec = b->timeout_sec,
		.is_private = !b->is_public};
	work_run(c, r, t, &n, 1);
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
		rc = read_create(c, body, &b, &e);
	if (rc == 0)
		rc = work_key(c, r, body, &t);
	if (rc == 0)
		rc = create(c, r, &b, &t, &e);
	if (rc < 0)
		reply_error(r, &e);
	task_done(&t);
}

void sandboxes_get(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	struct host_sandbox s;
	struct err e = {0};
	char id[64];
	find_path_id(c, r, id);
	_cleanup_(row_unrefp) struct sandbox_row *row = rows_get(c->rows, id);
	int rc = row ? find_report(c, row, &s, &e) : find_none(id, &e);
	if (rc < 0)
		reply_error(r, &e);
	else
		reply_sandbox(r, 200, row, &s);
}

// Whatever else is under way on it: the deletion begins at once, and has the last word. One that
// ended by itself can be asked about, and its console read, for an hour; its deletion
// forgets it at once.
static int find_deletable(struct control *c, const char *id, bool *ret_forget, struct err *e)
{
	_cleanup_(row_unrefp) struct sandbox_row *row = rows_get(c->rows, id);
	const struct host_sandbox *ended = row ? row_ended(row) : NULL;
	if (!row)
		return find_none(id, e);
	if (ended && str_eq(ended->cause, "killed"))
		return find_say_ended(ended, e);
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
	find_path_id(c, r, id);
	if (rc == 0 && (rc = find_deletable(c, id, &forget, &e)) < 0)
		reply_error(r, &e);
	if (rc == 0) {
		snprintf(t.op.sandbox, sizeof t.op.sandbox, "%s", id);
		t.op.request = json_pack("{s:s, s:b}", "cause", "killed", "forget", forget);
		work_run(c, r, &t, NULL, 0);
	}
	task_done(&t);
}
