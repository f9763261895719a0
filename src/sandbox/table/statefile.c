// SPDX-License-Identifier: Apache-2.0
// State files: one JSON object each, with the same names as the columns of the sandbox's row.
#include "sandbox/table/statefile.h"
#include <fcntl.h>
#include <string.h>
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "sandbox/table/owed.h"

static int path_of(const char *run_dir, const char *id, const char *suffix, char out[512])
{
	return str_format(out, 512, "%s/" STATEFILE_DIR "/%s.json%s", run_dir, id, suffix);
}

int statefile_make_dir(const struct host *h)
{
	char path[512];
	int rc = str_format(path, sizeof path, "%s/" STATEFILE_DIR, h->run_dir);
	return rc < 0 ? rc : file_private_dir(AT_FDCWD, path, 0700);
}

int statefile_encode(const struct sandbox *row, const struct statefile_op *op, struct strbuf *out)
{
	const struct host_sandbox *i = &row->info;
	_cleanup_free_ char *owed = owed_text(row);
	_cleanup_json_ json_t *j = json_pack("{s:i, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, "
					     "s:I, s:b, s:i, s:s, s:s, s:s, s:s, s:I, s:b, s:b, "
					     "s:s, s:s, s:s, s:b, s:s, s:s, s:b}",
		"format", (int)STATEFILE_FORMAT, "id", i->id, "template", i->template, "state",
		sandbox_state_name(i->state), "vcpus", (json_int_t)i->vcpus, "memory_mb",
		(json_int_t)i->memory_mb, "disk_mb", (json_int_t)i->disk_mb, "created_ns",
		(json_int_t)i->created_ns, "started_ns", (json_int_t)i->started_ns, "stopped_ns",
		(json_int_t)i->stopped_ns, "ends_at_ns", (json_int_t)i->ends_at_ns, "pause_at_end",
		i->on_timeout == ON_TIMEOUT_PAUSE, "slot",
		row->has_slot ? (int)row->slot.index : -1, "token", row->token, "cause", i->cause,
		"snapshot", i->snapshot, "backend", i->backend, "generation",
		(json_int_t)i->generation, "lineage_uncertain", row->full_next, "hidden",
		row->hidden, "kernel_id", row->kernel_id, "parent", row->parent, "dns", i->dns,
		"dns_own", row->dns_own, "agent", i->agent, "owed", owed ? owed : "", "unquiesced",
		i->unquiesced);
	json_t *o = op && op->id[0] ? json_pack("{s:s, s:s, s:s}", "id", op->id, "kind", op->kind,
					      "data", op->data)
				    : NULL;
	if (o)
		json_object_set_new(j, "operation", o);
	_cleanup_free_ char *text = json_compact(j);
	if (!text || !owed || (op && op->id[0] && !o))
		return -ENOMEM;
	strbuf_addf(out, "%s\n", text);
	return strbuf_check(out);
}

static int parse_op(json_t *j, struct statefile_op *ret, struct err *e)
{
	const char *id = "", *kind = "", *data = "";
	const struct json_field fields[] = {
		{"id", JF_STRING, &id, .required = true, .max = UUID_SIZE - 1},
		{"kind", JF_STRING, &kind, .required = true, .max = sizeof ret->kind - 1},
		{"data", JF_STRING, &data, .required = true, .max = sizeof ret->data - 1},
	};
	_cleanup_json_ json_t *parsed = NULL;
	int rc = json_read_fields(j, fields, ARRAY_SIZE(fields), false, e);
	if (rc == 0 && (!id_is_uuid(id) || !kind[0]))
		rc = err_set(e, ERR_INVALID, "id or kind is none");
	if (rc == 0 && data[0])
		rc = json_parse_object(data, strlen(data), &parsed, e);
	if (rc < 0)
		return err_prefix(e, rc, "operation");
	snprintf(ret->id, sizeof ret->id, "%s", id);
	snprintf(ret->kind, sizeof ret->kind, "%s", kind);
	snprintf(ret->data, sizeof ret->data, "%s", data);
	return 0;
}

