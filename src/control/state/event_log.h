// SPDX-License-Identifier: Apache-2.0
// The events that were brought over (feed.h), as they are read.
#pragma once
#include "base/db.h"
#include "sandbox/types.h"

// Events after the number and not before the time (nanoseconds since 1970; 0: any), oldest first,
// of one sandbox or (NULL) of all; take may end it by a non-zero return, which is returned.
int event_log_read(struct db *db, uint64_t after, uint64_t since_ns, const char *sandbox,
	size_t max, int (*take)(void *ctx, const struct host_event *ev), void *ctx, struct err *e);
// The same of all sandboxes of an owner.
int event_log_read_of(struct db *db, uint64_t after, uint64_t since_ns, const char *owner,
	size_t max, int (*take)(void *ctx, const struct host_event *ev), void *ctx, struct err *e);
// The newest of one sandbox, newest first; otherwise the same.
int event_log_newest(struct db *db, const char *sandbox, size_t max,
	int (*take)(void *ctx, const struct host_event *ev), void *ctx, struct err *e);
// Kills for lack of memory that its guest has told of.
int event_log_kills(struct db *db, const char *sandbox, uint64_t *ret, struct err *e);
// What counting the numbers belong to. It changes where they may be given twice, since control.db
// is an older copy: what is remembered with another epoch is of no use any more.
#define EVENT_LOG_EPOCH_SIZE 17
struct event_log_range {
	char epoch[EVENT_LOG_EPOCH_SIZE];
	uint64_t first, last; // that are kept; first is last + 1 when there are none
};
int event_log_range(struct db *db, struct event_log_range *ret, struct err *e);
// One of our own, in the caller's transaction: what the control plane does by itself.
int event_log_add(struct db *db, const struct host_event *ev, uint64_t *ret_seq, struct err *e);
// Drops the oldest beyond 100,000.
int event_log_expire(struct db *db, struct err *e);
