// SPDX-License-Identifier: Apache-2.0
// What the upkeep does on a host with many layers and snapshots: at rest nothing, after a change
// what has changed. Told by the kernel (inotify): each file and directory that anybody opens.
//
// With "bench" it prints what rest costs (bench/README.md).
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <sqlite3.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <time.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"
#include "played/play.h"
#include "sandbox/table/bells.h"
#include "sandbox/table/table.h"
#include "snapshot/header.h"

#define SNAPSHOTS 1250u
#define CHAIN 8u // layers of each: not yet long enough for a merge
#define LAYERS (SNAPSHOTS * CHAIN)
#define PASSES_A_MINUTE 6

// ---- passes of the upkeep: each ends when no layer is left to remove

static _Atomic unsigned passes;
static _Atomic uint64_t cpu_ns; // of its thread, so far

#pragma GCC diagnostic ignored "-Wmissing-prototypes"
bool __real_refs_next_layer(struct refs *r, char ret_id[UUID_SIZE]);
bool __wrap_refs_next_layer(struct refs *r, char ret_id[UUID_SIZE])
{
	struct timespec t;
	bool more = __real_refs_next_layer(r, ret_id);
	if (more)
		return true;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	atomic_store(&cpu_ns, (uint64_t)t.tv_sec * NSEC_PER_SEC + (uint64_t)t.tv_nsec);
	atomic_fetch_add(&passes, 1);
	return false;
}

// By itself, when its time has come.
static void wait_passes(unsigned n)
{
	for (unsigned want = atomic_load(&passes) + n, i = 0; atomic_load(&passes) < want; i++) {
		check(i < 120000, "no pass of the upkeep");
		if (i % 20 == 0)
			stage_skip_ms(10000);
		clock_sleep_ns(NSEC_PER_MSEC);
	}
}

// ---- the files

static char snapshots[SNAPSHOTS][UUID_SIZE];

static void put(const char *path, const void *data, size_t len)
{
	char full[512];
	snprintf(full, sizeof full, "%s/%s", world.data, path);
	check(file_write_atomic(AT_FDCWD, full, data, len, 0600) == 0, "write %s", full);
}

static void put_rows(sqlite3 *db, const char *sql, ...)
{
	va_list ap;
	va_start(ap, sql);
	_cleanup_free_ char *text = NULL;
	check(vasprintf(&text, sql, ap) > 0, "memory");
	va_end(ap);
	check(sqlite3_exec(db, text, NULL, NULL, NULL) == SQLITE_OK, "%s", sqlite3_errmsg(db));
}

static void put_snapshot(sqlite3 *db, unsigned n)
{
	_cleanup_(header_freep) struct header *h = NULL;
	_cleanup_strbuf_ struct strbuf text = {0};
	char path[256], image[UUID_SIZE], layer[UUID_SIZE];
	struct err e = {0};
	id_new_uuid(snapshots[n]);
	id_new_uuid(image);
	check(header_new_zero(CHAIN * SNAPSHOT_BLOCK, image, &h, &e) == 0, "%s", e.text);
	for (unsigned i = 0; i < CHAIN; i++) {
		const struct header_range r = {i * SNAPSHOT_BLOCK, SNAPSHOT_BLOCK, false};
		struct header *child = NULL;
		id_new_uuid(image);
		id_new_uuid(layer);
		check(header_overlay(h, image, layer, &r, 1, &child, &e) == 0, "%s", e.text);
		header_free(h);
		h = child;
		snprintf(path, sizeof path, "layers/%s", layer);
		put(path, "x", 1);
		snprintf(path, sizeof path, "layers/%s.sum", layer);
		put(path, "x", 1);
		put_rows(db, "INSERT INTO layers (id) VALUES ('%s')", layer);
	}
	check(header_encode(h, &text) == 0, "memory");
	snprintf(path, sizeof path, "%s/snapshots/%s", world.data, snapshots[n]);
	check(mkdir(path, 0700) == 0, "mkdir %s", path);
	snprintf(path, sizeof path, "snapshots/%s/memory.hdr", snapshots[n]);
	put(path, text.data, text.len);
	put_rows(db,
		"INSERT INTO snapshots (id, kind, sandbox, template, parent, image_key, token, "
		"vcpus, memory_mb, disk_mb, memory_bytes, disk_bytes, created_ns) VALUES "
		"('%s', 'pause', 'i%020u', 'base', '', '', '', 1, 1, 1, 1, 1, 1)",
		snapshots[n], n);
}

