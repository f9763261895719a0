// SPDX-License-Identifier: Apache-2.0
// A bounded pool of threads. Jobs are urgent or not; urgent ones go first, and some threads take no
// others, so that what may take long never keeps what must be quick waiting. A job may be put off
// until a time, which is how a job tries again: it adds itself and ends. A job works for the
// request that it was added for (request_id.h).
#pragma once
#include "base/macro.h"

struct workers;
typedef void (*work_fn)(void *ctx);

// threads: at least 2; kept of them: for urgent jobs alone, below threads.
int workers_new(unsigned threads, unsigned kept, struct workers **ret);
// Not before at_ns (CLOCK_MONOTONIC; 0: now). -ENOMEM, or -ESHUTDOWN after workers_stop: then ctx
// stays the caller's.
int workers_add(struct workers *w, bool urgent, uint64_t at_ns, work_fn f, void *ctx);
// Takes no more jobs, begins none that waits for its time, and returns when all threads have ended.
// drop is called for each job that was not begun.
void workers_stop(struct workers *w, void (*drop)(void *ctx));
struct workers *workers_free(struct workers *w); // stopped before
// Whether the caller is a job: it must not wait for another one, all threads might.
bool workers_is_job(const struct workers *w);
// Jobs in line whose time has come, and under way.
void workers_count(struct workers *w, size_t *ret_waiting, size_t *ret_running);
