// SPDX-License-Identifier: Apache-2.0
// The index of the names that API keys give sandboxes. Its user has the lock.
#pragma once
#include "base/err.h"

struct sandbox_row;

#define NAMES_BUCKETS 4096 // a power of two

// A claim is an entry for a change that is under way: it keeps others away, and finds nothing.
struct name_entry {
	struct name_entry *next;
	struct sandbox_row *row;
	bool claim;
	char text[64];
};

struct names {
	struct name_entry *bucket[NAMES_BUCKETS];
};

// FNV-1a, below NAMES_BUCKETS.
size_t names_bucket(const char *text);
// NULL when out of memory.
struct name_entry *name_new(struct sandbox_row *row, const char *text, bool claim);
struct name_entry *names_link(struct names *n, struct name_entry *entry);
// Takes NULL; returns NULL.
struct name_entry *names_drop(struct names *n, struct name_entry *entry);
// ERR_CONFLICT where another row than this one that has not ended has the name, or will.
int names_check(
	const struct names *n, const struct sandbox_row *row, const char *text, struct err *e);
// The one that has not ended, else the newest; NULL when unknown.
struct sandbox_row *names_find(const struct names *n, const char *api_key, const char *text);
