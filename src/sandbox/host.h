// SPDX-License-Identifier: Apache-2.0
// The host: life cycle of the sandboxes of one machine. Owns the slots, jails, disks, host.db and
// its journal. Thread-safe; every call blocks until done.
#pragma once
#include "sandbox/types.h"

struct host_overcommit {
	unsigned disk, memory, vcpus; // 2000, 1000, 10000
};
#define HOST_OVERCOMMIT_DEFAULT                                                                    \
	{                                                                                          \
		2000, 1000, 10000                                                                  \
	}

struct host_config {
	const char *data_dir;	// holds the volume's marker
	const char *run_dir;	//
	const char *slot_range; // NULL: 10.213.0.0/16
	unsigned max_sandboxes; // 0: 200
	unsigned warm_slots;	// 0: 4
	uint64_t reserve_bytes; // kept free for pauses (disk/space.h); this or the next, or none
	unsigned reserve_percent;
	bool pause_room; // nothing starts that could not be paused beside all that runs
	// How much may be promised of what there is, in percent: the default where it is
	// NULL, and 0 of one for no limit.
	const struct host_overcommit *overcommit;
	// An agent that answers nothing for so long is not waited for any more; 0: 3 s, 10 s of an
	// emulated guest.
	unsigned agent_wait_ms;
	const char *vmm;	      // "auto", "firecracker", "fcqemu"
	const char *firecracker_path; // NULL: firecracker of PATH
	const char *qemu_path;	      // NULL: /usr/bin/qemu-system-x86_64
	// Minimum versions of VMMs, "qemu 7.2.9, firecracker 1.14.2": nothing starts on older ones,
	// kept ones among them. NULL: none.
	const char *vmm_floor;
	unsigned metrics_sandboxes; // so many have lines of their own in the metrics
	const char *const *allow; // CIDRs that guests may reach in spite of the policy; may be NULL
	const char *dns;	  // of guests, up to 3 IPv4 addresses; NULL: the host's own
	const uint32_t *users;	  // besides root: may connect to guests (slot.h); may be NULL
	size_t n_users;
	// Opened for one thing only, beside what runs: the rows are another server's to judge. None
	// is loaded, adopted or undone, and there is no upkeep.
	bool alone;
};

struct host;

// Refuses when the volume is absent or another server has the directory (ERR_CONFLICT, with its
// pid). Finishes or undoes what an earlier server left, adopts the sandboxes that run.
int host_open(const struct host_config *cfg, struct host **ret, struct err *e);
// Ends and removes all that is in the run directory of a host that is gone; then the directory.
int host_clear_run_dir(const char *run_dir, struct err *e);
// host.db made anew from what is on the disk and in the run directory, where no server runs
// (ERR_CONFLICT): state files of what has a machine, snapshot.json of the rest. It has another
// journal. The one that was there is kept as host.db.before-rebuild. With forget nothing is read
// and all that is there will be unknown. text: what was found, a line each, appended.
struct host_rebuilt {
	unsigned sandboxes, paused, snapshots; // rows
	unsigned unknown;		       // found, and not made a row of
	struct strbuf text;
};
int host_rebuild(const char *data_dir, const char *run_dir, bool forget, struct host_rebuilt *ret,
	struct err *e);
// For good: starts that wait for their turn end with ERR_UNAVAILABLE, and so does what comes later.
// For a server that is about to wait for its calls.
void host_stop_starts(struct host *h);
// Sandboxes go on; kill_all ends them first.
struct host *host_close(struct host *h, bool kill_all);

int host_create(
	struct host *h, const struct host_create *req, struct host_sandbox *ret, struct err *e);
int host_destroy(
	struct host *h, const char *op_id, const char *id, const char *cause, struct err *e);
// Destroys a paused one that is still at that generation and that nothing is under way on; else
// ERR_CONFLICT, and nothing is done. Unlike a destroy it overtakes nobody.
int host_expire(struct host *h, const char *op_id, const char *id, uint64_t generation,
	const char *cause, struct err *e);
int host_pause(
	struct host *h, const char *op_id, const char *id, struct host_sandbox *ret, struct err *e);
int host_resume(
	struct host *h, const struct host_resume *req, struct host_sandbox *ret, struct err *e);
int host_fork(struct host *h, struct host_fork *req, struct err *e);
int host_snapshot_create(struct host *h, const struct host_snapshot_create *req,
	struct host_snapshot *ret, struct err *e);
int host_snapshot_delete(struct host *h, const char *op_id, const char *snapshot, struct err *e);
int host_snapshots(struct host *h, struct host_snapshot **ret, size_t *ret_n, struct err *e);
// Reads what a load would, without the memory itself; starts nothing.
int host_snapshot_check(
	struct host *h, const char *snapshot, struct host_snapshot_check *ret, struct err *e);
int host_get(struct host *h, const char *id, struct host_sandbox *ret, struct err *e);
int host_list(struct host *h, struct host_sandbox **ret, size_t *ret_n, struct err *e);
// Of a running or paused one. Durable, an event "on_timeout_set".
int host_set_on_timeout(struct host *h, const char *op_id, const char *id,
	enum on_timeout on_timeout, struct err *e);
// Another token for the agent of one that runs; ERR_CONFLICT while another operation is under way.
int host_set_token(
	struct host *h, const char *op_id, const char *id, const char *token, struct err *e);
int host_set_timeout(
	struct host *h, const char *op_id, const char *id, uint64_t ends_at_ns, struct err *e);
int host_address(struct host *h, const char *id, struct host_place *ret, struct err *e);
int host_open_log(struct host *h, const char *id, int *ret_fd, struct err *e);
int host_events(struct host *h, uint64_t after, size_t max, int wait_ms, struct host_event **ret,
	size_t *ret_n, struct err *e);
// Forgets the events up to this number. Numbers go on.
int host_ack_events(struct host *h, uint64_t upto, struct err *e);
int host_templates(struct host *h, struct host_template **ret, size_t *ret_n, struct err *e);
// Boots a base image once and freezes it, where that was not done yet: from then on a create from
// it is a load.
int host_freeze(struct host *h, const char *template, struct err *e);
int host_info(struct host *h, struct host_info *ret, struct err *e);
// *ret is the caller's (host_usage_report_done). One at a time; all files are looked at, for half a
// minute at most (ERR_TIMEOUT). ERR_NOT_FOUND when what is asked about is not there.
int host_usage(struct host *h, const struct host_usage_ask *ask, struct host_usage_report *ret,
	struct err *e);
// Ends and removes what is on this machine and in no row. Goes on after an error: the first one is
// told, and what could not be removed stays on the list.
// The VMMs of this host, the one that new sandboxes start on first. Array owned by the caller.
int host_runtimes(struct host *h, struct host_runtime **ret, size_t *ret_n, struct err *e);
// Nothing starts on it any more (ERR_UNAVAILABLE), or again. Durable.
int host_runtime_deny(struct host *h, const char *id, bool on, struct err *e);
int host_remove_unknown(struct host *h, size_t *ret_n, struct err *e);
// What one that has not stopped uses now; running processes are looked at, the guest is not asked.
int host_figures(struct host *h, const char *id, struct host_figures *ret, struct err *e);
int host_metrics(struct host *h, struct strbuf *out, struct err *e);
