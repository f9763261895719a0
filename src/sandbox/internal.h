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
#include "sandbox/host.h"

bool sandbox_state_may(enum sandbox_state from, enum sandbox_state to);
// Every change of state goes through here: checked against the table (a wrong one is a bug and
// aborts), traced with what caused it.
void sandbox_move(struct host_sandbox *s, enum sandbox_state to, const char *why);

struct sandbox {
	struct host_sandbox info;
	char token[96];	       // envd's; kept for later resumes
	char op_id[UUID_SIZE]; // of the create, while it is pending
	const char *operation; // "create", "destroy", ...: claimed; NULL: free
	struct slot slot;      // valid while has_slot
	bool has_slot;
	int pidfd;	      // of the shim, -1: none
	bool watched;	      // pidfd is in the monitor's epoll set
	struct sandbox *next; // in its bucket
};

struct vmm_choice {
	bool firecracker; // else fcqemu
	bool kvm;
	char program[256];
	char version[64];
	char kvm_reason[200]; // why KVM is not used; "" when it is
	char qemu_version[48];
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
	int lock_fd;
	struct db *db;
	struct slot_pool *slots;
	struct vmm_choice vmm;
	char *runtime_dir, *shim_program;
	unsigned max_sandboxes;

	pthread_mutex_t lock;
	pthread_cond_t changed; // an operation ended
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
};

// --- host.c: the table; host.lock held
// ------------------------------------------------------------------
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
};
// Journals an operation before its first side effect. ERR_CONFLICT when the id was used.
int store_op_begin(struct host *h, const char *op_id, const char *kind, const struct sandbox *s,
	struct err *e);
// The sandbox's row is replaced by *s, the operation (NULL: none) is done.
int store_commit(struct host *h, const char *op_id, const struct sandbox *s,
	const struct store_event *ev, struct err *e);
// The sandbox's row and all its operations are deleted: a failed create leaves no row.
int store_forget(struct host *h, const char *id, const struct store_event *ev, struct err *e);
// "" unknown, else "open" or "done"; the operation's sandbox in id.
int store_op_find(struct host *h, const char *op_id, char state[8], char id[64], struct err *e);
// Calls f for each row; the sandbox is allocated for f to own. open_op: kind of its open operation
// or "".
typedef int (*store_row_fn)(
	struct host *h, struct sandbox *s, const char *open_op, const char *op_id);
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
// Program and arguments in the jail, NULL-terminated, at most 16.
void vmm_argv(const struct host *h, const char *id, const char *argv[16]);

// --- end.c
// --------------------------------------------------------------------------------------------
// Frees all that a sandbox has on this machine: shim, jail, slot, disk. Undo of a create and end of
// a life alike; goes on past errors, logs each, returns the first. keep_log: the console stays for
// a while.
int sandbox_free_resources(struct host *h, struct sandbox *s, bool keep_log);
// The shim ended by itself: judges why, frees, records. Called by the monitor.
void sandbox_ended(struct host *h, struct sandbox *s);

// --- monitor.c
// ------------------------------------------------------------------------------------------
int monitor_start(struct host *h, struct err *e);
void monitor_stop(struct host *h);
void monitor_watch(struct host *h, struct sandbox *s);	 // host.lock held
void monitor_unwatch(struct host *h, struct sandbox *s); // host.lock held
void monitor_wake(struct host *h);			 // a time-out changed

// --- recover.c
// ------------------------------------------------------------------------------------------
int host_recover(struct host *h, const struct host_config *cfg, struct err *e);
