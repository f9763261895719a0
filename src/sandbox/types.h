// SPDX-License-Identifier: Apache-2.0
// What the host knows of sandboxes, templates and itself, in the shape in which the contract
// (hostagent/hostagent.h) tells it to the control plane.
#pragma once
#include <jansson.h>
#include "base/err.h"
#include "base/id.h"
#include "base/str.h"

enum sandbox_state {
	SANDBOX_PENDING,
	SANDBOX_RUNNING,
	SANDBOX_PAUSING,
	SANDBOX_PAUSED,
	SANDBOX_RESUMING,
	SANDBOX_STOPPING,
	SANDBOX_STOPPED,
	SANDBOX_ERROR,
	SANDBOX_STATE_MAX,
};
const char *sandbox_state_name(enum sandbox_state s); // "running"
// SANDBOX_STATE_MAX when unknown.
enum sandbox_state sandbox_state_parse(const char *name);

// Why a sandbox ended.
enum end_cause {
	END_KILLED,	    // by a call
	END_TIMEOUT,	    // its time was over
	END_GUEST_POWEROFF, // the guest switched itself off, or rebooted
	END_GUEST_PANIC,    // its kernel panicked
	END_GUEST_OOM,	    // its kernel panicked for lack of memory
	END_VMM_CRASH,	    // the VMM ended otherwise
	END_HOST_OOM,	    // the host's kernel killed VMM or pager for lack of memory
	END_PAGER_LOST,	    // the pager ended
	END_SHIM_LOST,	    // all of it was gone without a word
	END_HOST_LOST,	    // the host does not have it any more
	END_SERVER_STOPPED, // serve --kill-on-exit
	END_RETENTION,	    // a rule of the operator's took it while it was paused
	END_CREATE_FAILED,  // it never ran
	END_CAUSE_MAX,
};
const char *end_cause_name(enum end_cause c); // "killed"
// END_CAUSE_MAX when unknown.
enum end_cause end_cause_parse(const char *name);

enum on_timeout { ON_TIMEOUT_KILL, ON_TIMEOUT_PAUSE };

struct host_create {
	char op_id[UUID_SIZE];
	char id[SANDBOX_ID_SIZE];
	char template[64];
	unsigned vcpus, memory_mb; // 0: the template's
	uint64_t disk_mb;	   // 0: the template's; else not below it
	uint64_t ends_at_ns;	   // CLOCK_REALTIME; 0: never
	enum on_timeout on_timeout;
	char snapshot[UUID_SIZE]; // spawn from this snapshot: vcpus and memory_mb must be 0 or its
				  // own;
				  // "": from the base image template
	bool cold;		  // boot even where the base image has a frozen machine
	const char *token;	  // envd access token
	json_t *env;		  // map of strings, borrowed; may be NULL
	// Name servers, commas between, for good; "": at each start what the host itself asks then.
	char dns[160];
	bool is_child; // of a fork: the file in its guest stays where it is the user's
};

struct host_resume {
	char op_id[UUID_SIZE];
	char id[SANDBOX_ID_SIZE];
	char from[UUID_SIZE]; // roll back to this snapshot, which must be one of the sandbox's own;
			      // a running sandbox is ended first. "": what its pause kept
	bool disk_only;	     // boot anew from the snapshot's disk; memory is given up
	uint64_t ends_at_ns; // CLOCK_REALTIME; 0: never
	const char *token;   // envd access token from now on
};

// A child of a fork: the caller chooses its ids.
struct host_fork_child {
	char op_id[UUID_SIZE];
	char id[SANDBOX_ID_SIZE];
	const char *token;
	json_t *env; // borrowed, may be NULL
	// outcome
	int rc; // 0, or -errno with the reason in e
	struct err e;
	struct host_sandbox *info; // where it goes; the caller's, not NULL
};

struct host_fork {
	char op_id[UUID_SIZE];
	char id[SANDBOX_ID_SIZE]; // the source: running or paused
	struct host_fork_child *children;
	size_t n; // 1..HOST_FORK_MAX
	uint64_t ends_at_ns;
	enum on_timeout on_timeout;
	// Called on the calling thread as each child is done, in the order they finish; may be
	// NULL.
	void (*done)(void *ctx, size_t i);
	void *ctx;
};
#define HOST_FORK_MAX 100u