static struct host *open_full(struct play *p)
{
	char path[512];
	sqlite3 *db;
	struct err e = {0};
	struct host *h = play_open();
	for (unsigned i = 0; i < 2; i++) {
		check(play_create(h, p, i, -1, false, NULL, &e) == 0, "create: %s", e.text);
		then_created(p, i, -1);
	}
	check(play_pause(h, p, 1, NULL, &e) == 0, "pause: %s", e.text);
	then_paused(p, 1);
	check(play_snapshot(h, p, 0, 0, NULL, &e) == 0, "snapshot: %s", e.text);
	then_snapshot(p, 0, 0);
	play_close(h);
	snprintf(path, sizeof path, "%s/host.db", world.data);
	check(sqlite3_open(path, &db) == SQLITE_OK, "%s", path);
	put_rows(db, "BEGIN");
	for (unsigned i = 0; i < SNAPSHOTS; i++)
		put_snapshot(db, i);
	put_rows(db, "COMMIT");
	sqlite3_close(db);
	h = play_open();
	wait_passes(6); // and what the one that runs has recorded is taken
	return h;
}

// ---- who opens what

struct watch {
	int fd, n;
	char (*dirs)[192];
};

static void watch_below(struct watch *w, const char *dir)
{
	int at = inotify_add_watch(w->fd, dir, IN_OPEN);
	check(at > 0 && strlen(dir) < sizeof w->dirs[0], "watch %s", dir);
	w->dirs = reallocarray(w->dirs, (size_t)at + 1, sizeof *w->dirs);
	check(w->dirs, "memory");
	snprintf(w->dirs[at], sizeof w->dirs[at], "%s", dir);
	DIR *d = opendir(dir);
	check(d, "%s", dir);
	for (struct dirent *de; (de = readdir(d));) {
		_cleanup_free_ char *path = str_printf("%s/%s", dir, de->d_name);
		if (de->d_type == DT_DIR && de->d_name[0] != '.')
			watch_below(w, path);
	}
	closedir(d);
}

// Calls f with the path of each that was opened since the last call; how many.
static unsigned opened(struct watch *w, void (*f)(const char *path))
{
	_Alignas(struct inotify_event) char buf[65536];
	unsigned n = 0;
	for (ssize_t len; (len = read(w->fd, buf, sizeof buf)) > 0;)
		for (char *at = buf; at < buf + len;) {
			const struct inotify_event *ev = (const void *)at;
			check(!(ev->mask & IN_Q_OVERFLOW), "too many to count");
			if (f && ev->wd > 0 && !(ev->mask & IN_IGNORED)) {
				_cleanup_free_ char *path = str_printf(
					"%s/%s", w->dirs[ev->wd], ev->len ? ev->name : "");
				f(path);
			}
			n++;
			at += sizeof *ev + ev->len;
		}
	return n;
}

static void watch(struct watch *w)
{
	*w = (struct watch){.fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC)};
	watch_below(w, world.data);
	watch_below(w, world.run);
	opened(w, NULL);
}

// ---- cases

static void nothing(const char *path)
{
	check(false, "%s was opened", path);
}

static void rest(const void *arg)
{
	struct watch w;
	struct play *p = play_new();
	struct host *h = open_full(p);
	watch(&w);
	for (int i = 0; i < PASSES_A_MINUTE; i++) {
		wait_passes(1);
		upkeep_wake(h); // as any change does
		wait_passes(1);
	}
	opened(&w, nothing);
	free(w.dirs);
	play_close(h);
}

static const char *deleted;
static unsigned n_of_it;

