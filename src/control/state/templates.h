// SPDX-License-Identifier: Apache-2.0
// Names of snapshots that sandboxes are made from, and the operations on snapshots that are under
// way, both in the database: each step is durable when its function returns 0. The host's part is
// the caller's (snapshots.c), in this order:
//
//	make:   templates_begin, host makes it, templates_commit; or templates_abandon and as below
//	remove: templates_remove, host deletes it, templates_deleted
//
// What a crash leaves between two of these is found by templates_state. What is given as struct
// db_also (may be NULL) is written in the same transaction.
#pragma once
#include "base/db.h"
#include "base/id.h"
#include "hostagent/hostagent.h"

struct template
{
	char name[64];
	char snapshot[UUID_SIZE];
	char sandbox[64]; // whose state it is
	char parent[64];  // template which that one came from
	unsigned vcpus, memory_mb;
	uint64_t disk_mb, memory_bytes, disk_bytes, created_ns;
};

struct template_op {
	char snapshot[UUID_SIZE];
	bool deletes; // else it is being made, and the members below count
	char name[64], sandbox[64], parent[64];
	bool overwrite;
	struct template_op *next; // belongs to the table
};

struct templates;
int templates_open(struct db *db, struct templates **ret, struct err *e);
struct templates *templates_free(struct templates *t);
DEFINE_CLEANUP(struct templates *, templates_free)

int templates_get(struct templates *t, const char *name, struct template *ret, struct err *e);
// Newest first. Array owned by the caller (free).
int templates_list(struct templates *t, struct template **ret, size_t *ret_n, struct err *e);

// ERR_CONFLICT when the name is taken (and op->overwrite not set) or in the making. op stays where
// it is until templates_end, which must follow whatever comes in between.
int templates_begin(
	struct templates *t, struct template_op *op, const struct db_also *also, struct err *e);
// The host has made it. *ret_old is the snapshot that had the name, whose deletion is noted and now
// due, or "". ERR_CONFLICT when the name was taken meanwhile, or the operation is no more.
int templates_commit(struct templates *t, const struct template_op *op,
	const struct host_snapshot *s, char ret_old[UUID_SIZE], struct template *ret,
	const struct db_also *also, struct err *e);
// It was not made, or nobody wants it: its deletion is noted. ERR_NOT_FOUND when it is not in the
// making any more; it may have its name by now, and must not be touched.
int templates_abandon(
	struct templates *t, const char *snapshot, const struct db_also *also, struct err *e);
void templates_end(struct templates *t, struct template_op *op);

// The name is gone, and the deletion of *ret_snapshot (set before also is called) noted.
int templates_remove(struct templates *t, const char *name, char ret_snapshot[UUID_SIZE],
	const struct db_also *also, struct err *e);
// The host does not have it any more: nothing is noted of it then.
int templates_deleted(
	struct templates *t, const char *snapshot, const struct db_also *also, struct err *e);

// All there is at one moment, for comparison with the host's snapshots, which must have been asked
// for before. Operations between templates_begin and templates_end of this process are in it too;
// templates_is_active tells them. Arrays owned by the caller.
int templates_state(struct templates *t, struct template **ret, size_t *ret_n,
	struct template_op **ret_ops, size_t *ret_n_ops, struct err *e);
// 1: a name has it. 0: none.
int templates_has_snapshot(struct templates *t, const char *snapshot, struct err *e);
bool templates_is_active(struct templates *t, const char *snapshot);
