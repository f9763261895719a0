// SPDX-License-Identifier: Apache-2.0
// The contract between control plane and host: one struct of functions. Control code reaches a host
// only through it, so that its RPC form (a later step) changes nothing above. Users, keys and REST
// are unknown here.
//
// All calls block, may come from any thread, and return 0 or a negative errno with the error set.
// Every mutating call carries an operation id (uuid) and is idempotent: asked twice with the same
// id it is done once.
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

struct hostagent_ops {
	// Returns when the guest agent answers; *ret is filled. On failure everything made is
	// undone, and the error says which step failed.
	int (*create)(
		void *host, const struct host_create *req, struct host_sandbox *ret, struct err *e);
	// Success when it is gone, also when it never was (ERR_NOT_FOUND only when the id is
	// unknown).
	int (*destroy)(
		void *host, const char *op_id, const char *id, const char *cause, struct err *e);
	int (*get)(void *host, const char *id, struct host_sandbox *ret, struct err *e);
	// All that are not stopped. Array owned by the caller (free).
	int (*list)(void *host, struct host_sandbox **ret, size_t *ret_n, struct err *e);
	int (*set_timeout)(
		void *host, const char *op_id, const char *id, uint64_t ends_at_ns, struct err *e);
	// Address of a running sandbox, without touching the disk: called for each request at the
	// edge.
	int (*address)(void *host, const char *id, char out[48], struct err *e);
	// Descriptor of the guest's console log, open for reading.
	int (*open_log)(void *host, const char *id, int *ret_fd, struct err *e);
	// Events with seq > after, oldest first, at most max; waits up to wait_ms for the first.
	// *ret_n may be 0. Each event is freed with host_event_done, the array with free.
	int (*events)(void *host, uint64_t after, size_t max, int wait_ms, struct host_event **ret,
		size_t *ret_n, struct err *e);
	int (*templates)(void *host, struct host_template **ret, size_t *ret_n, struct err *e);
	int (*info)(void *host, struct host_info *ret, struct err *e);
	// Counters of the host as Prometheus text, appended.
	int (*metrics)(void *host, struct strbuf *out, struct err *e);
};

struct hostagent {
	const struct hostagent_ops *ops;
	void *host;
};
