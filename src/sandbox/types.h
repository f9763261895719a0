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

enum on_timeout { ON_TIMEOUT_KILL, ON_TIMEOUT_PAUSE };

struct host_create {
	char op_id[UUID_SIZE];
	char id[SANDBOX_ID_SIZE];
	char template[64];
	unsigned vcpus, memory_mb; // 0: the template's
	uint64_t disk_mb;	   // 0: the template's; else not below it
	uint64_t ends_at_ns;	   // CLOCK_REALTIME; 0: never
	enum on_timeout on_timeout;
	const char *token; // envd access token
	json_t *env;	   // map of strings, borrowed; may be NULL
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
	char address[48]; // where the guest's ports are reached; "" when not running
	char cause[64];	  // why it ended: killed, timeout, guest_panic, guest_poweroff, vmm_crash,
			  // host_lost, ...
	char detail[256];
	uint64_t disk_bytes;			   // blocks in use
	struct host_phase phases[HOST_MAX_PHASES]; // of the last operation
	unsigned n_phases;
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

struct host_template {
	char name[64];
	char kind[16]; // "base"
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
};
