// SPDX-License-Identifier: Apache-2.0
// The JSON files of a sandbox's directory: spec.json, state.json, exit.json.
#pragma once
#include "shim/shim.h"

#define SHIM_SPEC_FILE "spec.json"
#define SHIM_STATE_FILE "state.json"
#define SHIM_STATE_NEW ".state.json" // while it is written
#define SHIM_EXIT_FILE "exit.json"
#define SHIM_LOCK_FILE "shim.lock"
#define SHIM_LOG_FILE "shim.log"
// The largest of them that is read: a specification has two binds for each layer of the image, of
// which a header has at most 4096.
#define SHIM_FILE_MAX (4u << 20)

// A parsed shim_spec and what it points into.
struct spec;
// Strict: unknown fields, missing ones and wrong types are errors that name the field; the result
// passed shim_spec_check.
int spec_parse(const char *text, size_t len, struct spec **ret, struct err *e);
const struct shim_spec *spec_get(const struct spec *s);
struct spec *spec_free(struct spec *s);
DEFINE_CLEANUP(struct spec *, spec_free)

// What both sides check: ids, absolute paths, targets that do not hide what the jail is made of.
int shim_spec_check(const struct shim_spec *s, struct err *e);
// Text of the JSON object, owned by the caller; NULL when out of memory or not UTF-8.
char *shim_spec_format(const struct shim_spec *s);
char *shim_state_format(const struct shim_state *s);
int shim_state_parse(const char *text, size_t len, struct shim_state *ret, struct err *e);
char *shim_exit_format(const struct shim_exit *x);
int shim_exit_parse(const char *text, size_t len, struct shim_exit *ret, struct err *e);
