// SPDX-License-Identifier: Apache-2.0
// Calls that last have each a bound of their own, which leaves the server (2,048 connections)
// places for those that do not.
#pragma once
#include <stdatomic.h>
#include "base/err.h"

#define WAIT_CALLS_MAX 512u
#define FOLLOW_CALLS_MAX 256u
#define EXEC_CALLS_MAX 512u
// Of one sandbox, so that one whose agent does not answer does not take them all; its agent has
// places for 352.
#define EXEC_CALLS_SANDBOX_MAX 128u

// Takes one of max places, which calls_end gives back. ERR_LIMIT saying "N calls <what> already".
static inline int calls_begin(atomic_uint *count, unsigned max, const char *what, struct err *e)
{
	if (atomic_fetch_add(count, 1) < max)
		return 0;
	atomic_fetch_sub(count, 1);
	return err_set(e, ERR_LIMIT, "%u calls %s already", max, what);
}

static inline void calls_end(atomic_uint *count)
{
	atomic_fetch_sub(count, 1);
}
