// SPDX-License-Identifier: Apache-2.0
// The contract between control plane and host: one struct of functions. Control code reaches a host
// only through it: the host of its own process (hostagent_start_local), or one behind a socket
// (hostagent_connect, hostagent_serve). Users, keys and REST are unknown here.
//
// All calls block, may come from any thread, and return 0 or a negative errno with the error set.
// Every mutating call carries an operation id (uuid) and is idempotent: asked twice with the same
// id it is done once.
#pragma once
#include "sandbox/types.h"

struct hostagent_ops {
	// Returns when the guest agent answers; *ret is filled. On failure everything made is
	// undone, and the error says which step failed.
	int (*create)(
		void *host, const struct host_create *req, struct host_sandbox *ret, struct err *e);
	// Success when it is gone, also when it never was (ERR_NOT_FOUND only when the id is
	// unknown).
	int (*destroy)(
		void *host, const char *op_id, const char *id, const char *cause, struct err *e);
	// The same of a paused one, if it is still at that generation and nothing is under way on
	// it; ERR_CONFLICT otherwise, and nothing is done.
	int (*expire)(void *host, const char *op_id, const char *id, uint64_t generation,
		const char *cause, struct err *e);
	// Freezes the sandbox into a snapshot and frees all it has on the machine but its disk. It
	// is paused only when this returns 0; on failure it runs on and nothing is lost.
	int (*pause)(void *host, const char *op_id, const char *id, struct host_sandbox *ret,
		struct err *e);
	// On failure it is still paused (a roll-back of a running one: paused at that snapshot).
	// ERR_UNAVAILABLE when the VMM that wrote the snapshot is gone: disk_only is what is left.
	int (*resume)(
		void *host, const struct host_resume *req, struct host_sandbox *ret, struct err *e);
	// 0 when the source was captured, even if no child came up: each child has its own outcome.
	int (*fork)(void *host, struct host_fork *req, struct err *e);
	// A snapshot of kind template: spawns sandboxes (host_create.snapshot) until it is deleted.
	int (*snapshot_create)(void *host, const struct host_snapshot_create *req,
		struct host_snapshot *ret, struct err *e);
	// Never disturbs sandboxes or snapshots made from it. A missing one is success.
	int (*snapshot_delete)(void *host, const char *op_id, const char *snapshot, struct err *e);
	// All of them, whatever their kind. Array owned by the caller (free).
	int (*snapshots)(void *host, struct host_snapshot **ret, size_t *ret_n, struct err *e);
	// Whether its memory can be loaded on this host; nothing is started.
	int (*snapshot_check)(
		void *host, const char *snapshot, struct host_snapshot_check *ret, struct err *e);
	int (*get)(void *host, const char *id, struct host_sandbox *ret, struct err *e);
	// What one that has not stopped uses of the machine.
	int (*figures)(void *host, const char *id, struct host_figures *ret, struct err *e);
	// All that are not stopped. Array owned by the caller (free).
	int (*list)(void *host, struct host_sandbox **ret, size_t *ret_n, struct err *e);
	int (*set_timeout)(
		void *host, const char *op_id, const char *id, uint64_t ends_at_ns, struct err *e);
	// What becomes of a running or paused one at its time-out.
	int (*set_on_timeout)(void *host, const char *op_id, const char *id,
		enum on_timeout on_timeout, struct err *e);
	// Another access token for the agent of a running one. Asked again, with another operation
	// id too, it does no harm. ERR_CONFLICT while something else is under way.
	int (*set_token)(
		void *host, const char *op_id, const char *id, const char *token, struct err *e);
	// Address of a running sandbox, without touching the disk: called for each request at the
	// edge.
	int (*address)(void *host, const char *id, struct host_place *ret, struct err *e);
	// Descriptor of the guest's console log, open for reading.
	int (*open_log)(void *host, const char *id, int *ret_fd, struct err *e);
	// Events with seq > after, oldest first, at most max; waits up to wait_ms for the first.
	// *ret_n may be 0. Each event is freed with host_event_done, the array with free.
	int (*events)(void *host, uint64_t after, size_t max, int wait_ms, struct host_event **ret,
		size_t *ret_n, struct err *e);
	// All up to this number are safe with the caller: the host may forget them. Until then they
	// are kept, over restarts too.
	int (*ack_events)(void *host, uint64_t upto, struct err *e);
	int (*templates)(void *host, struct host_template **ret, size_t *ret_n, struct err *e);
	// While it is on nothing is created, resumed or forked (ERR_UNAVAILABLE); what runs goes
	// on. Durable.
	int (*drain)(void *host, const char *op_id, bool on, struct err *e);
	int (*info)(void *host, struct host_info *ret, struct err *e);
	// Counters of the host as Prometheus text, appended.
	int (*metrics)(void *host, struct strbuf *out, struct err *e);
	// What uses the volume's space, whose it is, and what is there and unknown: *ret is the
	// caller's (host_usage_report_done). ERR_NOT_FOUND when what is asked about is not there.
	int (*usage)(void *host, const struct host_usage_ask *ask, struct host_usage_report *ret,
		struct err *e);
	// The VMMs that are kept, the one that new sandboxes start on first. Array owned by the
	// caller (free).
	int (*runtimes)(void *host, struct host_runtime **ret, size_t *ret_n, struct err *e);
	// Nothing starts on it any more (ERR_UNAVAILABLE), or again; what runs goes on. Durable.
	int (*runtime_deny)(void *host, const char *op_id, const char *id, bool on, struct err *e);
	// Ends and removes all that is unknown; *ret_n: how many.
	int (*remove_unknown)(void *host, const char *op_id, size_t *ret_n, struct err *e);
};

