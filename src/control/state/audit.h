// SPDX-License-Identifier: Apache-2.0
// Who changed what, from where, and what came of it: a file of JSON lines, one a call, which grows
// to a size and is then moved aside. A line is written before its call is answered and is on the
// disk within ten seconds (audit_sync): a server that is killed loses none, a power cut those.
#pragma once
#include <jansson.h>
#include "base/err.h"

#define AUDIT_KEEP 4 // older files: audit.log.1 is the newest of them
#define AUDIT_SIZE_DEFAULT (32ull << 20)

struct audit;

// dir/audit.log is made, or gone on with; max_bytes 0: AUDIT_SIZE_DEFAULT.
int audit_open(const char *dir, uint64_t max_bytes, struct audit **ret, struct err *e);
struct audit *audit_close(struct audit *a);
DEFINE_CLEANUP(struct audit *, audit_close)
// Adds "seq" and "at" in front; steals entry. A line that cannot be written is told in the server's
// log, and counted.
void audit_write(struct audit *a, json_t *entry);
// Refused calls are for strangers to make: at most a few a second get a line, the next one of which
// says how many did not ("suppressed"). False: this one does not.
bool audit_takes_refusal(struct audit *a, uint64_t *ret_suppressed);
struct audit_counts {
	uint64_t lines, refusals, suppressed, failed;
};
struct audit_counts audit_counts(struct audit *a);
void audit_sync(struct audit *a);
// The numbers that are kept; first is last + 1 when there are none.
void audit_range(struct audit *a, uint64_t *ret_first, uint64_t *ret_last);
// Lines after the number and not before the time (0: any), oldest first, at most max; take borrows.
int audit_read(struct audit *a, uint64_t after, uint64_t since_ns, size_t max,
	int (*take)(void *ctx, json_t *line), void *ctx, struct err *e);
