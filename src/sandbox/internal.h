// SPDX-License-Identifier: Apache-2.0
// What the files of this room share.
//
// Locking: host.lock guards the table and every field of a sandbox. It is never held over a slow
// step (disk, process, database). An operation first claims its sandbox (sandbox.operation), works
// without the lock as its only writer, and lets go at the end; host.changed tells the waiters. The
// database has its own lock, taken inside store.c only, never while host.lock is held.
#pragma once
#include <pthread.h>
#include "base/db.h"
#include "net/slot.h"
#include "http/client.h"
#include "pager/stats.h"
#include "sandbox/table/gate.h"
#include "sandbox/host.h"
#include "snapshot/store.h"
#include "vmm/vmm.h"

struct image_info;

bool sandbox_state_may(enum sandbox_state from, enum sandbox_state to);
// Every change of state goes through here: checked against the table (a wrong one is a bug and
// aborts), traced with what caused it.
void sandbox_move(struct host_sandbox *s, enum sandbox_state to, const char *why);

// In a sandbox's directory: what its pager is to load ahead.
#define WORKING_SET "working_set"

// What pagers count; the latency as in struct pager_stats.
enum {
	PAGER_FAULTS,
	PAGER_BYTES,
	PAGER_AHEAD,
	PAGER_HITS,
	PAGER_BUSY_US,
	PAGER_LATENCY,
	PAGER_FIGURES = PAGER_LATENCY + STATS_BUCKETS
};
struct pager_figures {
	uint64_t n[PAGER_FIGURES];
};

struct sandbox {
	struct host_sandbox info;
	char token[96];	       // envd's; kept for later resumes
	char agent[20];	       // envd's instance that was greeted last, "": not known
	char op_id[UUID_SIZE]; // of the create, while it is pending
	const char *operation; // "create", "destroy", ...: claimed; NULL: free
	struct gate_ticket ticket;
	bool starts;	  // a resume: it counts as one that runs
	struct slot slot; // valid while has_slot
	bool has_slot;
	int pidfd;	       // of the shim, -1: none
	bool watched;	       // pidfd is in the monitor's epoll set
	struct sandbox *next;  // in its bucket
	char layer[UUID_SIZE]; // of a capture under way: the collection leaves it alone
	bool full_next;	       // lineage uncertain: the next snapshot must be a full one
	bool hidden;	       // boots only to be frozen: nobody asked for it
	char kernel_id[72];
	char parent[UUID_SIZE];	 // snapshot it was loaded from, "" when it was booted
	char harvest[UUID_SIZE]; // template snapshot that gets the working set now recorded
	uint64_t retry_at_ns;	 // of a time-out whose pause failed; CLOCK_REALTIME
	struct open_op *recover; // at start only (recover.c)
	uint64_t ready_ns; // CLOCK_MONOTONIC of the load whose record is not taken yet; 0: none
	struct pager_figures pager_told; // by its pager, and in host.pager
};

struct vmm_choice {
	bool firecracker; // else fcqemu
	bool kvm;
	char program[256];
	char version[64];
	char kvm_reason[200]; // why KVM is not used; "" when it is
	char qemu_version[48];
	uint64_t tsc_khz; // of this host
	char name[32];	  // "firecracker", "fcqemu": with the next two in each snapshot
	char state[64];	  // format of its state files
	char sha256[65];  // of the program that writes them
};

#define HOST_BUCKETS 256u

// Each slot has a uid of its own; it owns the tap, the disk and all processes in the jail.
#define HOST_UID_BASE 310000u
static inline uint32_t slot_uid(const struct slot *s)
{
	return HOST_UID_BASE + s->index;
}

struct host {
	char *data_dir, *run_dir;
	int data_fd; // O_DIRECTORY
	int lock_fd, run_lock_fd;
	struct db *db;
	struct slot_pool *slots;
	struct vmm_choice vmm;
	char *runtime_dir, *shim_program;
	unsigned max_sandboxes;

	struct gate gate; // of all starts; its lock may be taken under the next one
	pthread_mutex_t lock;
	pthread_cond_t changed; // an operation ended, or stands in line
	struct sandbox *buckets[HOST_BUCKETS];
	unsigned n_sandboxes;
	uint64_t creates, create_failures, destroys, guest_ends;

	pthread_mutex_t event_lock;
	pthread_cond_t event_added;
	uint64_t last_event;
	char journal_id[40]; // of host.db
	bool closing;

	pthread_t monitor;
	bool monitor_started;
	int epoll_fd, wake_fd;

