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
#include <string.h>
#include "base/clock.h"
#include "base/dbfile.h"
#include "base/file.h"
#include "base/json.h"
#include "sandbox/machine/lineage.h"
#include "sandbox/table/store_rows.h"
#include "sandbox/watch/rebuild_look.h"
#include "shim/shim.h"

extern const struct embed host_migrations[];

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
	const struct box *b = rebuild_box(r, i->sandbox);
	if (!is_pause(f))
		return;
	if (b) {
		f->dropped = !str_eq(b->s.info.snapshot, i->id);
		return;
	}
	bool lives = shim_lives(r, i->sandbox);
	f->unknown = lives || !is_newest(r, f);
	if (f->unknown)
		rebuild_say(r, "snapshot %s: %s '%s': kept as unknown", i->id,
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
	rebuild_say(r, "sandbox %s: %s%s%s", i->id, sandbox_state_name(i->state),
		b->op.id[0] ? ", to be settled: " : "", b->op.kind);
	r->out->sandboxes++;
	return rc;
}

static int put_paused(struct rebuild *r, const struct found *f, struct err *e)
{
	const struct host_snapshot *i = &f->row.info;
	struct sandbox s = {.pidfd = -1};
	const struct time_settings t = {0, ON_TIMEOUT_PAUSE};
	if (!is_pause(f) || rebuild_box(r, i->sandbox))
		return 0;
	snprintf(s.info.id, sizeof s.info.id, "%s", i->sandbox);
	snprintf(s.info.template, sizeof s.info.template, "%s", i->template);
	snprintf(s.info.snapshot, sizeof s.info.snapshot, "%s", i->id);
	snprintf(s.token, sizeof s.token, "%s", f->row.token);
	snprintf(s.kernel_id, sizeof s.kernel_id, "%s", f->kernel_id);
	snprintf(s.info.agent, sizeof s.info.agent, "%s", f->agent);
	snprintf(s.parent, sizeof s.parent, "%s", i->parent);
	s.info.state = SANDBOX_PAUSED;
	s.info.unquiesced = f->unquiesced;
	s.info.vcpus = i->vcpus;
	s.info.memory_mb = i->memory_mb;
	s.info.disk_mb = i->disk_mb;
	s.info.created_ns = s.info.started_ns = i->created_ns;
	s.info.generation = 1;
	rebuild_say(r, "sandbox %s: paused", i->sandbox);
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
		rc = rebuild_look(&r, e);
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
