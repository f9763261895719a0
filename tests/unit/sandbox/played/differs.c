// SPDX-License-Identifier: Apache-2.0
// A host compared with what it should be: states, bytes, and whatever is left over.
#include <fcntl.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"
#include "played/play.h"
#include "snapshot/header.h"

#define MAX_LAYERS 512

static char text[600];
_printf_(1, 2) static const char *say(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	return text;
}

// ---- boxes and snapshots

static const char *box_differs(struct host *h, const struct box *b, unsigned i)
{
	static const char *const names[] = {"none", "running", "paused"};
	struct host_sandbox s = {0};
	struct content c;
	struct err e = {0};
	bool none = host_get(h, b->id, &s, &e) < 0;
	if (none && e.code != ERR_NOT_FOUND)
		return say("box %u: %s", i, e.text);
	none |= s.state == SANDBOX_STOPPED;
	if (b->state == BOX_NONE)
		return none ? NULL
			    : say("box %u is %s, should be gone", i, sandbox_state_name(s.state));
	if (none || s.state != (b->state == BOX_RUNNING ? SANDBOX_RUNNING : SANDBOX_PAUSED))
		return say("box %u is %s %s, should be %s", i,
			*s.id ? sandbox_state_name(s.state) : "unknown", s.cause, names[b->state]);
	if (b->state == BOX_RUNNING) {
		if (!guest_read(b->id, &c))
			return say("box %u should run and has no machine", i);
		if (!guest_goes_on(b->id))
			return say("box %u should run and stands still", i);
	} else if (!snapshot_content(s.snapshot, &c, &e)) {
		return say("box %u is paused at what cannot be read: %s", i, e.text);
	}
	const char *d = content_differs(&b->c, &c);
	return d ? say("box %u: %s", i, d) : NULL;
}

static const char *snap_differs(
	const struct host_snapshot *rows, size_t n, const struct snap *s, unsigned i)
{
	struct content c;
	struct err e = {0};
	bool row = false;
	for (size_t k = 0; k < n; k++)
		row |= str_eq(rows[k].id, s->id);
	if (row != s->there)
		return say("snapshot %u is%s there", i, row ? "" : " not");
	if (!row)
		return NULL;
	if (!snapshot_content(s->id, &c, &e))
		return say("snapshot %u cannot be read: %s", i, e.text);
	const char *d = content_differs(&s->c, &c);
	return d ? say("snapshot %u: %s", i, d) : NULL;
}

// ---- what is left over

struct names {
	char id[MAX_LAYERS][UUID_SIZE];
	size_t n;
};

static bool has_name(const struct names *l, const char *id)
{
	for (size_t i = 0; i < l->n; i++)
		if (str_eq(l->id[i], id))
			return true;
	return false;
}

static void add_header(struct names *l, const char *path)
{
	_cleanup_(header_freep) struct header *hd = NULL;
	if (header_read(AT_FDCWD, path, &hd, NULL) < 0)
		return;
	for (uint32_t i = 0; i < hd->n_layers && l->n < MAX_LAYERS; i++)
		if (!has_name(l, hd->layers[i]))
			memcpy(l->id[l->n++], hd->layers[i], UUID_SIZE);
}

typedef const char *(*entry_fn)(void *ctx, const char *name);
static const char *each_entry(const char *dir, entry_fn f, void *ctx)
{
	char path[512];
	snprintf(path, sizeof path, "%s/%s", world.dir, dir);
	_cleanup_closedir_ DIR *d = opendir(path);
	const char *wrong = NULL;
	for (struct dirent *de; d && !wrong && (de = readdir(d));)
		if (de->d_name[0] != '.')
			wrong = f(ctx, de->d_name);
	return wrong;
}

struct look {
	struct host *h;
	const struct host_snapshot *rows;
	size_t n_rows;
	struct names layers;
};

static const char *look_run(void *ctx, const char *name)
{
	struct look *l = ctx;
	struct host_sandbox s;
	if (!id_is_made(name))
		return NULL;
	return host_get(l->h, name, &s, NULL) == 0 && s.state == SANDBOX_RUNNING
		       ? NULL
		       : say("run/%s is left over", name);
}

