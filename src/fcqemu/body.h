// SPDX-License-Identifier: Apache-2.0
// Strict reading of request bodies by table, as Firecracker's are: an unknown field, a missing
// required one or a wrong type is an error. A field that fcqemu cannot honour is listed too, with
// the one value that asks for nothing and the reason why any other is refused.
#pragma once
#include <jansson.h>
#include "base/err.h"

enum body_type {
	BODY_STRING, // char *, owned by the filled structure
	BODY_BOOL,   // bool
	BODY_UINT,   // uint64_t, at most max
	BODY_OBJECT, // json_t *, a reference owned by the filled structure
	BODY_ARRAY,  // likewise
	BODY_ONLY,   // nothing stored: only the value only (as text, NULL: none but null) is taken
};

struct body_field {
	const char *name;
	enum body_type type;
	bool required;
	size_t offset;		// into the structure filled
	uint64_t max;		// BODY_UINT
	const char *only, *why; // BODY_ONLY
};

#define BODY_TEXT(s, member, name_, required_)                                                     \
	{                                                                                          \
		.name = name_, .type = BODY_STRING, .required = required_,                         \
		.offset = offsetof(s, member)                                                      \
	}
#define BODY_FLAG(s, member, name_, required_)                                                     \
	{                                                                                          \
		.name = name_, .type = BODY_BOOL, .required = required_,                           \
		.offset = offsetof(s, member)                                                      \
	}
#define BODY_NUMBER(s, member, name_, required_, max_)                                             \
	{                                                                                          \
		.name = name_, .type = BODY_UINT, .required = required_,                           \
		.offset = offsetof(s, member), .max = max_                                         \
	}
#define BODY_PART(s, member, name_, type_, required_)                                              \
	{                                                                                          \
		.name = name_, .type = type_, .required = required_, .offset = offsetof(s, member) \
	}
#define BODY_REFUSED(name_, only_, why_)                                                           \
	{                                                                                          \
		.name = name_, .type = BODY_ONLY, .only = only_, .why = why_                       \
	}

// Fills *ret for the fields that are there (null counts as absent) and leaves the others; bit i of
// *ret_seen (may be NULL) tells whether field i was there. Strings already in *ret are replaced. On
// an error *ret is unchanged. At most 32 fields.
int body_read(const char *text, size_t len, const struct body_field *fields, size_t n, void *ret,
	uint32_t *ret_seen, struct err *e);
// The same for an object that is part of something larger.
int body_read_object(const json_t *o, const struct body_field *fields, size_t n, void *ret,
	uint32_t *ret_seen, struct err *e);
// Frees the strings, drops the references.
void body_done(const struct body_field *fields, size_t n, void *filled);
