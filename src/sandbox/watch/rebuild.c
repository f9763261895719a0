// SPDX-License-Identifier: Apache-2.0
// host.db made anew (host_rebuild). What each row comes from:
//
// * A sandbox with a state file: all of its row and its open operation. The next start settles it
//   as if the server had been killed.
// * One without a state file that is paused: its newest snapshot of the kind pause. Its time-out is
//   not known and becomes "pause", by which nothing is lost.
// * One without a state file whose shim lives: no row. It is kept as unknown, and so are its
//   snapshots.
// * A snapshot: snapshot.json, where that has all of it (format 2).
// * A layer: the headers of the above.
//
// Pauses of a sandbox with a state file other than the one it names are spent: dropped. What an
// open operation was making has no row, as ever.
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include "base/clock.h"
#include "base/dbfile.h"
#include "base/file.h"
#include "base/json.h"
#include "disk/disk.h"
#include "sandbox/machine/lineage.h"
#include "sandbox/table/statefile.h"
#include "sandbox/table/store_rows.h"
#include "sandbox/watch/unknown.h"
#include "shim/shim.h"
#include "snapshot/seal.h"
#include "snapshot/store.h"

extern const struct embed host_migrations[];

struct box {
	struct sandbox s;
	struct statefile_op op;
	char made[UUID_SIZE], layer[UUID_SIZE]; // by its open operation
};

struct found {
	struct store_snapshot row;
	struct header *header;
	char kernel_id[72];
	bool dropped, unknown;
};

struct rebuild {
	struct host h; // as much of one as rows need
	struct seal seal;
	struct box *boxes;
	size_t n_boxes;
	struct found *found;
	size_t n_found;
	struct host_rebuilt *out;
};

_printf_(2, 3) static void say(struct rebuild *r, const char *fmt, ...)
{
	char line[700];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(line, sizeof line, fmt, ap);
	va_end(ap);
	strbuf_addf(&r->out->text, "%s\n", line);
}

// --- what there is

