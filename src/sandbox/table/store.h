// SPDX-License-Identifier: Apache-2.0
// host.db: rows of sandboxes and snapshots, the journal of operations, the events. It has a lock of
// its own; none of these is called with host.lock held.
#pragma once
#include "sandbox/table/store_types.h"
#include "sandbox/table/table.h"

int store_open(struct host *h, struct err *e);
// Each is one transaction, durable when it returns 0; the event goes with it. data is borrowed.
// Journals an operation before its first side effect; asked for again while it is open, it goes on.
// ERR_CONFLICT when the id was used. row: the sandbox's, as it is from now on; data: JSON text;
// layer: what it may make. Each may be NULL.
int store_op_begin(struct host *h, const char *op_id, const char *kind, const char *id,
	const struct sandbox *row, const char *data, const char *layer, struct err *e);
// What one transaction changes; all may be left out.
struct store_change {
	const char *op_id;	   // is done, or failed as the event says
	const struct sandbox *row; // replaces the sandbox's
	bool sets_time;		   // its end too; else that is the newest one (store_set_time)
	bool removes;		   // the last word on a sandbox (sandbox.removed)
	const struct store_snapshot *add;
	const char *drop; // a snapshot; NULL or "": none
	bool drop_pauses; // all snapshots of the sandbox's pauses
	const struct store_event *event;
	const char *of; // the event's sandbox where row is NULL; NULL: none
};
// What is dropped is no longer listed; the upkeep removes its files, then its row. ERR_CONFLICT for
// the row of a sandbox that was removed.
int store_apply(struct host *h, const struct store_change *c, struct err *e);
int store_commit(struct host *h, const char *op_id, const struct sandbox *s,
	const struct store_event *ev, struct err *e);
// An event about a sandbox, and nothing else.
int store_tell(struct host *h, const char *id, const struct store_event *ev, struct err *e);
// Ends an operation that changed nothing.
int store_op_end(struct host *h, const char *op_id, const char *id, const struct err *failed);
// When a sandbox ends by itself, and how (each may be NULL): in the row and in memory, also while
// an operation has it. The last one counts.
int store_set_time(struct host *h, const char *op_id, const char *id, const uint64_t *ends_at_ns,
	const enum on_timeout *on_timeout, const struct store_event *ev, struct err *e);
// The row of a dropped snapshot, when its files are gone.
int store_snapshot_gone(struct host *h, const char *id, struct err *e);
// Layers that this host made: one is noted before it is begun (store_op_begin), forgotten when it
// is gone.
int store_layer_add(struct host *h, const char *id, struct err *e);
int store_layers_gone(struct host *h, const char (*ids)[UUID_SIZE], size_t n, struct err *e);
int store_layer_is_known(struct host *h, const char *id, bool *ret, struct err *e);
// Calls f with the id of each dropped snapshot whose files may be there.
int store_dropped(struct host *h, void (*f)(struct host *h, const char *id), struct err *e);
// Raised: in the database first, then in the volume's marker.
int store_raise_epoch(struct host *h, struct err *e);
// ERR_NOT_FOUND.
int store_get_snapshot(struct host *h, const char *id, struct store_snapshot *ret, struct err *e);
// Those that are not dropped, of a kind, of a sandbox, with an image key; each NULL for all. Newest
// first. *ret is the caller's (free).
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
