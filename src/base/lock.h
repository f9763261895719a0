// SPDX-License-Identifier: Apache-2.0
// A mutex held to the end of a block, and waiting until a time.
#pragma once
#include <pthread.h>
#include "base/macro.h"

// _cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&t->lock);
// The lock is given up at the end of the block, or before it by mutex_unlock(&held).
static inline pthread_mutex_t *mutex_lock(pthread_mutex_t *m)
{
	pthread_mutex_lock(m);
	return m;
}
static inline void mutex_unlock(pthread_mutex_t **held)
{
	if (*held)
		pthread_mutex_unlock(*held);
	*held = NULL;
}
#define _cleanup_unlock_ _unused_ _cleanup_(mutex_unlock)

// Waits until the condition is signalled, or until_ns of CLOCK_MONOTONIC (TIME_NEVER: for ever),
// whatever clock the condition was made with. 0 or -ETIMEDOUT; the caller looks again, as after
// pthread_cond_wait.
int cond_wait_until(pthread_cond_t *c, pthread_mutex_t *m, uint64_t until_ns);
