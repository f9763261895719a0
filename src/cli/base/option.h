// SPDX-License-Identifier: Apache-2.0
// Options of a command: a table, from which parsing, --help and the suggestions for misspelt ones
// are made.
#pragma once
#include <jansson.h>
#include "cli/base/command.h"

enum cli_type {
	OPT_FLAG,    // bool
	OPT_STRING,  // const char *, into argv
	OPT_U64,     // uint64_t, min..max
	OPT_SECONDS, // uint64_t: "90", "90s", "5m", "2h", "1d", "none" is 0
	OPT_MIB,     // uint64_t: "512", "512M", "2G"
	OPT_BYTES,   // uint64_t: "20G", "512M"; a bare number is bytes
	OPT_MAP,     // json_t *, made at the first use: K=V, repeated
	OPT_PATCH,   // the same with K-, which is null
};

struct cli_option {
	char letter;	  // 0: none
	const char *name; // NULL ends the table
	const char *arg;  // NULL for flags
	const char *help;
	enum cli_type type;
	void *out;
	uint64_t min, max; // of numbers; max 0: no bound
	bool *present;	   // may be NULL
};

#define CLI_MAX_OPTIONS 64
struct cli_option_set {
	struct cli_option rows[CLI_MAX_OPTIONS];
	size_t n;
};

// Parses the options (own ones and the common ones); c->argc and c->argv are the operands then,
// which must be min to max in number (max -1: any). 0, 1 when help was asked for and printed, or
// the options were described.
int cli_parse(struct cli *c, const struct cli_option *options, int min_operands, int max_operands,
	struct err *e);
// One value, from wherever it comes. A string is kept, not copied.
int cli_set_option(const struct cli_option *o, const char *value, struct err *e);

// The name most like word, NULL when none is like it. names[i] is read by get(ctx, i), n of them.
const char *cli_suggest(
	const char *word, const char *(*get)(const void *ctx, size_t i), const void *ctx, size_t n);
