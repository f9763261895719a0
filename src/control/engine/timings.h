// SPDX-License-Identifier: Apache-2.0
// How long operations and their phases took, as histograms of Prometheus's text format. Bounded: by
// the kinds of operations, and TIMINGS_PHASES names of phases of each. Thread-safe.
#pragma once
#include <jansson.h>
#include "base/err.h"
#include "base/str.h"
#include "control/state/operations.h"

#define TIMINGS_PHASES 32

struct timings;

struct timings *timings_new(void);
struct timings *timings_free(struct timings *t);
// Of an operation that has ended; phases as in struct operation, NULL: none. t NULL: nothing.
void timings_add(struct timings *t, const struct operation *op);
// Phases alone, of one of several machines of an operation.
void timings_add_phases(struct timings *t, enum operation_kind kind, const json_t *phases);
// A command that was run by POST /exec.
void timings_add_exec(struct timings *t, uint64_t ns, bool failed);
void timings_print(struct timings *t, struct strbuf *out);
