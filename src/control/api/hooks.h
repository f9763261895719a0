// SPDX-License-Identifier: Apache-2.0
// Tells webhooks of events. Each webhook has a thread and a cursor in control.db: events go out in
// order, each until it was taken (2xx) or its time is over, over restarts of the server; none waits
// for another webhook.
#pragma once
#include "control/api/receiver.h"
#include "control/state/feed.h"

#define HOOK_GIVE_UP_NS (24 * 3600 * 1000000000ull) // after the first try of an event
#define HOOK_BACKOFF_MAX_SEC 600u

struct hooks;

// db and feed outlive it. allow and slots: struct receiver_rules, copied.
int hooks_start(struct db *db, struct feed *feed, const struct receiver_rules *rules,
	struct hooks **ret, struct err *e);
// After feed_close. A call under way is given up; it is made again by the next server.
struct hooks *hooks_stop(struct hooks *h);
// A webhook was made, changed or removed.
int hooks_changed(struct hooks *h, const char *id, struct err *e);
// One call now, with a made event, apart from the others; noted as a delivery.
int hooks_test(struct hooks *h, const char *id, struct webhook_delivery *ret, struct err *e);
// Between two tries of an event, in seconds; attempts: so far, from 1.
unsigned hooks_backoff_sec(unsigned attempts);
