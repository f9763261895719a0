// SPDX-License-Identifier: Apache-2.0
// host.db: rows of sandboxes and snapshots, the journal of operations, the events. It has a lock of
// its own; none of these is called with host.lock held.
#pragma once
#include "sandbox/table/table.h"

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