static int check(const struct sandbox *s, const char *state, struct err *e)
{
	const struct host_sandbox *i = &s->info;
	if (!id_is_sandbox(i->id))
		return err_set(e, ERR_INVALID, "id: is none of a sandbox");
	if (i->state == SANDBOX_STATE_MAX)
		return err_set(e, ERR_INVALID, "state: '%.40s' is none", state);
	if ((i->snapshot[0] && !id_is_uuid(i->snapshot)) ||
		(s->parent[0] && !id_is_uuid(s->parent)))
		return err_set(e, ERR_INVALID, "snapshot or parent is no id");
	return 0;
}

int statefile_parse(const char *text, size_t len, struct sandbox *ret, struct statefile_op *ret_op,
	struct err *e)
{
	_cleanup_json_ json_t *j = NULL;
	struct sandbox s = {.pidfd = -1};
	struct host_sandbox *i = &s.info;
	struct statefile_op op = {0};
	json_t *operation = NULL;
	const char *id = "", *template = "", *state = "", *token = "", *cause = "", *snapshot = "",
		   *backend = "", *kernel = "", *parent = "", *dns = "", *agent = "", *owed = "";
	uint64_t format = 0, vcpus = 0, memory = 0;
	bool pause = false;
	int slot = -1;
	const struct json_field fields[] = {
		{"format", JF_U64, &format, .required = true, .min = 1, .max = STATEFILE_FORMAT},
		{"id", JF_STRING, &id, .required = true, .max = sizeof i->id - 1},
		{"template", JF_STRING, &template, .required = true, .max = sizeof i->template - 1},
		{"state", JF_STRING, &state, .required = true, .max = 40},
		{"vcpus", JF_U64, &vcpus, .required = true, .max = 1024},
		{"memory_mb", JF_U64, &memory, .required = true, .max = UINT32_MAX},
		{"disk_mb", JF_U64, &i->disk_mb, .required = true},
		{"created_ns", JF_U64, &i->created_ns, .required = true},
		{"started_ns", JF_U64, &i->started_ns, .required = true},
		{"stopped_ns", JF_U64, &i->stopped_ns, .required = true},
		{"ends_at_ns", JF_U64, &i->ends_at_ns, .required = true},
		{"pause_at_end", JF_BOOL, &pause, .required = true},
		{"slot", JF_INT, &slot, .required = true, .max = 65535},
		{"token", JF_STRING, &token, .required = true, .max = sizeof s.token - 1},
		{"cause", JF_STRING, &cause, .required = true, .max = sizeof i->cause - 1},
		{"snapshot", JF_STRING, &snapshot, .required = true, .max = UUID_SIZE - 1},
		{"backend", JF_STRING, &backend, .required = true, .max = sizeof i->backend - 1},
		{"generation", JF_U64, &i->generation, .required = true},
		{"lineage_uncertain", JF_BOOL, &s.full_next, .required = true},
		{"hidden", JF_BOOL, &s.hidden, .required = true},
		{"kernel_id", JF_STRING, &kernel, .required = true, .max = sizeof s.kernel_id - 1},
		{"parent", JF_STRING, &parent, .required = true, .max = UUID_SIZE - 1},
		// Not in those of an older server.
		{"dns", JF_STRING, &dns, .max = sizeof i->dns - 1},
		{"dns_own", JF_BOOL, &s.dns_own},
		{"agent", JF_STRING, &agent, .max = sizeof i->agent - 1},
		{"owed", JF_STRING, &owed, .max = 400},
		{"unquiesced", JF_BOOL, &i->unquiesced},
		{"operation", JF_OBJECT, &operation},
	};
	int rc = json_parse_object(text, len, &j, e);
	if (rc == 0)
		rc = json_read_fields(j, fields, ARRAY_SIZE(fields), false, e);
	if (rc < 0)
		return rc;
	snprintf(i->id, sizeof i->id, "%s", id);
	snprintf(i->template, sizeof i->template, "%s", template);
	snprintf(s.token, sizeof s.token, "%s", token);
	snprintf(i->cause, sizeof i->cause, "%s", cause);
	snprintf(i->snapshot, sizeof i->snapshot, "%s", snapshot);
	snprintf(i->backend, sizeof i->backend, "%s", backend);
	snprintf(s.kernel_id, sizeof s.kernel_id, "%s", kernel);
	snprintf(s.parent, sizeof s.parent, "%s", parent);
	snprintf(i->dns, sizeof i->dns, "%s", dns);
	snprintf(i->agent, sizeof i->agent, "%s", agent);
	owed_read(&s, owed);
	i->state = sandbox_state_parse(state);
	i->vcpus = (unsigned)vcpus;
	i->memory_mb = (unsigned)memory;
	i->on_timeout = pause ? ON_TIMEOUT_PAUSE : ON_TIMEOUT_KILL;
	s.has_slot = slot >= 0;
	s.slot.index = (unsigned)MAX(slot, 0);
	rc = check(&s, state, e);
	if (rc == 0 && operation)
		rc = parse_op(operation, &op, e);
	if (rc < 0)
		return rc;
	*ret = s;
	*ret_op = op;
	return 0;
}