struct hostagent {
	const struct hostagent_ops *ops;
	void *host;
};

struct host_config;
// The host of this machine, served directly. *ret is valid until hostagent_stop_local.
int hostagent_start_local(const struct host_config *cfg, struct hostagent *ret, struct err *e);
// Without a server: boots a base image of a data directory once and freezes it (host_freeze), on a
// network range of its own. ERR_CONFLICT when a server has the data directory: it does that by
// itself.
int hostagent_freeze_local(const char *data_dir, const char *template, struct err *e);
// Before the server waits for the calls under way: those that wait for their turn to start end with
// ERR_UNAVAILABLE.
void hostagent_stop_starts_local(struct hostagent *h);
// Sandboxes go on without the server and are adopted by the next start, unless kill_all.
void hostagent_stop_local(struct hostagent *h, bool kill_all);

// --- the same contract between two processes: proto/hostagent.proto

struct hostagent_server_config {
	struct hostagent host; // outlives the server
	const char *socket;
	const char *group; // who may connect besides the server's own user; NULL or "": nobody
};
struct hostagent_server;
// When it returns 0 calls are answered.
int hostagent_serve(
	const struct hostagent_server_config *cfg, struct hostagent_server **ret, struct err *e);
// Takes no new calls and waits for those under way.
struct hostagent_server *hostagent_server_free(struct hostagent_server *s);
DEFINE_CLEANUP(struct hostagent_server *, hostagent_server_free)

struct hostagent_client_config {
	const char *socket;
	unsigned read_timeout_ms;      // of calls that change nothing; 0: 10 s
	unsigned operation_timeout_ms; // of those that do; 0: 15 minutes
};
// The host behind a socket. Does not connect yet: a host that is not there is an error of each call
// (hostagent_lost), and the same struct works again when it is back.
int hostagent_connect(
	const struct hostagent_client_config *cfg, struct hostagent *ret, struct err *e);
// No call may be under way.
void hostagent_disconnect(struct hostagent *h);
// The host did not answer: what was asked may have been done or not. Ask again with the same
// operation id. (ERR_UNAVAILABLE, like a host that says so itself, which this is false for.)
bool hostagent_lost(const struct err *e);
