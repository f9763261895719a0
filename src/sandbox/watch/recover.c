// SPDX-License-Identifier: Apache-2.0
// What a starting server does with what an earlier one left, in this order:
//
// 1. Every row is loaded. The shims that are alive are found, whatever the rows say: boot id, pid
//    and start time agree.
// 2. The slot pool starts, and removes all slots but theirs.
// 3. The headers tell who needs which layer (refs.h).
// 4. What is on the disk and in no row is counted and kept, and what it needs is held (unknown.h).
// 5. What ran without an operation is adopted: it can be used from here on.
// 6. The rest is settled in the background, in parallel (settle.h).
//
// Each step can be cut off by another kill and done again.
#include "sandbox/watch/recover.h"
#include <fcntl.h>
#include <string.h>
#include "base/file.h"
#include "base/log.h"
#include "net/resolvers.h"
#include "sandbox/life/silent.h"
#include "sandbox/machine/lineage.h"
#include "sandbox/machine/machine.h"
#include "sandbox/machine/runtimes.h"
#include "sandbox/table/bells.h"
#include "sandbox/table/statefile.h"
#include "sandbox/table/state.h"
#include "sandbox/table/store.h"
#include "sandbox/watch/settle.h"
#include "sandbox/watch/unknown.h"
#include "shim/shim.h"
#include "snapshot/store.h"

// --- rows

static int load_row(struct host *h, struct sandbox *s, const char *open_kind, const char *op_id,
	const char *op_data)
{
	char dir[512], disk[512];
	struct shim_state st;
	struct err e = {0};
	struct sandbox *first = host_find(h, s->info.id);
	if (first) { // a destroy comes first
		struct unsettled *second = &first->unsettled[1];
		if (!second->id[0] || str_eq(second->kind, "destroy")) {
			unsettled_read(open_kind, op_id, op_data, second);
			if (second->layer[0])
				refs_hold_layer(h->refs, second->layer);
		}
		free(s);
		return 0;
	}
	s->unsettled = calloc(2, sizeof *s->unsettled);
	if (!s->unsettled) {
		free(s);
		return -ENOMEM;
	}
	s->operation = "recover";
	unsettled_read(open_kind, op_id, op_data, s->unsettled);
	if (s->unsettled->layer[0])
		refs_hold_layer(h->refs, s->unsettled->layer);
	snprintf(s->op_id, sizeof s->op_id, "%s", op_id);
	if (host_run_path(h, s->info.id, dir) == 0 && shim_adopt(dir, &st, &s->pidfd, &e) == 0) {
		if (runtime_adopt(h, s, &e) < 0)
			log_warn("VMM not known, it cannot be paused sandbox=%s error=%s",
				s->info.id, e.text);
		// Its slot is in use as long as it lives, whatever the row says.
		s->has_slot = true;
		s->slot.index = st.uid - HOST_UID_BASE;
	} else {
		s->pidfd = -1;
		s->has_slot = false;
	}
	s->has_files =
		host_disk_path(h, s->info.id, NULL, disk) == 0 && file_there(AT_FDCWD, disk) != 0;
	if (str_eq(open_kind, "create") || str_eq(open_kind, "prewarm") ||
		str_eq(open_kind, "rewarm"))
		s->info.state = SANDBOX_PENDING;
	else if (str_eq(open_kind, "destroy"))
		s->info.state = SANDBOX_STOPPING;
	sandbox_set_end(s, s->info.ends_at_ns);
	host_insert(h, s);
	return 0;
}

static int start_slots(struct host *h, const struct host_config *cfg, struct err *e)
{
	_cleanup_free_ unsigned *keep = calloc(h->n_sandboxes + h->n_unknown + 1u, sizeof *keep);
	size_t n = 0;
	if (!keep)
		return err_errno(e, ENOMEM, "slots");
	for (struct sandbox *s = NULL; (s = host_next(h, s));)
		if (s->has_slot)
			keep[n++] = s->slot.index;
	for (size_t i = 0; i < h->n_unknown; i++)
		if (h->unknown[i].has_slot)
			keep[n++] = h->unknown[i].slot;
	struct resolvers usual;
	int rc = machine_resolvers(h, &usual, e);
	if (rc < 0)
		return rc;
	struct slot_pool_config sc = {.run_dir = h->run_dir,
		.range = cfg->slot_range,
		.warm = cfg->warm_slots,
		.max = h->max_sandboxes + cfg->warm_slots,
		.uid_base = HOST_UID_BASE,
		.allow = cfg->allow,
		.users = cfg->users,
		.n_users = cfg->n_users,
		.usual = &usual};
	return slot_pool_new(&sc, keep, n, &h->slots, e);
}

