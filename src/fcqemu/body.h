// SPDX-License-Identifier: Apache-2.0
// Strict reading of request bodies by table, as Firecracker's are: an unknown field, a missing
// required one or a wrong type is an error, in the words of its JSON reader (serde; without the
// place in the text, which ours does not tell). A field that fcqemu cannot honour is listed too,
// with the one value that asks for nothing and the reason why any other is refused.
#pragma once
#include <jansson.h>
#include "base/err.h"

enum body_type {
	BODY_STRING, // char *, owned by the filled structure
	BODY_PATH,   // likewise
	BODY_CHOICE, // likewise, one of choices
	BODY_BOOL,   // bool
	BODY_UINT,   // uint64_t, at most max
	BODY_OBJECT, // json_t *, a reference owned by the filled structure; of shape, if that is
		     // set
	BODY_ARRAY,  // likewise, each element of shape
};

struct body_shape;

struct body_field {
	const char *name;
	enum body_type type;
	bool required;
	bool nullable; // null counts as absent
	size_t offset; // into the structure filled
	uint64_t max;
	const char *const *choices; // NULL-terminated
	const struct body_shape *shape;
	const char *only, *why; // why: nothing is stored, only this value (or null) is taken
};

struct body_shape {
	const char *name; // "struct MachineConfig"
	const struct body_field *fields;
	size_t n;				      // at most 32
	bool open;				      // fields that are not listed are passed over
	int (*check)(const json_t *o, struct err *e); // of the whole, NULL: none
};

#define BODY_FIELD(s, member) .offset = offsetof(s, member)
#define BODY_SHAPE(shape_name, list, ...)                                                          \
	{                                                                                          \
		.name = shape_name, .fields = list, .n = ARRAY_SIZE(list), __VA_ARGS__             \
	}

// What errno says, as Rust prints it: err_set(e, code, "what: " OS_ERROR, OS_ERROR_OF(errno)).
#define OS_ERROR "%s (os error %d)"
#define OS_ERROR_OF(errnum) strerror(errnum), errnum

// Any JSON value; *ret is owned by the caller.
int body_parse(const char *text, size_t len, json_t **ret, struct err *e);
// Whether a value is of that shape.
int body_check(const json_t *v, const struct body_shape *shape, struct err *e);
// Fills *ret for the fields that are there and leaves the others; bit i of *ret_seen (may be NULL)
// tells whether field i was there. o has been checked. Strings already in *ret are replaced.
int body_take(const json_t *o, const struct body_shape *shape, void *ret, uint32_t *ret_seen,
	struct err *e);
// All three. On an error *ret is unchanged.
int body_read(
	const char *text, size_t len, const struct body_shape *shape, void *ret, struct err *e);
// Frees the strings, drops the references.
void body_done(const struct body_shape *shape, void *filled);