static const char *look_sandbox(void *ctx, const char *name)
{
	static const char *const of_running[] = {"stage.mem", "stage.vmstate", "stage.disk",
		"snap/mem", "snap/vmstate", "snap/mem.tmp", "snap/vmstate.tmp"};
	static const char *const of_others[] = {"rootfs.img", "base.hdr", "snap"};
	struct look *l = ctx;
	struct host_sandbox s;
	char path[512];
	if (host_get(l->h, name, &s, NULL) < 0)
		return say("data/sandboxes/%s is left over", name);
	bool running = s.state == SANDBOX_RUNNING;
	const char *const *parts = running ? of_running : of_others;
	size_t n = running ? ARRAY_SIZE(of_running) : ARRAY_SIZE(of_others);
	for (size_t i = 0; i < n; i++) {
		snprintf(path, sizeof path, "%s/sandboxes/%s/%s", world.data, name, parts[i]);
		if (file_exists(AT_FDCWD, path))
			return say("data/sandboxes/%s/%s of one that is %s is left over", name,
				parts[i], sandbox_state_name(s.state));
	}
	snprintf(path, sizeof path, "%s/sandboxes/%s/base.hdr", world.data, name);
	if (running)
		add_header(&l->layers, path);
	return NULL;
}

static const char *look_snapshot(void *ctx, const char *name)
{
	struct look *l = ctx;
	char path[512];
	bool row = false;
	for (size_t i = 0; i < l->n_rows; i++)
		row |= str_eq(l->rows[i].id, name);
	if (!row)
		return say("data/snapshots/%s has no row", name);
	snprintf(path, sizeof path, "%s/snapshots/%s/memory.hdr", world.data, name);
	add_header(&l->layers, path);
	return NULL;
}

static const char *look_layer(void *ctx, const char *name)
{
	struct look *l = ctx;
	char id[UUID_SIZE];
	snprintf(id, sizeof id, "%s", name);
	return has_name(&l->layers, id) ? NULL : say("data/layers/%s is left over", name);
}

// A row that no sandbox and no user has to do with.
static const char *row_is_spent(struct host *h, const struct host_snapshot *r)
{
	struct host_sandbox s;
	if (str_eq(r->kind, "checkpoint"))
		return say("checkpoint %s is left over", r->id);
	if (str_eq(r->kind, "pause") &&
		(host_get(h, r->sandbox, &s, NULL) < 0 || !str_eq(s.snapshot, r->id)))
		return say("snapshot %s of a pause is left over", r->id);
	return NULL;
}

static const char *open_operations(void)
{
	char path[512];
	sqlite3 *db = NULL;
	sqlite3_stmt *st = NULL;
	const char *wrong = NULL;
	snprintf(path, sizeof path, "%s/host.db", world.data);
	if (sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL) == SQLITE_OK &&
		sqlite3_prepare_v2(db, "SELECT kind, sandbox FROM operations WHERE state = 'open'",
			-1, &st, NULL) == SQLITE_OK &&
		sqlite3_step(st) == SQLITE_ROW)
		wrong = say("operation %s of %s is still open", sqlite3_column_text(st, 0),
			sqlite3_column_text(st, 1));
	sqlite3_finalize(st);
	sqlite3_close(db);
	return wrong;
}

static const char *left_over(struct host *h, struct look *l, unsigned running)
{
	const char *wrong = NULL;
	struct host_info info = {0};
	for (size_t i = 0; !wrong && i < l->n_rows; i++)
		wrong = row_is_spent(h, &l->rows[i]);
	if (!wrong)
		wrong = each_entry("run", look_run, l);
	if (!wrong)
		wrong = each_entry("data/sandboxes", look_sandbox, l);
	if (!wrong)
		wrong = each_entry("data/snapshots", look_snapshot, l);
	if (!wrong)
		wrong = each_entry("data/layers", look_layer, l);
	for (size_t i = 0; !wrong && i < l->layers.n; i++) {
		char path[512];
		snprintf(path, sizeof path, "%s/layers/%s", world.data, l->layers.id[i]);
		if (!file_exists(AT_FDCWD, path))
			wrong = say("layer %s is gone, and needed", l->layers.id[i]);
	}
	if (!wrong && host_info(h, &info, NULL) == 0 && info.slots_taken != running)
		wrong = say("%u slots are taken, %u sandboxes run", info.slots_taken, running);
	unsigned vms = (unsigned)atomic_load(&world.stage->vms);
	if (!wrong && vms != running)
		wrong = say("%u VMs live, %u sandboxes run", vms, running);
	return wrong ? wrong : open_operations();
}