	// Held shared from the reading of a header to the opening of its layers, exclusively by the
	// collection.
	pthread_rwlock_t layers_lock;
	uint64_t tsc_khz; // of this machine; 0 where guests do not depend on it
	pthread_t upkeep;
	bool upkeep_started;
	pthread_mutex_t upkeep_lock;
	pthread_cond_t upkeep_wake;
	bool upkeep_stop, upkeep_due;
	unsigned workers; // detached threads of pauses by time-out, under host.lock
	uint64_t pauses, resumes, forks;
	struct pager_figures pager; // of all pagers so far
};

// --- host.c: the table; host.lock held
// ------------------------------------------------------------------
// Sandboxes that have, or are getting, something to run on.
unsigned host_live(const struct host *h);
struct sandbox *host_find(struct host *h, const char *id);
int host_insert(struct host *h, struct sandbox *s);
void host_remove(struct host *h, struct sandbox *s);  // unlinks and frees
void host_release(struct host *h, struct sandbox *s); // ends the claim
// The paths of a sandbox: <run>/<id> and sandboxes/<id> below the data directory.
int host_run_path(const struct host *h, const char *id, char out[512]);
int host_disk_path(const struct host *h, const char *id, const char *file, char out[512]);

// --- store.c: host.db; none of these is called with host.lock held
// -----------------------------------
int store_open(struct host *h, struct err *e);
// Each is one transaction, durable when it returns 0; the event goes with it. data is borrowed.
struct store_event {
	const char *kind, *cause;
	json_t *data;
	const struct err
		*failed; // the operation failed: it will be told so again; NULL: it did not
};
// Journals an operation before its first side effect. ERR_CONFLICT when the id was used. data: JSON
// text, NULL: none.
int store_op_begin(struct host *h, const char *op_id, const char *kind, const struct sandbox *s,
	const char *data, struct err *e);
// The sandbox's row is replaced by *s, the operation (NULL: none) is done.
int store_commit(struct host *h, const char *op_id, const struct sandbox *s,
	const struct store_event *ev, struct err *e);
struct store_snapshot {
	struct host_snapshot info;
	char token[96];	    // that the agent in the frozen guest knows
	char image_key[65]; // of a frozen base image, else ""
};
// The same; in the same transaction the row of a snapshot is added and that of another one removed
// (each may be NULL).
int store_commit_snapshot(struct host *h, const char *op_id, const struct sandbox *s,
	const struct store_snapshot *add, const char *drop, const struct store_event *ev,
	struct err *e);
// Without a sandbox. op_id may be NULL.
int store_drop_snapshot(struct host *h, const char *op_id, const char *id,
	const struct store_event *ev, struct err *e);
// ERR_NOT_FOUND.
int store_get_snapshot(struct host *h, const char *id, struct store_snapshot *ret, struct err *e);
// Those of a kind, of a sandbox, with an image key; each NULL for all. Newest first. *ret is the
// caller's (free).
int store_list_snapshots(struct host *h, const char *kind, const char *sandbox,
	const char *image_key, struct store_snapshot **ret, size_t *ret_n, struct err *e);
// The sandbox's row and all its operations are deleted: a failed create leaves no row.
int store_forget(struct host *h, const char *id, const struct store_event *ev, struct err *e);
// "" unknown, else "open" or "done"; the operation's sandbox in id. *ret_failed (may be NULL) is
// set when it ended in an error.
int store_op_find(struct host *h, const char *op_id, char state[8], char id[64],
	struct err *ret_failed, struct err *e);
// Calls f for each row; the sandbox is allocated for f to own. open_op: kind of its open operation
// or "".
typedef int (*store_row_fn)(struct host *h, struct sandbox *s, const char *open_op,
	const char *op_id, const char *op_data);
int store_load(struct host *h, store_row_fn f, struct err *e);
int store_events(struct host *h, uint64_t after, size_t max, struct host_event **ret, size_t *ret_n,
	struct err *e);
int store_ack(struct host *h, uint64_t upto, struct err *e);
// Removes rows of sandboxes that ended before the time and old operations. Beyond STORE_MAX_EVENTS
// that nobody acknowledged the oldest events give way to one that says which are lost.
#define STORE_MAX_EVENTS 100000
int store_purge(struct host *h, uint64_t ended_before_ns, struct err *e);

// --- vmm_choice.c
// -----------------------------------------------------------------------------------
int vmm_choose(const struct host_config *cfg, struct vmm_choice *ret, struct err *e);
int vmm_runtime_build(struct host *h, struct err *e);
// Name, state format and checksum of the program that writes snapshots.
int vmm_identify(struct host *h, struct err *e);
// Rate of the time stamp counter that a guest in this state file believes in; 0: does not matter.
int vmm_state_tsc_khz(const struct host *h, const char *path, uint64_t *ret, struct err *e);
// Program and arguments in the jail, NULL-terminated, at most 16.
void vmm_argv(const struct host *h, const char *argv[16]);

