// SPDX-License-Identifier: Apache-2.0
// API keys: what each may do, and for whom. Only the SHA-256 of a key is kept; a lookup touches
// memory alone.
#pragma once
#include <jansson.h>
#include "base/db.h"
#include "base/err.h"
#include "base/id.h"

#define API_KEY_SIZE 45 // "e2b_", 40 hex digits, NUL
#define KEY_OWNER_SIZE 64

struct keys;

enum key_scope {
	KEY_ADMIN,     // everything
	KEY_SANDBOXES, // the sandboxes and snapshots of its owner
	KEY_READ,      // looks at those, or, without an owner, at all; never sees a secret
	KEY_SCOPE_MAX,
};
const char *key_scope_name(enum key_scope s);	  // "sandboxes"
enum key_scope key_scope_parse(const char *name); // KEY_SCOPE_MAX when unknown

// 0: no such limit.
struct key_quota {
	uint64_t sandboxes, vcpus, memory_mb, disk_mb;
	uint64_t creates; // in a minute, as the four below on the average of it
};

struct key_info {
	char id[UUID_SIZE];
	char name[65];
	char prefix[16];
	enum key_scope scope;
	char owner[KEY_OWNER_SIZE];	   // "": the operator
	uint64_t created_ns, last_used_ns; // 0: never
	uint64_t expires_ns;		   // 0: never
	struct key_quota quota;
};

int keys_load(struct db *db, struct keys **ret, struct err *e);
struct keys *keys_free(struct keys *k);
DEFINE_CLEANUP(struct keys *, keys_free)
// Of a key that is known and has not expired, and notes the time of use. ERR_UNAUTHENTICATED
// otherwise, and for NULL.
int keys_check(struct keys *k, const char *text, struct key_info *ret, struct err *e);
// Whether it is a key of this server, be it expired; nothing is noted.
bool keys_is_known(struct keys *k, const char *text);
// Whether it has the form of one.
bool keys_looks_like_one(const char *text);
size_t keys_count(struct keys *k);
void keys_generate(char out[API_KEY_SIZE]);
// name, scope, owner, expires_ns and quota of the info are taken, the rest is set.
int keys_add(struct keys *k, const char text[API_KEY_SIZE], struct key_info *info, struct err *e);
// One of that id. ERR_NOT_FOUND.
int keys_get(struct keys *k, const char *id, struct key_info *ret, struct err *e);
// Writes name, owner, scope, expires_ns and quota. ERR_CONFLICT where no admin's key without an end
// would be left.
int keys_update(struct keys *k, const struct key_info *info, struct err *e);
// ERR_CONFLICT for the last admin's key that has no end.
int keys_remove(struct keys *k, const char *id, struct err *e);
// Array owned by the caller (free), oldest first.
int keys_list(struct keys *k, struct key_info **ret, size_t *ret_n, struct err *e);
// Takes n creates out of what the key has for this minute: 0, or how many seconds to wait.
unsigned keys_take_creates(struct keys *k, const struct key_info *key, uint64_t n);
// What other programs have written into the database (key create --offline): read again.
int keys_refresh(struct keys *k, struct err *e);
// Writes the times of use that changed.
int keys_flush(struct keys *k, struct err *e);