// ---- all of it

static bool is_ours(const struct play *p, const char *id)
{
	for (unsigned i = 0; i < PLAY_BOXES; i++)
		if (str_eq(p->box[i].id, id))
			return true;
	return false;
}

const char *play_differs(struct host *h, const struct play *const *may, size_t n)
{
	_cleanup_free_ struct host_snapshot *rows = NULL;
	_cleanup_free_ struct host_sandbox *list = NULL;
	struct look l = {.h = h};
	size_t n_list = 0;
	unsigned running = 0;
	const char *wrong = NULL;
	if (host_snapshots(h, &rows, &l.n_rows, NULL) < 0 || host_list(h, &list, &n_list, NULL) < 0)
		return "no list";
	l.rows = rows;
	for (size_t i = 0; i < n_list; i++) {
		running += list[i].state == SANDBOX_RUNNING;
		if (!is_ours(may[0], list[i].id))
			return say(
				"%s %s is nobody's", list[i].id, sandbox_state_name(list[i].state));
	}
	for (unsigned i = 0; i < PLAY_BOXES; i++) {
		wrong = box_differs(h, &may[0]->box[i], i);
		for (size_t k = 1; wrong && k < n; k++)
			if (!box_differs(h, &may[k]->box[i], i))
				wrong = NULL;
		if (wrong)
			return wrong;
	}
	for (unsigned i = 0; i < PLAY_SNAPS; i++) {
		wrong = snap_differs(rows, l.n_rows, &may[0]->snap[i], i);
		for (size_t k = 1; wrong && k < n; k++)
			if (!snap_differs(rows, l.n_rows, &may[k]->snap[i], i))
				wrong = NULL;
		if (wrong)
			return wrong;
	}
	return left_over(h, &l, running);
}

// Looks again after 1, 2, 4, ... 64 ms. False when it is time to give up.
static bool wait_a_little(uint64_t *waited_ms)
{
	uint64_t ms = MIN(*waited_ms / 2 + 1, 64ull);
	clock_sleep_ns(ms * NSEC_PER_MSEC);
	*waited_ms += ms;
	if (ms == 64)
		stage_skip_ms(11000); // what is tried again after a while is due
	return *waited_ms < (case_is_known ? 1000 : 20000);
}

const char *play_never(struct host *h, const struct play *const *may, size_t n)
{
	const char *wrong = NULL;
	uint64_t waited = 0;
	do {
		wrong = play_differs(h, may, n);
	} while (wrong && wait_a_little(&waited));
	return wrong;
}

void play_check(struct host *h, const struct play *p, const char *when)
{
	const char *wrong = play_never(h, &p, 1);
	check(!wrong, "%s: %s", when, wrong);
}

static const char *look_merged(void *ctx, const char *name)
{
	const struct look *l = ctx;
	_cleanup_(header_freep) struct header *hd = NULL;
	char path[512];
	bool once = false; // a pause's may be a chain
	for (size_t i = 0; i < l->n_rows; i++)
		once |= str_eq(l->rows[i].id, name) && !str_eq(l->rows[i].kind, "pause");
	snprintf(path, sizeof path, "%s/snapshots/%s/memory.hdr", world.data, name);
	return once && (header_read(AT_FDCWD, path, &hd, NULL) < 0 || hd->n_layers > 1)
		       ? say("snapshot %s is not merged", name)
		       : NULL;
}

void play_idle(struct host *h, const struct play *p, const char *when)
{
	const char *wrong = NULL;
	uint64_t waited = 0;
	do {
		struct look l = {.h = h};
		struct host_snapshot *rows = NULL;
		check(host_snapshots(h, &rows, &l.n_rows, NULL) == 0, "snapshots");
		l.rows = rows;
		wrong = each_entry("data/snapshots", look_merged, &l);
		free(rows);
		if (!wrong && !(wrong = play_differs(h, &p, 1)))
			return;
	} while (wait_a_little(&waited));
	check(false, "%s: %s", when, wrong);
}

int play_which(struct host *h, const struct play *const *may, size_t n, unsigned box)
{
	for (size_t k = 0; k < n; k++)
		if (!box_differs(h, &may[k]->box[box], box))
			return (int)k;
	return -1;
}
