// SPDX-License-Identifier: Apache-2.0
// Retention in control.db: rules, what is kept, what was seen and warned, and the clock. Each call
// is durable when it returns 0.
#pragma once
#include "base/db.h"
#include "base/id.h"

enum retention_kind { RETENTION_SANDBOX, RETENTION_SNAPSHOT };
const char *retention_kind_name(enum retention_kind k); // "sandbox"
enum retention_per {
	RETENTION_PER_ALL,
	RETENTION_PER_KEY,
	RETENTION_PER_TEMPLATE,
	RETENTION_PER_MAX
};
const char *retention_per_name(enum retention_per p); // "all", "key", "template"

struct retention_rule {
	char name[64];
	enum retention_kind kind; // of what it takes: paused sandboxes, named snapshots
	bool has_age, has_newest, has_bytes;
	uint64_t max_age_sec, keep_newest, max_bytes;
	char api_key[UUID_SIZE], template[64]; // "": of all
	enum retention_per per;
	uint64_t grace_sec, created_ns;
};

// By name. Array owned by the caller (free).
int retention_rules(struct db *db, struct retention_rule **ret, size_t *ret_n, struct err *e);
// In the place of one of that name.
int retention_put_rule(struct db *db, const struct retention_rule *r, struct err *e);
int retention_remove_rule(struct db *db, const char *name, struct err *e); // ERR_NOT_FOUND

struct retention_item {
	enum retention_kind kind;
	char id[64], stamp[80];
	uint64_t since_ns;  // of the clock's age
	char rule[64];	    // it was warned by; "": it was not
	uint64_t warned_ns; // of the clock's served
	bool seen;	    // the caller's
};
// Sorted by kind and id.
int retention_items(struct db *db, struct retention_item **ret, size_t *ret_n, struct err *e);
int retention_put_item(
	struct db *db, const struct retention_item *i, const struct db_also *also, struct err *e);
int retention_drop_item(struct db *db, enum retention_kind kind, const char *id, struct err *e);

// Kept: never taken. 1 where that changed anything; setting what is set is success, too.
int retention_keep(struct db *db, enum retention_kind kind, const char *id, bool on, struct err *e);
struct retention_kept {
	enum retention_kind kind;
	char id[64];
};
int retention_kept(struct db *db, struct retention_kept **ret, size_t *ret_n, struct err *e);

struct retention_clock {
	uint64_t served_ns, age_ns, wall_ns;
};
int retention_get_clock(struct db *db, struct retention_clock *ret, struct err *e);
int retention_put_clock(struct db *db, const struct retention_clock *c, struct err *e);
// The newest operation on a sandbox other than its removal, by its time; 0: none is known any more.
int retention_last_operation(struct db *db, const char *sandbox, uint64_t *ret, struct err *e);

// What was judged, and by what.
struct retention_due {
	enum retention_kind kind;
	const char *id, *rule;
	uint64_t rule_created_ns;
	uint64_t used_ns; // its last operation, or when the newest sandbox was made from it
};
// In the transaction of its removal (the database is locked). ERR_CONFLICT where it is kept since,
// the rule is another, or it was used.
int retention_still_due(struct db *db, const struct retention_due *d, struct err *e);
