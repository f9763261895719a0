// SPDX-License-Identifier: Apache-2.0
// What the host and each of its sandboxes consist of.
//
// Locking: host.lock guards the table and every field of a sandbox. It is never held over a slow
// step (disk, process, database). An operation first claims its sandbox (sandbox.operation), works
// without the lock as its only writer, and lets go at the end; host.changed tells the waiters. The
// database has its own lock (store.h), which is never taken while host.lock is held.
#pragma once
#include <pthread.h>
#include "base/db.h"
#include "disk/disk.h"
#include "net/slot.h"
#include "sandbox/host.h"
#include "sandbox/table/figures.h"
#include "sandbox/table/gate.h"
#include "sandbox/table/refs.h"
#include "base/workers.h"
#include "base/lock.h"
#include <stdatomic.h>

// What is known of kills in a guest for lack of memory (machine/oom.h).
struct sandbox_oom {
	uint64_t console_seen;	     // bytes
	uint64_t after_ns, pause_ns; // CLOCK_MONOTONIC: it is not asked before
	bool rung;		     // there is something to ask for
	bool asking;
};

// Whether a guest stands still for good (machine/halt.h).
struct sandbox_halt {
	uint64_t console_seen; // bytes
	uint64_t after_ns;     // CLOCK_MONOTONIC: it is not asked before
	uint64_t generation;   // of the sandbox at the last question
	unsigned silent;       // questions in a row without an answer
	unsigned answered;     // with one
	bool said;	       // the console's end says so
	bool asking;
};

// What is needed to tell what it uses (machine/meter.h).
struct sandbox_meter {
	int pid[3];			       // VMM and its children; 0: none, or not found yet
	uint64_t sent_before, received_before; // by the slot's interface, before its start
};

// What the agent of a machine that runs has not answered yet (life/silent.h). All empty: nothing.
struct sandbox_owed {
	bool thaw;	// its processes may stand still
	bool init;	// it was loaded without its agent's word: identity, time, token
	char token[96]; // of init: the new one
	int clock_ppm;	// of init
};

// One whose time is over and that could not be paused (life/hold.h): its processors stand still.
enum sandbox_held { NOT_HELD, HELD, HELD_FROZEN };

struct sandbox {
	struct host_sandbox info;
	char token[96];	       // envd's; kept for later resumes
	char agent[20];	       // envd's instance that was greeted last, "": not known
	bool agent_replaced;   // at its last start, see machine/agent_program.h
	char agent_note[160];  // the version of before, or why it is the old one still; "": nothing
	unsigned agent_asked;  // how often its version was asked for (machine/learn.h)
	char op_id[UUID_SIZE]; // of the operation that has it, or had it last
	const char *operation; // "create", "destroy", ...: claimed; NULL: free
	// A destroy waits for it: what has it gives up as soon as it can, and undoes nothing.
	bool ending;
	// A destroy did not wait any longer. The row says stopped, for good; what has it frees the
	// rest.
	bool removed;
	bool freeing;	// its processes or files are not gone yet (life/free.h)
	bool forget;	// its row goes with them
	bool free_all;	// nothing is to be kept of it
	bool has_files; // in its directory, be it the console alone
	struct gate_ticket ticket;
	bool starts;	  // a resume: it counts as one that runs
	bool has_room;	  // for its pause, before it runs (space.h); until the claim ends
	struct slot slot; // valid while has_slot
	bool has_slot;
	int pidfd;	      // of the shim, -1: none
	bool watched;	      // pidfd is in the monitor's epoll set
	struct sandbox *next; // in its bucket
	bool full_next;	      // lineage uncertain: the next snapshot must be a full one
	bool told_no_room;    // in an event, of its time-out
	bool hidden;	      // boots only to be prewarmed: nobody asked for it
	char kernel_id[72];
	bool dns_own;		      // info.dns was asked for, and is not the host's
	char parent[UUID_SIZE];	      // snapshot it was loaded from, "" when it was booted
	char harvest[UUID_SIZE];      // template snapshot that gets the working set now recorded
	uint64_t due_ns;	      // CLOCK_MONOTONIC of its end by time-out; 0: never
	struct layer_set base;	      // of base.hdr: held (refs.h)
	const struct vmm_choice *vmm; // that it runs on: held; NULL: it does not run
	struct unsettled *unsettled;  // what recovery has still to do (watch/recover.c)
	uint64_t ready_ns; // CLOCK_MONOTONIC of the load whose record is not taken yet; 0: none
	struct sandbox_meter meter;
	struct pager_figures pager_told; // by its pager, and in host.pager
	struct sandbox_oom oom;
	struct sandbox_owed owed;
	bool asks_silent;	// a job asks its agent
	_Atomic bool wanted;	// something waits for that job's claim: it gives way
	enum sandbox_held held; // not kept over a restart
	uint64_t console_from;	// what the console had when its machine was started
	struct sandbox_halt halt;
};