int statefile_read(const char *run_dir, const char *id, struct sandbox *ret,
	struct statefile_op *ret_op, struct err *e)
{
	char path[512];
	_cleanup_strbuf_ struct strbuf text = {0};
	if (path_of(run_dir, id, "", path) < 0)
		return err_set(e, ERR_INTERNAL, "run directory path too long");
	int rc = file_read(AT_FDCWD, path, STATEFILE_MAX, &text);
	if (rc < 0)
		return err_errno(e, rc, "%s", path);
	rc = statefile_parse(text.data, text.len, ret, ret_op, e);
	if (rc == 0 && !str_eq(ret->info.id, id))
		rc = err_set(e, ERR_INVALID, "is of sandbox '%s'", ret->info.id);
	return rc < 0 ? err_prefix(e, rc, "%s", path) : 0;
}

static int replace(const struct host *h, const char *id, const struct strbuf *text)
{
	char path[512], new[512];
	int rc = path_of(h->run_dir, id, "", path);
	if (rc == 0)
		rc = path_of(h->run_dir, id, ".new", new);
	if (rc < 0)
		return rc;
	_cleanup_close_ int fd = open(new, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	rc = fd < 0 ? -errno : file_write_full(fd, text->data, text->len);
	return rc == 0 && rename(new, path) < 0 ? -errno : rc;
}

static bool has_nothing(const struct sandbox *row)
{
	return row->pidfd < 0 &&
	       (row->info.state == SANDBOX_PAUSED || row->info.state == SANDBOX_STOPPED);
}

void statefile_write(struct host *h, const struct sandbox *row, const struct statefile_op *op)
{
	_cleanup_strbuf_ struct strbuf text = {0};
	if (!h->run_dir)
		return;
	if (!op && has_nothing(row)) {
		statefile_remove(h, row->info.id);
		return;
	}
	int rc = statefile_encode(row, op, &text);
	if (rc == 0)
		rc = replace(h, row->info.id, &text);
	if (rc == 0)
		return;
	log_warn("state not written sandbox=%s error=%s", row->info.id, strerror(-rc));
	statefile_remove(h, row->info.id);
}

void statefile_set_time(struct host *h, const char *id, const uint64_t *ends_at_ns,
	const enum on_timeout *on_timeout)
{
	struct sandbox row;
	struct statefile_op op;
	struct err e = {0};
	if (!h->run_dir || statefile_read(h->run_dir, id, &row, &op, &e) < 0)
		return; // a paused one has none
	if (ends_at_ns)
		row.info.ends_at_ns = *ends_at_ns;
	if (on_timeout)
		row.info.on_timeout = *on_timeout;
	row.pidfd = 0; // whatever it has, it had a file
	statefile_write(h, &row, op.id[0] ? &op : NULL);
}

void statefile_remove(struct host *h, const char *id)
{
	char path[512];
	if (h->run_dir && path_of(h->run_dir, id, "", path) == 0 && unlink(path) < 0 &&
		errno != ENOENT)
		log_warn("state not removed path=%s error=%s", path, strerror(errno));
}
