// SPDX-License-Identifier: Apache-2.0
// Strict reading of JSON objects: a table of fields, unknown ones refused by name.
#pragma once
#include <jansson.h>
#include "base/err.h"

#define _cleanup_json_ _cleanup_(json_decrefp) // jansson's own; takes NULL

enum json_field_type {
	JF_STRING,     // const char * into the object
	JF_BOOL,       // bool
	JF_U64,	       // uint64_t, min..max
	JF_INT,	       // int, -max..max
	JF_OBJECT,     // json_t *, borrowed
	JF_ARRAY,      // json_t *, borrowed
	JF_STRING_MAP, // json_t *, borrowed; all values are strings
	JF_ANY,	       // json_t *, borrowed
};

struct json_field {
	const char *name;
	enum json_field_type type;
	void *out; // written only when present (null counts as absent unless JF_ANY)
	bool required;
	uint64_t min, max; // JF_U64, JF_INT: range (max 0: none). JF_STRING: max bytes (0: 4096)
	bool *present;	   // may be NULL
};

// 0, or -EINVAL naming the field: "vcpus: must be an integer from 1 to 32". With ignore_unknown
// false a field outside the table is an error "unknown field 'x'". Strings must be free of NUL
// bytes.
int json_read_fields(json_t *object, const struct json_field *fields, size_t n, bool ignore_unknown,
	struct err *e);
// Parses text; must be one JSON object without duplicate keys. Owned by the caller.
int json_parse_object(const char *text, size_t len, json_t **ret, struct err *e);
// Any value out of text that somebody else has written, NULL where it is none: no deeper than
// json_parse_object takes it, and of no more values than max_values, for the parser needs some 100
// bytes for one of two. Owned by the caller.
json_t *json_parse_foreign(const char *text, size_t len, size_t max_values);
// Compact text, NUL-terminated, owned by the caller; NULL when out of memory.
char *json_compact(const json_t *j);
