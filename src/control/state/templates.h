// SPDX-License-Identifier: Apache-2.0
// Names of snapshots that sandboxes are made from. Each step is durable when its function returns
// 0. The host's part is the engine's (engine/snapshot.c), in this order:
//
//	make:   templates_begin, the host makes it, templates_commit
//	remove: templates_remove, the host deletes it
//
// What a crash leaves between two of these is an open operation. What is given as struct db_also
// (may be NULL) is written in the same transaction.
#pragma once
#include "base/db.h"
#include "base/id.h"
#include "control/state/keys.h"
#include "sandbox/types.h"

struct template
{
	char name[64];
	char snapshot[UUID_SIZE];
	char sandbox[64];	    // whose state it is
	char parent[64];	    // template which that one came from
	char api_key[UUID_SIZE];    // that asked for it; "": not known
	char owner[KEY_OWNER_SIZE]; // whose it is; "": the operator's
	bool public;		    // everybody may start from it
	unsigned vcpus, memory_mb;
	uint64_t disk_mb, memory_bytes, disk_bytes, created_ns;
};

int templates_get(struct db *db, const char *name, struct template *ret, struct err *e);
// Newest first. Array owned by the caller (free).
int templates_list(struct db *db, struct template **ret, size_t *ret_n, struct err *e);
// 1: a name has it. 0: none.
int templates_has_snapshot(struct db *db, const char *snapshot, struct err *e);

// Whether everybody may start from it.
int templates_publish(struct db *db, const char *name, bool public, struct err *e);
int templates_none(const char *name, struct err *e); // ERR_NOT_FOUND
// ERR_CONFLICT when the name is taken (and overwrite not set, or it is another owner's) or in the
// making.
int templates_begin(struct db *db, const char *name, const char *owner, bool overwrite,
	const struct db_also *also, struct err *e);
// The host has made it. ret_old (set before also is called) is the snapshot that had the name, or
// "": nobody starts from it any more. ERR_CONFLICT when the name was taken meanwhile.
int templates_commit(struct db *db, const struct template *new, bool overwrite,
	char ret_old[UUID_SIZE], const struct db_also *also, struct err *e);
// The name is gone. ret_snapshot is set before also is called.
int templates_remove(struct db *db, const char *name, char ret_snapshot[UUID_SIZE],
	const struct db_also *also, struct err *e);
