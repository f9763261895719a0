// SPDX-License-Identifier: Apache-2.0
// proto3's JSON mapping between C structs and JSON, by tables: one struct wire_message for each
// message of proto/hostagent.proto (messages.c).
//
// Written: camelCase names, 64-bit numbers as strings, enums by name, bytes in base64, defaults
// left out. Read: also snake_case names, numbers in either form, enums by number, null for a
// default.
#pragma once
#include <jansson.h>
#include "base/err.h"
#include "base/str.h"

enum wire_type {
	WIRE_TEXT,    // char[size]
	WIRE_POINTER, // const char *, into the JSON; written as "" when NULL
	WIRE_BUFFER,  // struct strbuf, text
	WIRE_BYTES,   // struct strbuf, base64 on the wire
	WIRE_BOOL,    // bool
	WIRE_U32,     // unsigned
	WIRE_U64,     // uint64_t
	WIRE_ENUM,    // an enum; its value 0 is 1 on the wire, where 0 means unspecified
	WIRE_MAP,     // json_t *, object of strings, borrowed from the JSON; NULL when empty
	WIRE_OBJECT,  // json_t *, any object, a reference of the struct's own; NULL when absent
	WIRE_MESSAGE, // embedded struct; with flag WIRE_HAS it may be absent
	WIRE_ARRAY,   // struct[] inside; count is unsigned
	WIRE_LIST,    // struct *, allocated; count is size_t
};

// What a text must look like.
enum wire_form {
	FORM_ANY,
	FORM_UUID,
	FORM_SANDBOX, // id of a sandbox
	FORM_NAME,    // of a template
	FORM_WORD,    // a-z, 0-9 and '_'
	FORM_TOKEN,   // printable ASCII without blanks, at most 90
};

#define WIRE_REQUIRED 1u // must not be the default
#define WIRE_HAS 2u	 // WIRE_MESSAGE: *(bool *)count says whether it is there

struct wire_enum {
	const char *const *names; // [0] is "..._UNSPECIFIED", [1] the C value 0
	int n;
	int unspecified; // C value of an absent or unspecified one
};

struct wire_message;
struct wire_field {
	const char *name;
	enum wire_type type;
	enum wire_form form;
	unsigned flags;
	size_t offset, size; // of the member; WIRE_ARRAY: size of all elements
	size_t count;	     // offset of the count or, with WIRE_HAS, of the bool
	uint64_t max;	     // largest number, most elements, longest text; 0: what the type holds
	const struct wire_message *message;
	const struct wire_enum *names;
};
struct wire_message {
	const char *name;
	size_t size; // of the struct; 0: it has no fields
	const struct wire_field *fields;
	size_t n;
};

// NULL when out of memory. Text that is not UTF-8 (a guest's last words) has its strange bytes
// replaced by '?'.
json_t *wire_encode(const struct wire_message *m, const void *in);
// Sets all fields of *out, absent ones to their defaults. ERR_INVALID names the field. lenient:
// unknown fields and enum names are passed over, forms and required fields are not checked (for
// answers of a newer host). On failure nothing is left to free. The JSON must outlive *out.
int wire_decode(
	const struct wire_message *m, json_t *object, bool lenient, void *out, struct err *e);
// A JSON string of any bytes, replaced as above. NULL when out of memory.
json_t *wire_text(const char *text, size_t len);
// Frees what *p owns: lists, buffers, objects.
void wire_done(const struct wire_message *m, void *p);