// --- headers

// The VMM that it names. Where it cannot be read none is removed.
static void hold_runtime(struct host *h, const char *id)
{
	struct snapshot_info info;
	struct err e = {0};
	int rc = snapshot_read_info(h->data_fd, id, &info, &e);
	if (rc == 0)
		rc = refs_name_runtime(h->refs, id, info.runtime);
	if (rc == 0 || rc == -ENOENT)
		return;
	log_error("damaged snapshot, no VMM is removed snapshot=%s error=%s", id, err_text(&e, rc));
	h->unread++;
}

static void hold_dropped(struct host *h, const char *id)
{
	_cleanup_(header_freep) struct header *hd = NULL;
	char path[sizeof "snapshots//memory.hdr" + UUID_SIZE];
	snprintf(path, sizeof path, "snapshots/%.36s/memory.hdr", id);
	if (header_read(h->data_fd, path, &hd, NULL) == 0)
		refs_add_snapshot(h->refs, id, hd);
	hold_runtime(h, id);
	refs_drop_snapshot(h->refs, id);
}

static int hold_snapshots(struct host *h, struct err *e)
{
	_cleanup_free_ struct store_snapshot *list = NULL;
	size_t n = 0;
	int rc = store_list_snapshots(h, NULL, NULL, NULL, &list, &n, e);
	for (size_t i = 0; rc == 0 && i < n; i++) {
		_cleanup_(header_freep) struct header *hd = NULL;
		char path[sizeof "snapshots//memory.hdr" + UUID_SIZE];
		struct err why = {0};
		snprintf(path, sizeof path, "snapshots/%.36s/memory.hdr", list[i].info.id);
		if (header_read(h->data_fd, path, &hd, &why) < 0) {
			log_error("damaged snapshot, no layer is removed snapshot=%s error=%s",
				list[i].info.id, why.text);
			h->damaged++;
		}
		if (refs_add_snapshot(h->refs, list[i].info.id, hd) < 0)
			rc = err_errno(e, ENOMEM, "snapshots");
		hold_runtime(h, list[i].info.id);
		if (hd && hd->n_layers > 1)
			upkeep_note(h, list[i].info.id);
	}
	if (rc == 0)
		rc = store_dropped(h, hold_dropped, e);
	return rc;
}

static void hold_bases(struct host *h)
{
	for (struct sandbox *s = NULL; (s = host_next(h, s));) {
		struct err e = {0};
		bool has = s->pidfd >= 0 && s->has_files && s->info.state != SANDBOX_STOPPED;
		if (!has || lineage_adopt(h, s, &e) == 0 || e.errnum == ENOENT)
			continue;
		log_error("damaged header, no layer is removed sandbox=%s error=%s", s->info.id,
			e.text);
		h->damaged++;
	}
}

// What operations had published when they were cut off; it is settled later whether it stays.
static int hold_unsettled(struct host *h, struct err *e)
{
	int rc = 0;
	size_t i = 0;
	for (struct sandbox *s = host_next(h, NULL); rc == 0 && s;
		s = i++ % 2 ? host_next(h, s) : s) {
		_cleanup_(header_freep) struct header *hd = NULL;
		char path[sizeof "snapshots//memory.hdr" + UUID_SIZE];
		const char *id = s->unsettled[i % 2].snapshot;
		snprintf(path, sizeof path, "snapshots/%.36s/memory.hdr", id);
		if (!id[0] || refs_knows_snapshot(h->refs, id) ||
			header_read(h->data_fd, path, &hd, NULL) < 0)
			continue;
		if (refs_add_snapshot(h->refs, id, hd) < 0)
			rc = err_errno(e, ENOMEM, "snapshots");
		hold_runtime(h, id);
	}
	return rc;
}

// Checkpoints whose fork did not live to drop them.
static void drop_checkpoints(struct host *h)
{
	_cleanup_free_ struct store_snapshot *list = NULL;
	size_t n = 0;
	struct err e = {0};
	int rc = store_list_snapshots(h, "checkpoint", NULL, NULL, &list, &n, &e);
	for (size_t i = 0; rc == 0 && i < n; i++)
		rc = store_apply(h, &(struct store_change){.drop = list[i].info.id}, &e);
	if (rc < 0)
		log_warn("checkpoints are kept for now error=%s", e.text);
}

// --- sandboxes