#define HOST_BUCKETS 256u

// Each slot has a uid of its own; it owns the tap, the disk and all processes in the jail.
#define HOST_UID_BASE 310000u
static inline uint32_t slot_uid(const struct slot *s)
{
	return HOST_UID_BASE + s->index;
}

// What is on this machine and in no row (watch/unknown.h): found at the start, kept.
enum { UNKNOWN_SHIMS, UNKNOWN_SANDBOXES, UNKNOWN_SNAPSHOTS, UNKNOWN_LAYERS, UNKNOWN_KINDS };
struct unknown {
	unsigned kind;
	char name[64];
	unsigned slot; // of a shim: kept for it while it lives
	bool has_slot;
	bool damaged, unread;	 // its header, its snapshot.json
	struct layer_set layers; // of its header: held
	char runtime[40];	 // of its snapshot.json: held; "": none
};

struct vmm_choice;
struct runtimes;
struct agent_program;

struct host {
	char *data_dir, *run_dir;
	int data_fd; // O_DIRECTORY
	int lock_fd, run_lock_fd;
	struct db *db;
	struct slot_pool *slots;
	char dns[48]; // the setting; "": what this machine itself asks
	struct vmm_choice *vmm;
	struct runtimes *runtimes; // all VMMs that are kept (machine/runtimes.h)
	char *own_dir;		   // tree of our own programs
	uint32_t own_dynamic;	   // bit: this one needs its dynamic linker
	char *shim_program;
	struct agent_program *agent_program; // NULL: there is none to be sent
	unsigned max_sandboxes;
	unsigned agent_wait_ms; // the setting; 0: by what the guest runs on (machine/reach.h)
	_Atomic unsigned asking_silent; // jobs that wait for an agent

	uint64_t reserve_bytes; // of the volume (space.h)
	unsigned reserve_percent;
	bool pause_room;
	unsigned metrics_sandboxes; // with lines of their own in the metrics
	unsigned overcommit_disk, overcommit_memory, overcommit_vcpus; // percent, 0: any
	pthread_mutex_t space_lock;	 // one start is given room at a time; outer of lock
	_Atomic int space_level;	 // enum space_level
	_Atomic uint64_t space_promised; // to pauses under way

	struct gate gate; // of all starts; its lock may be taken under the next one
	pthread_mutex_t lock;
	pthread_cond_t changed; // an operation ended, or stands in line
	struct sandbox *buckets[HOST_BUCKETS];
	unsigned n_sandboxes;
	uint64_t creates, create_failures, destroys, guest_ends;
	uint64_t oom_kills; // in guests, by what they say
	int kmsg_fd;	    // the kernel's log, read to its end; -1: not for us
	uint64_t kmsg_next; // number of the record after the last one read

	pthread_mutex_t event_lock;
	pthread_cond_t event_added;
	uint64_t last_event;
	char journal_id[40]; // of host.db
	bool closing;

	pthread_t monitor;
	bool monitor_started;
	int epoll_fd, wake_fd;

	struct refs *refs;	   // who needs which layer and snapshot
	struct workers *workers;   // ends and the freeing are urgent; pauses and recovery are not
	_Atomic uint64_t epoch;	   // of host.db; the volume's marker follows (watch/epoch.h)
	struct volume_info volume; // its epoch and journal: what the marker says
	bool epoch_counts;	   // host.db belongs to the volume
	// Snapshots whose headers cannot be read: which layers they need is not known, so none is
	// removed.
	_Atomic unsigned damaged;
	_Atomic unsigned unread; // snapshots whose tree is not known: no tree is removed
	struct unknown *unknown;
	size_t n_unknown;
	pthread_mutex_t usage_lock; // one looks at all files at a time; innermost of none
	pthread_t upkeep;
	bool upkeep_started;
	pthread_mutex_t upkeep_lock;
	pthread_cond_t upkeep_wake;
	bool upkeep_stop, upkeep_due;
	_Atomic bool freeze_due; // a base image lost its frozen machine
	struct noted *noted;	 // snapshots to look at
	uint64_t pauses, resumes, forks;
	uint64_t memory_written, memory_kept; // bytes, of all captures so far
	struct pager_figures pager;	      // of all pagers so far
};