struct host_snapshot_create {
	char op_id[UUID_SIZE];
	char id[SANDBOX_ID_SIZE]; // running (goes on after a short stop) or paused
	char snapshot[UUID_SIZE]; // its id, chosen by the caller
	// Another template's snapshot: id is not looked at, the disk of that one boots on this
	// host's own VMM and is taken. "": none.
	char rewarm[UUID_SIZE];
};

#define HOST_MAX_PHASES 16
struct host_phase {
	char name[24];
	uint64_t us;
};

struct host_sandbox {
	char id[64];
	char template[64];
	enum sandbox_state state;
	unsigned vcpus, memory_mb;
	uint64_t disk_mb;
	uint64_t created_ns, started_ns, stopped_ns, ends_at_ns; // CLOCK_REALTIME, 0: not
	enum on_timeout on_timeout;
	char address[48];	  // where the guest's ports are reached; "" when not running
	char snapshot[UUID_SIZE]; // what it resumes from while paused, else ""
	char backend[8];     // how its memory came: "boot", "file", "uffd"; "" when not running
	uint64_t generation; // grows with each change of state
	char dns[48];	     // its name servers since the last start, commas between
	char agent[64];	     // its agent's version (agentclient/version.h); "": nobody has asked
	bool agent_silent;   // it runs, and its agent does not answer; it is asked on and on
	bool unquiesced;     // paused without its agent: resumed once, and nothing else
	char cause[64];	     // why it ended: end_cause_name; a newer host may have others
	char detail[256];
	uint64_t disk_bytes;			   // blocks in use
	struct host_phase phases[HOST_MAX_PHASES]; // of the last operation
	unsigned n_phases;
	// Of the last operation, where it was a pause, fork or snapshot of what runs; not kept over
	// a restart: what the VMM wrote of memory, and what of that had changed and is data.
	uint64_t memory_written_bytes, memory_kept_bytes;
};

// What a sandbox uses. CPU, network and what was loaded count since its last start or resume.
struct host_figures {
	enum sandbox_state state;
	uint64_t cpu_us;       // of the VMM: guest and emulation
	uint64_t memory_bytes; // of the host's, that the VMM has
	uint64_t disk_bytes;   // blocks of its disk
	uint64_t network_received_bytes, network_sent_bytes;
	uint64_t faults, loaded_bytes; // of its pager, as it told last
};

// Where a running sandbox is reached.
struct host_place {
	char address[48];
	bool owner_only; // its agent has a weakness for which strangers are kept away from it
};

struct host_event {
	uint64_t seq; // 1, 2, ...: no gaps, never reused
	uint64_t at_ns;
	char sandbox[64]; // "" for the host's own
	char kind[32];	  // created, running, stopped, error, timeout_set, create_failed, ...
	char cause[64];
	json_t *data; // object or NULL; owned by the event
};
void host_event_done(struct host_event *ev);

struct host_snapshot {
	char id[UUID_SIZE];
	char kind[16];		// "pause", "checkpoint" (of a fork under way), "template"
	char sandbox[64];	// whose state it is
	char template[64];	// the template that sandbox came from
	char parent[UUID_SIZE]; // snapshot that sandbox was loaded from, "" when it was booted
	unsigned vcpus, memory_mb;
	uint64_t disk_mb;
	uint64_t memory_bytes, disk_bytes; // data of the memory image; blocks of the disk in use
	uint64_t created_ns;
};

// Whether a snapshot can be gone on with here.
struct host_snapshot_check {
	bool resumes;	  // its memory can be loaded
	char reason[400]; // why not; "" when it can
	char agent[64];	  // as of a sandbox
	char runtime[40]; // of the VMM that it names; "": none
	char vmm[64];	  // that would load it: "QEMU 7.2.22"
	bool current;	  // which new sandboxes start on
};