// Its slot was kept by the pool; from here on it is given back with everything else.
static int adopt_slot(struct host *h, struct sandbox *s, struct err *e)
{
	unsigned index = s->slot.index;
	if (!s->has_slot)
		return 0;
	s->has_slot = false;
	int rc = slot_pool_adopt(h->slots, index, &s->slot, e);
	if (rc < 0)
		return rc;
	s->has_slot = true;
	snprintf(s->info.address, sizeof s->info.address, "%s", s->slot.address);
	// The host's wall was made anew. Who was made by an older server has no list.
	struct resolvers r;
	struct err why = {0};
	if (s->info.dns[0] && resolvers_parse(s->info.dns, &r, NULL) == 0 &&
		slot_pool_resolvers(h->slots, &s->slot, &r, false, &why) < 0)
		log_warn("resolvers out of reach sandbox=%s error=%s", s->info.id, why.text);
	return 0;
}

// Nothing of it is on this machine but what its state says.
static bool is_clean(const struct host *h, const struct sandbox *s)
{
	char dir[512], disk[512];
	return s->pidfd < 0 && host_run_path(h, s->info.id, dir) == 0 &&
	       file_there(AT_FDCWD, dir) == 0 &&
	       host_disk_path(h, s->info.id, "rootfs.img", disk) == 0 &&
	       file_there(AT_FDCWD, disk) == 0;
}

static bool is_settled(const struct host *h, const struct sandbox *s)
{
	if (s->unsettled->id[0])
		return false;
	switch (s->info.state) {
	case SANDBOX_RUNNING:
		return s->pidfd >= 0 && s->has_slot;
	case SANDBOX_STOPPED:
	case SANDBOX_PAUSED:
		return is_clean(h, s) && !sandbox_is_no_create(&s->info);
	default:
		return false;
	}
}

static void adopt(struct host *h, struct sandbox *s)
{
	struct err e = {0};
	if (adopt_slot(h, s, &e) < 0)
		log_error("slot not adopted sandbox=%s error=%s", s->info.id, e.text);
	if (is_settled(h, s)) {
		free(s->unsettled);
		s->unsettled = NULL;
		if (s->info.state == SANDBOX_RUNNING)
			log_info("adopted sandbox=%s", s->info.id);
		host_release(h, s);
		silent_ask(h, s);
	} else if (settle_later(h, s) < 0) {
		log_error("not settled sandbox=%s", s->info.id);
	}
}

// An older server wrote none, and one that was killed may not have come to it. Of what is to be
// settled the file that is there says more than the row in memory.
static void write_states(struct host *h)
{
	db_lock(h->db);
	for (struct sandbox *s = NULL; (s = host_next(h, s));)
		if (s->pidfd >= 0 && !s->unsettled->id[0])
			statefile_write(h, s, NULL);
	db_unlock(h->db);
}

int host_recover(struct host *h, const struct host_config *cfg, struct err *e)
{
	int rc = cfg->alone ? 0 : store_load(h, load_row, e);
	if (rc == 0 && !cfg->alone)
		rc = unknown_find_shims(h, e);
	if (rc < 0 || (rc = start_slots(h, cfg, e)) < 0 || cfg->alone)
		return rc;
	hold_bases(h);
	if ((rc = hold_snapshots(h, e)) < 0 || (rc = hold_unsettled(h, e)) < 0 ||
		(rc = unknown_find(h, e)) < 0)
		return rc;
	runtimes_settled(h);
	write_states(h);
	// Jobs begin at once and may remove the sandbox they are about.
	pthread_mutex_lock(&h->lock);
	for (struct sandbox *s = NULL, *next = host_next(h, NULL); (s = next);) {
		next = host_next(h, s);
		adopt(h, s);
	}
	pthread_mutex_unlock(&h->lock);
	drop_checkpoints(h);
	monitor_wake(h);
	return 0;
}

static int stop_shim(struct host *h, const char *name, struct err *e)
{
	_cleanup_free_ char *dir = str_printf("%s/%s", h->run_dir, name);
	if (!id_is_sandbox(name) || strlen(name) != SANDBOX_ID_LEN)
		return 0;
	return dir ? shim_stop(dir, -1, e) : err_errno(e, ENOMEM, "%s", name);
}

int host_clear_run_dir(const char *run_dir, struct err *e)
{
	_cleanup_free_ char *dir = strdup(run_dir);
	struct host nobody = {.run_dir = dir};
	if (!dir)
		return err_errno(e, ENOMEM, "%s", run_dir);
	int rc = unknown_each_name(&nobody, run_dir, stop_shim, e);
	if (rc == 0 && (rc = slot_cleanup_all(run_dir, e)) == -ENOENT)
		rc = 0;
	if (rc == 0 && (rc = file_rm_rf(AT_FDCWD, run_dir)) < 0)
		err_errno(e, rc, "remove %s", run_dir);
	return rc;
}