// The directories that hold it, the database, and itself.
static void only_of_it(const char *path)
{
	char snapshots_dir[192], layers_dir[192], root[192];
	snprintf(root, sizeof root, "%s/", world.data);
	snprintf(snapshots_dir, sizeof snapshots_dir, "%s/snapshots/", world.data);
	snprintf(layers_dir, sizeof layers_dir, "%s/layers/", world.data);
	check(str_starts(path, root), "%s was opened", path);
	const char *name = path + strlen(root);
	n_of_it += strstr(path, deleted) != NULL;
	check(strstr(path, deleted) || str_eq(path, snapshots_dir) || str_eq(path, layers_dir) ||
			str_eq(name, "") || str_eq(name, "snapshots") || str_eq(name, "layers") ||
			str_starts(name, "host.db") ||
			strstr(name, "stasis.volume") /* follows host.db */,
		"%s was opened", path);
}

static void one_change(const void *arg)
{
	struct watch w;
	struct play *p = play_new();
	struct host *h = open_full(p);
	struct err e = {0};
	char path[512];
	watch(&w);
	deleted = p->snap[0].id;
	check(play_delete(h, p, 0, NULL, &e) == 0, "delete: %s", e.text);
	wait_passes(3);
	opened(&w, only_of_it);
	snprintf(path, sizeof path, "%s/snapshots/%s", world.data, deleted);
	check(access(path, F_OK) < 0, "it is still there");
	check(n_of_it, "it was not even opened: does the test see anything?");
	free(w.dirs);
	play_close(h);
}

// ---- a user's call while upkeep has the sandbox

struct user {
	struct host *h;
	struct play *p;
	_Atomic int rc;
	struct err e;
};

static void *pause_it(void *arg)
{
	struct user *u = arg;
	struct host_sandbox now;
	char op[UUID_SIZE];
	id_new_uuid(op);
	atomic_store(&u->rc, host_pause(u->h, op, u->p->box[0].id, &now, &u->e));
	return NULL;
}

static void a_call_waits_for_upkeep(const void *arg)
{
	struct user u = {.p = play_new(), .rc = 1};
	struct err e = {0};
	pthread_t thread;
	u.h = play_open();
	check(play_create(u.h, u.p, 0, -1, false, NULL, &e) == 0, "%s", e.text);
	pthread_mutex_lock(&u.h->lock);
	struct sandbox *s = host_find(u.h, u.p->box[0].id);
	while (s->operation)
		pthread_cond_wait(&u.h->changed, &u.h->lock);
	s->operation = "upkeep";
	pthread_mutex_unlock(&u.h->lock);
	check(pthread_create(&thread, NULL, pause_it, &u) == 0, "thread");
	clock_sleep_ns(50 * NSEC_PER_MSEC);
	check(atomic_load(&u.rc) == 1, "it did not wait: %s", u.e.text);
	pthread_mutex_lock(&u.h->lock);
	host_release(u.h, s);
	pthread_mutex_unlock(&u.h->lock);
	pthread_join(thread, NULL);
	check(u.rc == 0, "%s", u.e.text);
	play_close(u.h);
}

static int bench(void)
{
	enum { MINUTES = 20 };
	check(world_make_dir(), "no directory");
	world_make();
	struct host *h = open_full(play_new());
	uint64_t before = atomic_load(&cpu_ns);
	for (int i = 0; i < MINUTES * PASSES_A_MINUTE; i++)
		wait_passes(1);
	printf("upkeep at rest, %u layers and %u snapshots: %.0f µs of CPU a minute (goal: below "
	       "1000)\n",
		LAYERS, SNAPSHOTS, (double)(atomic_load(&cpu_ns) - before) / MINUTES / 1e3);
	play_close(h);
	world_drop();
	return file_rm_rf(AT_FDCWD, world.dir) == 0 ? 0 : 1;
}

int main(int argc, char **argv)
{
	static const struct played_case cases[] = {
		{"rest", rest}, {"change", one_change}, {"call", a_call_waits_for_upkeep}};
	if (argc > 1 && str_eq(argv[1], "bench"))
		return bench();
	return cases_run(argc, argv, cases, ARRAY_SIZE(cases), NULL, 0);
}
