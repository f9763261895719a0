// SPDX-License-Identifier: Apache-2.0
// Single rows of host.db, put in by the functions of store.h, and by the one that makes the
// database anew. The database's lock is held, and a transaction is under way.
#pragma once
#include "sandbox/table/store_types.h"

// The settings of a sandbox's end, which change while an operation is under way.
struct time_settings {
	uint64_t ends_at_ns;
	enum on_timeout on_timeout;
};
int store_put_sandbox(
	struct host *h, const struct sandbox *s, const struct time_settings *t, struct err *e);
int store_put_snapshot(struct host *h, const struct store_snapshot *s, struct err *e);
int store_put_layer(struct host *h, const char *id, struct err *e);
int store_put_event(
	struct host *h, const char *sandbox, const struct store_event *ev, struct err *e);
// One of "SELECT <all columns of sandboxes>, ...", allocated.
int store_row_sandbox(sqlite3_stmt *row, struct sandbox **ret);
