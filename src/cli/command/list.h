// SPDX-License-Identifier: Apache-2.0
// What all lists have in common: -q, --format, --no-headers and -o json, and the table.
#pragma once
#include "cli/base/option.h"
#include "cli/base/output.h"

struct list {
	bool quiet, no_headers;
	const char *format;
};

// Rows of a command's options; what: "ids", "names".
// clang-format off
#define LIST_OPTIONS(l, what) \
	{'q', "quiet", NULL, "print " what " only", OPT_FLAG, &(l).quiet}, \
	{0, "format", "FORMAT", "a line for each, '{id} {state}': fields of -o json, \\t, \\n", \
		OPT_STRING, &(l).format}, \
	{0, "no-headers", NULL, "no head row", OPT_FLAG, &(l).no_headers}
// clang-format on

struct list_kind {
	const char *array;	   // of the answer: "sandboxes"
	const char *name;	   // the field that -q prints
	const char *const *titles; // end with NULL
	size_t states;		   // see struct table
	void (*row)(struct table *t, const json_t *object);
};

// Refuses what excludes each other, and a template that is none. Before anything is asked for.
int list_check(const struct cli *c, const struct list *l, struct err *e);
// Prints all of the answer, as it was asked for.
int list_print(const struct cli *c, const struct list *l, const struct list_kind *k,
	const json_t *answer, struct err *e);
// Prints one object by -q or --format; 1 when neither was asked for.
int list_print_one(
	const struct list *l, const struct list_kind *k, const json_t *object, struct err *e);