// --- end.c
// --------------------------------------------------------------------------------------------
// Frees all that a sandbox has on this machine: shim, jail, slot, disk. Undo of a create and end of
// a life alike; goes on past errors, logs each, returns the first. keep_log: the console stays (for
// a while, or until it is resumed).
int sandbox_free_resources(struct host *h, struct sandbox *s, bool keep_log);
// Deletes the snapshots of its pauses, rows and all, when it ends; others made from it stay.
void sandbox_drop_pauses(struct host *h, const char *id);
// The shim ended by itself: judges why, frees, records. Called by the monitor.
void sandbox_ended(struct host *h, struct sandbox *s);

// --- monitor.c
// ------------------------------------------------------------------------------------------
int monitor_start(struct host *h, struct err *e);
void monitor_stop(struct host *h);
void monitor_watch(struct host *h, struct sandbox *s);	 // host.lock held
void monitor_unwatch(struct host *h, struct sandbox *s); // host.lock held
void monitor_wake(struct host *h);			 // a time-out changed

// --- machine.c
// ----------------------------------------------------------------------------------------
// A snapshot that a machine is loaded from.
struct source {
	struct store_snapshot row;
	struct snapshot_info info;
	struct header *header;
	bool working_set; // one was recorded
};
void source_done(struct source *src);
// Reads and checks everything; ERR_UNAVAILABLE when this host's VMM cannot load it.
// disk_only: only the disk is wanted.
int source_open(struct host *h, const char *id, bool disk_only, struct source *ret, struct err *e);

struct machine_plan {
	const char *operation;	      // "create", "resume": prefix of the fault points
	const struct image_info *img; // to boot; NULL: load src
	const struct source *src;     // NULL: the disk is the image's
	const char *token;
	json_t *env; // may be NULL
};
// Everything from the slot to the ready guest, in order; phases are noted in s->info. The caller
// has claimed s and is its only writer. On error what was made is left for sandbox_free_resources.
int machine_up(struct host *h, struct sandbox *s, const struct machine_plan *p, uint64_t *since,
	struct err *e);
void machine_phase(struct host_sandbox *i, const char *name, uint64_t *since);
// Client of the VMM of a running sandbox.
int machine_vmm(struct host *h, const struct sandbox *s, struct vmm **ret, struct err *e);
// Client of its agent; url has room for 96 bytes and lives as long as the client.
int machine_agent(const struct sandbox *s, char url[96], struct http_client **ret, struct err *e);
// A tick (http_call) that ends a call to a guest whose VMM has ended. ctx: the sandbox.
int machine_is_gone(void *ctx);
json_t *machine_phases_json(const struct host_sandbox *i);
// Checks a request for a new machine against what this host has.
int machine_check_size(const struct host_sandbox *i, struct err *e);

// --- capture.c
// ----------------------------------------------------------------------------------------
struct capture {
	char snapshot[UUID_SIZE], layer[UUID_SIZE], image[UUID_SIZE];
	const char *kind; // of the snapshot's row
	const char *image_key;
	bool went_on;	       // the guest runs again
	bool asked;	       // the VMM was told to write: its tracking may be reset
	bool taken;	       // memory and state are complete, in the sandbox's directory
	struct header *header; // of the image, once its layer is published
	struct store_snapshot row;
	uint64_t stopped_ns, went_on_ns; // CLOCK_MONOTONIC
	struct http_client *agent;	 // the guest's, kept from freeze to thaw
};
void capture_done(struct capture *c);
// Chooses the ids and gives the text that goes into the journal before anything is done.
// snapshot NULL: a new id. full: the sandbox's full_next.
int capture_init(
	struct capture *c, const char *kind, const char *snapshot, bool full, char journal[160]);
// Guest quiesced and stopped, its dirty memory, device state and disk put beside its disk. The
// guest is left stopped. On error it was let go again.
int capture_take(
	struct host *h, struct sandbox *s, struct capture *c, uint64_t *since, struct err *e);
// The guest goes on: stopped VMM resumed, processes thawed. On its own clock.
int capture_let_go(struct host *h, struct sandbox *s, struct capture *c, struct err *e);
// Layer and snapshot made durable, c->row filled in. On error the snapshot does not exist.
int capture_publish(
	struct host *h, struct sandbox *s, struct capture *c, uint64_t *since, struct err *e);
// After any end that left the sandbox running: the diff becomes part of its lineage (base.hdr), or
// s->full_next is set. Removes what is left over. The caller commits the row.
void capture_settle(struct host *h, struct sandbox *s, struct capture *c);

// --- early_write.c

