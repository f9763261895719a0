// SPDX-License-Identifier: Apache-2.0
// What people read: tables, human times and sizes, colours, progress on a terminal.
#pragma once
#include <jansson.h>
#include "base/str.h"

// "stasis: " and the text as a line on stderr, with its control characters (C0, DEL, C1) as '?':
// servers and guests have their words in it.
void output_complain(const char *fmt, ...) _printf_(1, 2);
// The line about a refusal that helps to find it in the server's log; nothing for "".
void output_request_id(const char *id);

// --- table: columns are as wide as their longest cell; control characters of outside text are
// shown as '?'.
#define TABLE_MAX_COLUMNS 12
struct table {
	size_t columns;
	size_t states;	 // the column that is coloured by its word; 0: none
	bool no_headers; // the head row is not printed
	char **cells;
	size_t n, cap;
	bool failed;
};
// The head row: NULL-terminated titles.
void table_init(struct table *t, const char *const *titles);
void table_cell(struct table *t, const char *fmt, ...) _printf_(2, 3);
// 0, -ENOMEM, or the error of a failed write.
int table_print(struct table *t, FILE *out);
void table_done(struct table *t);
#define _cleanup_table_ _cleanup_(table_done)

// Colours are for terminals, and not where NO_COLOR is set or TERM is "dumb" or missing.
bool output_colored(FILE *out);
// What switches to the colour of a state ("running", "stopped: timeout", "pause_failed"); NULL for
// one that has none.
const char *output_state_color(const char *state);
#define OUTPUT_COLOR_END "\033[0m"

// "1.5 GiB"; "-" for 0.
void human_size(uint64_t bytes, char out[24]);
// "12s", "5m", "3h 20m", "2d 4h", rounded to the nearest.
void human_span(uint64_t seconds, char out[24]);
// An RFC 3339 time of the API as a distance from now: "5m ago", "in 3m"; "-" when it is NULL.
void human_when(const json_t *time, char out[32]);
void human_ms(uint64_t us, char out[24]); // "1.25 ms", "4.80 s"

// The API's phases of an operation, as a table with their sum. 0 or -errno.
int output_phases(const json_t *phases, FILE *out);
// A value as people read it: text as it is, all else as compact JSON, control characters as '?',
// "-" for null and what is absent. Owned by the caller; NULL when out of memory.
char *output_value(const json_t *v);
// A line for each of these fields of an object that has a value, on stdout: names ends with NULL,
// and is NULL for all fields there are. 0 or -errno.
int output_fields(const json_t *object, const char *const *names);
// Indented JSON and a newline on stdout. 0 or -errno.
int output_json(const json_t *j);
// Flushes stdout; -errno when what was printed did not get out.
int output_flush(void);

// --- progress: one line on stderr, redrawn; nothing when stderr is no terminal.
struct progress {
	bool on;
	uint64_t started_ns, drawn_ns;
	unsigned frame;
	const char *what;
	uint64_t done, total; // bytes; total 0: unknown
	bool bytes;	      // done and total are shown
};
void progress_start(struct progress *p, const char *what);
int progress_tick(void *progress); // returns 0: fits http_call.tick
void progress_clear(struct progress *p);