static struct box *box_find(const struct rebuild *r, const char *id)
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
		say(r, "sandbox %s: %s: kept as unknown", id, why.text);
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
	s->vcpus = i->vcpus;
	s->memory_mb = (unsigned)(i->memory_bytes >> 20);
	s->disk_mb = i->disk_bytes >> 20;
	s->memory_bytes = header_data_bytes(f->header);
	s->created_ns = i->created_ns;
	snprintf(disk, sizeof disk, "snapshots/%s/disk.img", i->id);
	if (disk_usage(r->h.data_fd, disk, &s->disk_bytes) < 0)
		s->disk_bytes = 0;
	if (unseal_token(&r->seal, i->id, &i->token, token, why) < 0)
		say(r, "snapshot %s: its memory cannot be used, its disk can: %s", i->id,
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
		say(r, "snapshot %s: %s: kept as unknown", id, why.text);
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

// --- what it means

static bool shim_lives(const struct rebuild *r, const char *id)
{
	_cleanup_close_ int pidfd = -1;
	struct shim_state st;
	char dir[512];
	return host_run_path(&r->h, id, dir) == 0 && shim_adopt(dir, &st, &pidfd, NULL) == 0;
}

static bool is_pause(const struct found *f)
{
	return str_eq(f->row.info.kind, "pause");
}

// Of the pauses of one sandbox.
static bool is_newest(const struct rebuild *r, const struct found *f)
{
	for (size_t i = 0; i < r->n_found; i++) {
		const struct found *o = &r->found[i];
		if (o == f || !is_pause(o) || !str_eq(o->row.info.sandbox, f->row.info.sandbox))
			continue;
		if (o->row.info.created_ns > f->row.info.created_ns ||
			(o->row.info.created_ns == f->row.info.created_ns && o > f))
			return false;
	}
	return true;
}

static void judge(struct rebuild *r, struct found *f)
{
	const struct host_snapshot *i = &f->row.info;
	const struct box *b = box_find(r, i->sandbox);
	if (!is_pause(f))
		return;
	if (b) {
		f->dropped = !str_eq(b->s.info.snapshot, i->id);
		return;
	}
	bool lives = shim_lives(r, i->sandbox);
	f->unknown = lives || !is_newest(r, f);
	if (f->unknown)
		say(r, "snapshot %s: %s '%s': kept as unknown", i->id,
			lives ? "nothing tells the state of the machine that runs of sandbox"
			      : "there is a newer pause of sandbox",
			i->sandbox);
	r->out->unknown += f->unknown;
}

// --- rows

static int put_layers(struct rebuild *r, const struct header *hd, struct err *e)
{
	int rc = 0;
	for (uint32_t i = 0; rc == 0 && hd && i < hd->n_layers; i++)
		rc = store_put_layer(&r->h, hd->layers[i], e);
	return rc;
}

static int put_box(struct rebuild *r, const struct box *b, struct err *e)
{
	_cleanup_(header_freep) struct header *base = NULL;
	const struct host_sandbox *i = &b->s.info;
	const struct time_settings t = {i->ends_at_ns, i->on_timeout};
	int rc = store_put_sandbox(&r->h, &b->s, &t, e);
	if (rc == 0 && b->op.id[0])
		rc = db_exec(r->h.db, e,
			"INSERT INTO operations (op_id, kind, sandbox, state, started_ns, "
			"ended_ns, data) VALUES (?, ?, ?, 'open', ?, 0, ?)",
			"sssis", b->op.id, b->op.kind, i->id, (int64_t)clock_realtime_ns(),
			b->op.data);
	if (rc == 0 && b->layer[0])
		rc = store_put_layer(&r->h, b->layer, e);
	// One that is missing or damaged is the next start's to tell of.
	if (rc == 0 && lineage_read(&r->h, &b->s, &base, NULL) == 0)
		rc = put_layers(r, base, e);
	say(r, "sandbox %s: %s%s%s", i->id, sandbox_state_name(i->state),
		b->op.id[0] ? ", to be settled: " : "", b->op.kind);
	r->out->sandboxes++;
	return rc;
}

static int put_paused(struct rebuild *r, const struct found *f, struct err *e)
{
	const struct host_snapshot *i = &f->row.info;
	struct sandbox s = {.pidfd = -1};
	const struct time_settings t = {0, ON_TIMEOUT_PAUSE};
	if (!is_pause(f) || box_find(r, i->sandbox))
		return 0;
	snprintf(s.info.id, sizeof s.info.id, "%s", i->sandbox);
	snprintf(s.info.template, sizeof s.info.template, "%s", i->template);
	snprintf(s.info.snapshot, sizeof s.info.snapshot, "%s", i->id);
	snprintf(s.token, sizeof s.token, "%s", f->row.token);
	snprintf(s.kernel_id, sizeof s.kernel_id, "%s", f->kernel_id);
	snprintf(s.parent, sizeof s.parent, "%s", i->parent);
	s.info.state = SANDBOX_PAUSED;
	s.info.vcpus = i->vcpus;
	s.info.memory_mb = i->memory_mb;
	s.info.disk_mb = i->disk_mb;
	s.info.created_ns = s.info.started_ns = i->created_ns;
	s.info.generation = 1;
	say(r, "sandbox %s: paused", i->sandbox);
	r->out->sandboxes++;
	r->out->paused++;
	return store_put_sandbox(&r->h, &s, &t, e);
}

static int put_found(struct rebuild *r, const struct found *f, struct err *e)
{
	if (f->unknown)
		return 0;
	int rc = store_put_snapshot(&r->h, &f->row, e);
	if (rc == 0 && f->dropped)
		rc = db_exec(r->h.db, e, "UPDATE snapshots SET dropped = 1 WHERE id = ?", "s",
			f->row.info.id);
	if (rc == 0)
		rc = put_layers(r, f->header, e);
	if (rc == 0 && !f->dropped)
		rc = put_paused(r, f, e);
	r->out->snapshots += !f->dropped;
	return rc;
}

static int put_all(struct rebuild *r, struct err *e)
{
	int rc = 0;
	for (size_t i = 0; rc == 0 && i < r->n_boxes; i++)
		rc = put_box(r, &r->boxes[i], e);
	for (size_t i = 0; rc == 0 && i < r->n_found; i++)
		judge(r, &r->found[i]);
	for (size_t i = 0; rc == 0 && i < r->n_found; i++)
		rc = put_found(r, &r->found[i], e);
	_cleanup_json_ json_t *data = json_pack("{s:i, s:i}", "sandboxes", (int)r->out->sandboxes,
		"snapshots", (int)r->out->snapshots);
	const struct store_event ev = {.kind = "rebuilt", .data = data};
	return rc == 0 ? store_put_event(&r->h, "", &ev, e) : rc;
}

static int read_journal(void *ctx, sqlite3_stmt *row)
{
	struct host *h = ctx;
	snprintf(h->journal_id, sizeof h->journal_id, "%s", db_text(row, 0));
	return 0;
}

static int write_rows(struct rebuild *r, struct err *e)
{
	struct host *h = &r->h;
	h->epoch = h->volume.epoch + 1;
	db_lock(h->db);
	int rc = db_begin(h->db, e);
	if (rc == 0)
		rc = db_query(h->db, e, read_journal, h,
			"UPDATE journal SET epoch = ? RETURNING id", "i", (int64_t)h->epoch);
	if (rc == 0)
		rc = put_all(r, e);
	if (rc == 0)
		rc = db_commit(h->db, e);
	else
		db_rollback(h->db);
	db_unlock(h->db);
	return rc;
}

// --- the file

static int look(struct rebuild *r, struct err *e)
{
	_cleanup_free_ char *states = str_printf("%s/" STATEFILE_DIR, r->h.run_dir);
	if (!states)
		return err_errno(e, ENOMEM, "%s", r->h.run_dir);
	int rc = seal_open(r->h.data_fd, &r->seal, e);
	if (rc == 0)
		rc = unknown_each_name(&r->h, states, add_box, e);
	return rc == 0 ? snapshot_list(r->h.data_fd, add_snapshot, r, e) : rc;
}

static void remove_file(const struct host *h, const char *name)
{
	static const char *const parts[] = {"", "-wal", "-shm"};
	char path[64];
	for (size_t i = 0; i < ARRAY_SIZE(parts); i++)
		if (str_format(path, sizeof path, "%s%s", name, parts[i]) == 0)
			unlinkat(h->data_fd, path, 0);
}

// The marker before the file: a server that finds only the first of the two refuses to start, and
// the old database is still in its place.
static int make_file(struct rebuild *r, struct err *e)
{
	struct host *h = &r->h;
	_cleanup_free_ char *path = str_printf("%s/host.db", h->data_dir);
	_cleanup_free_ char *new = str_printf("%s/host.db.rebuild", h->data_dir);
	if (!path || !new)
		return err_errno(e, ENOMEM, "host.db");
	remove_file(h, "host.db.rebuild");
	int rc = db_open(new, host_migrations, &h->db, e);
	if (rc == 0)
		rc = write_rows(r, e);
	h->db = db_close(h->db);
	if (rc == 0)
		rc = volume_set_epoch(h->data_fd, &h->volume, h->epoch, h->journal_id, e);
	if (rc == 0)
		rc = dbfile_replace(path, new, "before-rebuild", e);
	if (rc < 0)
		remove_file(h, "host.db.rebuild");
	return rc;
}

static int lock_dir(int dirfd, const char *path, const char *dir, int *ret_fd, struct err *e)
{
	pid_t holder = 0;
	int rc = file_lock(dirfd, path, ret_fd, &holder);
	if (rc == -EBUSY)
		return err_set(e, ERR_CONFLICT,
			"%s is used by a server (pid %d): stop it first, its sandboxes go on", dir,
			(int)holder);
	return rc < 0 ? err_errno(e, rc, "%s/%s", dir, path) : 0;
}

// What another host has in its run directory is none of this volume's.
static int lock(struct rebuild *r, struct err *e)
{
	struct host *h = &r->h;
	char path[512];
	int rc = lock_dir(h->data_fd, "lock", h->data_dir, &h->lock_fd, e);
	if (rc < 0 || file_there(AT_FDCWD, h->run_dir) == 0)
		return rc;
	if (str_format(path, sizeof path, "%s/host.lock", h->run_dir) < 0)
		return err_set(e, ERR_INTERNAL, "run directory path too long");
	return lock_dir(AT_FDCWD, path, h->run_dir, &h->run_lock_fd, e);
}

int host_rebuild(const char *data_dir, const char *run_dir, bool forget, struct host_rebuilt *ret,
	struct err *e)
{
	_cleanup_free_ char *data = strdup(data_dir), *run = strdup(run_dir);
	struct rebuild r = {.out = ret};
	struct host *h = &r.h;
	*ret = (struct host_rebuilt){0};
	h->data_dir = data;
	h->run_dir = run;
	h->data_fd = h->lock_fd = h->run_lock_fd = -1;
	int rc = data && run ? volume_open(data_dir, &h->volume, e)
			     : err_errno(e, ENOMEM, "%s", data_dir);
	if (rc == 0 && (h->data_fd = open(data, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
		rc = err_errno(e, errno, "%s", data);
	if (rc == 0)
		rc = lock(&r, e);
	if (rc == 0 && !forget)
		rc = look(&r, e);
	if (rc == 0)
		rc = make_file(&r, e);
	for (size_t i = 0; i < r.n_found; i++)
		header_free(r.found[i].header);
	free(r.found);
	free(r.boxes);
	safe_close(h->run_lock_fd);
	safe_close(h->lock_fd);
	safe_close(h->data_fd);
	return rc < 0 ? rc : strbuf_check(&ret->text);
}
