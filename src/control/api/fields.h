// SPDX-License-Identifier: Apache-2.0
// Fields that several calls have.
#pragma once
#include "sandbox/types.h"

#define FIELDS_MAX_TIMEOUT_SEC 2592000 // 30 days
#define FIELDS_NAME_RULE "must be 1-63 of a-z, 0-9, '.', '_', '-' and start with a letter or digit"

// Either map may be NULL.
int fields_check_maps(json_t *env, json_t *metadata, struct err *e);
// A merge patch of metadata: strings, and null for what is to go.
int fields_check_patch(json_t *patch, struct err *e);
int fields_on_timeout(const char *text, enum on_timeout *ret, struct err *e);
const char *fields_on_timeout_text(enum on_timeout t);
// Of a sandbox.
int fields_check_name(const char *name, struct err *e);
uint64_t fields_ends_at(uint64_t timeout_sec); // from now; 0 for 0
