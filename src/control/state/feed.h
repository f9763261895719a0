// SPDX-License-Identifier: Apache-2.0
// The host's events, brought over into control.db: each once and in order, whatever restarts on
// either side, and only then acknowledged.
#pragma once
#include <pthread.h>
#include "base/db.h"
#include "hostagent/hostagent.h"

struct feed;

// Starts the thread that brings them; a host that does not answer is tried again for ever.
int feed_start(struct db *db, const struct hostagent *host, struct feed **ret, struct err *e);
// From here on nobody waits for it; feed_stop follows. f may be NULL.
void feed_close(struct feed *f);
bool feed_is_closed(struct feed *f);
struct feed *feed_stop(struct feed *f);
DEFINE_CLEANUP(struct feed *, feed_stop)
// Brings what the host has by now. On failure what was brought before can still be read.
int feed_catch_up(struct feed *f, struct err *e);
// Of our own, which is in the database by now (event_log_add): wakes who waits.
void feed_announce(struct feed *f, const struct host_event *ev, uint64_t seq);
// Waits up to wait_ms for an event after the number, less when the feed is closed; the last number
// there is.
uint64_t feed_wait(struct feed *f, uint64_t after, int wait_ms);
// Waits likewise for an event of one sandbox. From feed_watch on none is missed: one that came
// before the wait ends it at once. feed_unwatch follows.
struct feed_watch {
	struct feed_watch *next; // belongs to the feed, as the members below
	pthread_cond_t changed;
	const char *sandbox;
	bool seen;
};
void feed_watch(struct feed *f, struct feed_watch *w, const char *sandbox);
// true: there was one since the last call.
bool feed_watch_wait(struct feed *f, struct feed_watch *w, int wait_ms);
void feed_unwatch(struct feed *f, struct feed_watch *w);
