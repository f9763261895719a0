// SPDX-License-Identifier: Apache-2.0
#include "sandbox/watch/rebuild_look.h"
#include <stdarg.h>
#include <string.h>
#include "base/json.h"
#include "disk/disk.h"
#include "sandbox/watch/unknown.h"
#include "snapshot/store.h"

void rebuild_say(struct rebuild *r, const char *fmt, ...)
{
	char line[700];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(line, sizeof line, fmt, ap);
	va_end(ap);
	strbuf_addf(&r->out->text, "%s\n", line);
}

struct box *rebuild_box(const struct rebuild *r, const char *id)
{
	for (size_t i = 0; i < r->n_boxes; i++)
		if (str_eq(r->boxes[i].s.info.id, id))
			return &r->boxes[i];
	return NULL;
}

static struct rebuild *rebuild_of(struct host *h)
{
	return (struct rebuild *)(void *)((char *)h - offsetof(struct rebuild, h));
}

static void take_text(const json_t *j, const char *key, char out[UUID_SIZE])
{
	const char *text = json_string_value(json_object_get(j, key));
	snprintf(out, UUID_SIZE, "%s", text && id_is_uuid(text) ? text : "");
}

static int add_box(struct host *h, const char *name, struct err *e)
{
	struct rebuild *r = rebuild_of(h);
	struct err why = {0};
	struct box b = {0};
	char id[64];
	size_t n = strlen(name);
	if (n < 6 || n - 5 >= sizeof id || !str_eq(name + n - 5, ".json"))
		return 0;
	snprintf(id, sizeof id, "%.*s", (int)(n - 5), name);
	if (statefile_read(h->run_dir, id, &b.s, &b.op, &why) < 0) {
		rebuild_say(r, "sandbox %s: %s: kept as unknown", id, why.text);
		r->out->unknown++;
		return 0;
	}
	_cleanup_json_ json_t *data = b.op.id[0] ? json_loads(b.op.data, 0, NULL) : NULL;
	take_text(data, "snapshot", b.made);
	take_text(data, "layer", b.layer);
	struct box *list = reallocarray(r->boxes, r->n_boxes + 1, sizeof *list);
	if (!list)
		return err_errno(e, ENOMEM, "sandboxes");
	r->boxes = list;
	list[r->n_boxes++] = b;
	return 0;
}

static bool is_being_made(const struct rebuild *r, const char *snapshot)
{
	for (size_t i = 0; i < r->n_boxes; i++)
		if (str_eq(r->boxes[i].made, snapshot))
			return true;
	return false;
}

static void fill_row(
	struct rebuild *r, const struct snapshot_info *i, struct found *f, struct err *why)
{
	struct host_snapshot *s = &f->row.info;
	char token[SEAL_TOKEN_MAX + 1] = "", disk[sizeof "snapshots//disk.img" + UUID_SIZE];
	snprintf(s->id, sizeof s->id, "%s", i->id);
	snprintf(s->kind, sizeof s->kind, "%s", snapshot_kind_name(i->kind));
	snprintf(s->sandbox, sizeof s->sandbox, "%s", i->sandbox);
	snprintf(s->template, sizeof s->template, "%s", i->template);
	snprintf(s->parent, sizeof s->parent, "%s", i->parent);
	snprintf(f->row.image_key, sizeof f->row.image_key, "%s", i->image_key);
	snprintf(f->kernel_id, sizeof f->kernel_id, "%s", i->kernel_id);
	snprintf(f->agent, sizeof f->agent, "%s", i->agent_version);
	f->unquiesced = !i->quiesced;
	s->vcpus = i->vcpus;
	s->memory_mb = (unsigned)(i->memory_bytes >> 20);
	s->disk_mb = i->disk_bytes >> 20;
	s->memory_bytes = header_data_bytes(f->header);
	s->created_ns = i->created_ns;
	snprintf(disk, sizeof disk, "snapshots/%s/disk.img", i->id);
	if (disk_usage(r->h.data_fd, disk, &s->disk_bytes) < 0)
		s->disk_bytes = 0;
	if (unseal_token(&r->seal, i->id, &i->token, token, why) < 0)
		rebuild_say(r, "snapshot %s: its memory cannot be used, its disk can: %s", i->id,
			why->text);
	snprintf(f->row.token, sizeof f->row.token, "%s", token);
}

static int add_snapshot(void *ctx, const char *id, bool complete)
{
	struct rebuild *r = ctx;
	struct snapshot_info info;
	struct err why = {0};
	struct found f = {0};
	if (is_being_made(r, id))
		return 0;
	int rc = complete ? snapshot_read(r->h.data_fd, id, &info, &f.header, &why)
			  : err_set(&why, ERR_NOT_FOUND, "is not complete");
	if (rc == 0 && info.format < 2)
		rc = err_set(&why, ERR_INVALID,
			"of format 1, which does not say whose it is and has no token");
	if (rc < 0) {
		header_free(f.header);
		rebuild_say(r, "snapshot %s: %s: kept as unknown", id, why.text);
		r->out->unknown++;
		return 0;
	}
	fill_row(r, &info, &f, &why);
	struct found *list = reallocarray(r->found, r->n_found + 1, sizeof *list);
	if (!list) {
		header_free(f.header);
		return -ENOMEM;
	}
	r->found = list;
	list[r->n_found++] = f;
	return 0;
}

int rebuild_look(struct rebuild *r, struct err *e)
{
	_cleanup_free_ char *states = str_printf("%s/" STATEFILE_DIR, r->h.run_dir);
	if (!states)
		return err_errno(e, ENOMEM, "%s", r->h.run_dir);
	int rc = seal_open(r->h.data_fd, &r->seal, e);
	if (rc == 0)
		rc = unknown_each_name(&r->h, states, add_box, e);
	return rc == 0 ? snapshot_list(r->h.data_fd, add_snapshot, r, e) : rc;
}
