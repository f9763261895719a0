// SPDX-License-Identifier: Apache-2.0
// Webhooks and their latest deliveries in control.db.
#pragma once
#include <jansson.h>
#include "base/db.h"
#include "base/id.h"
#include "control/state/event_log.h"

#define WEBHOOKS_MAX 32
#define WEBHOOK_URL_MAX 2000
#define WEBHOOK_SECRET_MIN 16
#define WEBHOOK_SECRET_MAX 128
#define WEBHOOK_DELIVERIES_MAX 100 // kept of each
#define WEBHOOK_ERROR_SIZE 200

struct webhook {
	char id[UUID_SIZE];
	char url[WEBHOOK_URL_MAX + 1];
	char secret[WEBHOOK_SECRET_MAX + 1];
	json_t *kinds; // array of strings, empty: all; owned
	bool enabled;
	uint64_t created_ns;
	char epoch[EVENT_LOG_EPOCH_SIZE];
	uint64_t cursor; // the last event that was delivered or given up
	// Of the next one: tries so far, the first one's time, not before (CLOCK_REALTIME).
	unsigned attempts;
	uint64_t first_ns, next_ns;
};
void webhook_done(struct webhook *w);
#define _cleanup_webhook_ _cleanup_(webhook_done)

struct webhook_delivery {
	uint64_t event; // 0: a test
	char kind[64];
	unsigned attempt;
	uint64_t at_ns, duration_us;
	int status;			// of the receiver's answer; 0: none
	const char *outcome;		// "delivered", "failed", "given_up"
	char error[WEBHOOK_ERROR_SIZE]; // "": delivered
};

// ERR_LIMIT beyond WEBHOOKS_MAX.
int webhooks_add(struct db *db, const struct webhook *w, struct err *e);
// ERR_NOT_FOUND. Of url, secret, kinds and enabled; one that is switched on is tried at once.
int webhooks_change(struct db *db, const struct webhook *w, struct err *e);
int webhooks_remove(struct db *db, const char *id, struct err *e);
// ERR_NOT_FOUND. Freed with webhook_done.
int webhooks_get(struct db *db, const char *id, struct webhook *ret, struct err *e);
// Oldest first; each is freed with webhook_done, the array with free.
int webhooks_list(struct db *db, struct webhook **ret, size_t *ret_n, struct err *e);
// What is known of the next event, and (not NULL) a delivery of it, in one transaction. One that
// was removed meanwhile is no error.
int webhooks_note(
	struct db *db, const struct webhook *w, const struct webhook_delivery *d, struct err *e);
// A delivery alone: of a test.
int webhooks_add_delivery(
	struct db *db, const char *id, const struct webhook_delivery *d, struct err *e);
// Newest first, as {"deliveries": [...]}'s array.
int webhooks_deliveries(struct db *db, const char *id, size_t max,
	int (*take)(void *ctx, const struct webhook_delivery *d), void *ctx, struct err *e);