struct early_write {
	int dir, stop_fd;
	const char *names[2];
	pthread_t thread;
	bool running;
};
// From now until the stop, what is in the first of two files to appear in dir is written to the
// disk as it grows. Only advice: nothing is durable by it, nothing fails.
void early_write_start(struct early_write *w, int dir, const char *name, const char *other);
void early_write_stop(struct early_write *w);

// --- checkpoint.c

struct checkpoint {
	const char *kind;	   // of the snapshot's row
	const char *op;		   // of the journal's entry
	const char *fault;	   // point before the commit
	const char *done, *failed; // kinds of the event
};
// A snapshot of a running sandbox, which goes on before this returns, also on failure. snapshot
// NULL: a new id, in ret->info.id. data is taken over: what the event says besides the times.
int checkpoint(struct host *h, struct sandbox *s, const struct checkpoint *k, const char *op_id,
	const char *snapshot, json_t *data, struct store_snapshot *ret, struct err *e);
// base.hdr of a running sandbox. Not synced: it means nothing once the machine that runs it is
// gone.
int capture_write_base(
	struct host *h, const struct sandbox *s, const struct header *hd, struct err *e);
// Takes a file that the jail wrote: a regular one, with no other name, root's from now on. The
// jail's processes may still hold it open; what they change later does not match its checksums.
int capture_take_file(int dir, const char *from, const char *to, struct err *e);

// --- harvest.c

// Takes the record that the pager left, for later resumes, and adds its figures to the host's. The
// sandbox is claimed.
void harvest(struct host *h, struct sandbox *s);
// In Prometheus's text format.
void harvest_metrics(const struct pager_figures *f, struct strbuf *out);

// --- snapshots.c
// --------------------------------------------------------------------------------------
// Files first (snapshot.json before all), then the row. Wakes the upkeep for the layers.
int snapshot_drop(struct host *h, const char *op_id, const char *id, const struct store_event *ev,
	struct err *e);
// A copy of a snapshot under a new id and kind; shares all blocks. Durable.
int snapshot_copy(struct host *h, const struct source *src, const char *id, enum snapshot_kind kind,
	struct err *e);

// --- claim.c

// 1: the operation was done before; 0: not; its own error where it failed. Waits for it where it is
// under way. ERR_CONFLICT: the id was used for another sandbox.
int operation_told(struct host *h, const char *op_id, const char *id, struct err *e);
// Claims a sandbox for an operation when it is in one of the states (bits 1 << state), waiting for
// none: ERR_CONFLICT says what it is doing. 1: the operation was done before (*ret is filled).
int sandbox_claim(struct host *h, const char *op_id, const char *id, const char *operation,
	unsigned states, struct sandbox **ret_s, struct host_sandbox *ret, struct err *e);

// --- turn.c

// Of a claimed sandbox that nothing was made for yet; host.lock held. Does not block. True: it may
// begin; false: turn_wait must be called.
bool turn_join(struct host *h, struct sandbox *s);
// Blocks until it may begin; layers_lock must not be held. The wait is the phase "queue", the first
// one of the operation.
int turn_wait(struct host *h, struct sandbox *s, struct err *e);
// The end of a sandbox that runs from now on. It was asked for when CLOCK_MONOTONIC was asked_ns,
// with an end (CLOCK_REALTIME; 0: never) as if it ran at once.
uint64_t turn_ends_at(uint64_t ends_at_ns, uint64_t asked_ns);

// --- create.c
// ----------------------------------------------------------------------------------------
// hidden NULL: a sandbox as anybody's. Else one that nobody asked for (freeze.c): it is not listed
// or watched, its journal entry stays open with this text, and it stays claimed.
int create_sandbox(struct host *h, const struct host_create *req, const char *hidden,
	struct host_sandbox *ret, struct err *e);

// --- freeze.c
// ----------------------------------------------------------------------------------------
// The frozen machine of a base image: the id of its snapshot, "" when there is none for this image
// and VMM.
int freeze_find(
	struct host *h, const struct image_info *img, char ret_snapshot[UUID_SIZE], struct err *e);
// Makes it when it is missing, and drops those of other images of that name.
int freeze_image(struct host *h, const struct image_info *img, struct err *e);

// --- upkeep.c: one thread that collects layers, merges chains, freezes base images
// -----------------------------
int upkeep_start(struct host *h, struct err *e);
void upkeep_stop(struct host *h);
void upkeep_wake(struct host *h);

// --- recover.c
// ------------------------------------------------------------------------------------------
int host_recover(struct host *h, const struct host_config *cfg, struct err *e);
// Of a host_recover that failed before it settled anything: the rows stay as they are, and nobody
// waits for their operations.
void host_recover_abandon(struct host *h);
