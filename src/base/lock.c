// SPDX-License-Identifier: Apache-2.0
#include "base/lock.h"
#include "base/clock.h"

int cond_wait_until(pthread_cond_t *c, pthread_mutex_t *m, uint64_t until_ns)
{
	struct timespec t = clock_timespec(until_ns);
	if (until_ns == TIME_NEVER)
		return -pthread_cond_wait(c, m);
	return -pthread_cond_clockwait(c, m, CLOCK_MONOTONIC, &t);
}