// A VMM that is kept: a tree of programs below <data>/runtime.
struct host_runtime {
	char id[40];
	char program[16], version[32]; // "qemu", "7.2.22"; "": cannot be read
	char package[128];	       // that it came from; "": not known
	char state_format[64];
	bool current; // new sandboxes start on it
	bool denied;
	char refused[200];			  // why nothing starts on it; ""
	uint64_t first_ns, last_ns;		  // use
	uint64_t snapshots, oldest_ns, newest_ns; // that hold it, and when they were taken
};

struct host_template {
	char name[64];
	char kind[16]; // "base"
	bool frozen;   // a create is a restore; else, for a moment after a build, a boot
	unsigned vcpus, memory_mb, min_memory_mb;
	uint64_t disk_mb, disk_bytes, created_ns;
	char kernel_id[72];
};

struct host_info {
	char version[32];
	char vmm[64];	    // "firecracker 1.16.1" or "fcqemu 0.1.0 (QEMU 7.2.22, tcg)"
	char isolation[16]; // "kvm" or "emulated"
	unsigned cpus, running, max_sandboxes, slots_ready, slots_taken;
	uint64_t memory_mb, disk_total, disk_free;
	bool volume_ok;
	char volume_reason[200];
	bool draining;
	uint64_t last_event;   // number of its newest event
	char journal_id[40];   // of host.db: with another one event numbers start anew
	char disk_state[16];   // "ok", "warning", "low": nothing new starts
	uint64_t disk_reserve; // kept free for pauses
	uint64_t disk_free_inodes;
	uint64_t pause_bytes; // that pauses of all that runs could need at most
};

// What uses the volume, in bytes of blocks. Each block is counted once: those of one thing alone
// are its own (unique), those of several are shared. What is below total adds up to what is used of
// the volume; own and shared layers are said besides.
struct host_usage {
	uint64_t total_bytes, free_bytes, used_bytes; // of the volume
	uint64_t sandboxes, sandbox_bytes;	      // running and paused: unique
	uint64_t snapshots, snapshot_bytes;	      // templates: unique
	uint64_t images, image_bytes;		      // base images with their machines: unique
	uint64_t shared_bytes;			      // of several of these
	uint64_t program_bytes;			      // kernels, VMMs
	uint64_t database_bytes;		      // and other files at the top
	uint64_t pending_bytes;			      // being made, or to be removed
	uint64_t unknown, unknown_bytes;	      // in no row
	uint64_t other_bytes;			      // the file system's own, other people's
	uint64_t layers;			      // memory, of whatever it is:
	uint64_t own_layer_bytes, shared_layer_bytes; // needed by one, by several
	uint64_t left_out; // items that are not told: more than HOST_USAGE_MAX
	bool estimated;	   // too many shared extents: some count as shared that may be unique
};

// A sandbox, a named snapshot (kind "snapshot"), an image, or a layer that several need.
#define HOST_USAGE_MAX 20000u // of a list
struct host_usage_item {
	char kind[16];
	char id[64];		      // of an image its name
	uint64_t bytes, unique_bytes; // all it has; what nobody else has
	uint64_t frees_bytes;	      // what its removal gives back now
	uint64_t memory_bytes;	      // of bytes: in layers
	uint64_t layers;	      // that it needs; of a layer: who need it
};

// What one item has together with another.
struct host_usage_share {
	char kind[16];
	char id[64];
	uint64_t bytes;
};

struct host_usage_ask {
	const char *of; // id of the item whose shares are told; "" or NULL: of none
	// The caller has gone; may be NULL. Called often.
	bool (*stop)(void *ctx);
	void *ctx;
};

// What is on the machine and the host does not know: kept until it is removed on demand.
#define HOST_UNKNOWN_MAX 10000u // of a list
struct host_unknown {
	char kind[16]; // "shim" (a machine that runs), "sandbox", "snapshot", "layer"
	char id[64];
	uint64_t bytes;
};

struct host_usage_report {
	struct host_usage sum;
	struct host_usage_item *items; // those first that free most
	size_t n_items;
	struct host_usage_share *shares; // of the one that was asked about, most first
	size_t n_shares;
	struct host_unknown *unknown;
	size_t n_unknown;
};
static inline void host_usage_report_done(struct host_usage_report *r)
{
	free(r->items);
	free(r->shares);
	free(r->unknown);
	*r = (struct host_usage_report){0};
}
