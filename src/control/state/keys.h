// SPDX-License-Identifier: Apache-2.0
// API keys. Only their SHA-256 is kept; a lookup touches memory alone.
#pragma once
#include <jansson.h>
#include "base/err.h"
#include "base/id.h"
#include "base/db.h"

#define API_KEY_SIZE 45 // "e2b_", 40 hex digits, NUL

struct keys;

struct key_info {
	char id[UUID_SIZE];
	char name[65];
	char prefix[16];
	uint64_t created_ns, last_used_ns; // 0: never
};

int keys_load(struct db *db, struct keys **ret, struct err *e);
struct keys *keys_free(struct keys *k);
DEFINE_CLEANUP(struct keys *, keys_free)
// True for a known key; notes the time of use.
bool keys_check(struct keys *k, const char *text);
// The id of a known key.
bool keys_find(struct keys *k, const char *text, char ret_id[UUID_SIZE]);
size_t keys_count(struct keys *k);
void keys_generate(char out[API_KEY_SIZE]);
int keys_add(struct keys *k, const char *name, const char text[API_KEY_SIZE], struct key_info *ret,
	struct err *e);
// ERR_CONFLICT for the last one.
int keys_remove(struct keys *k, const char *id, struct err *e);
// Array owned by the caller (free), oldest first.
int keys_list(struct keys *k, struct key_info **ret, size_t *ret_n, struct err *e);
// Writes the times of use that changed.
int keys_flush(struct keys *k, struct err *e);
