// SPDX-License-Identifier: Apache-2.0
#include <pthread.h>
#include "../check.h"
#include "base/clock.h"
#include "base/lock.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t rung = PTHREAD_COND_INITIALIZER;
static bool rang;

static bool is_free(void)
{
	if (pthread_mutex_trylock(&lock) != 0)
		return false;
	pthread_mutex_unlock(&lock);
	return true;
}

static int leaves_early(int n)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&lock);
	if (n)
		return n;
	return 0;
}

static void held_to_the_end_of_the_block(void **state)
{
	{
		_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&lock);
		assert_false(is_free());
	}
	assert_true(is_free());
	assert_int_equal(leaves_early(1), 1);
	assert_true(is_free());
}

static void given_up_before_the_end(void **state)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&lock);
	mutex_unlock(&held);
	assert_true(is_free());
	mutex_unlock(&held); // and once more at the end of the block
	assert_true(is_free());
}

static void waits_until_its_time(void **state)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&lock);
	uint64_t until = deadline_in_ms(20);
	int rc;
	while ((rc = cond_wait_until(&rung, &lock, until)) == 0)
		; // woken for nothing
	assert_int_equal(rc, -ETIMEDOUT);
	assert_true(deadline_over(until));
	assert_int_equal(cond_wait_until(&rung, &lock, 0), -ETIMEDOUT);
	assert_false(is_free());
}

static void *ring(void *arg)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&lock);
	rang = true;
	pthread_cond_signal(&rung);
	return NULL;
}

static void wakes_when_rung(void **state)
{
	static const uint64_t until[] = {TIME_NEVER, TIME_NEVER - 1};
	for (size_t i = 0; i < ARRAY_SIZE(until); i++) {
		pthread_t thread;
		_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&lock);
		rang = false;
		assert_int_equal(pthread_create(&thread, NULL, ring, NULL), 0);
		while (!rang)
			assert_int_equal(cond_wait_until(&rung, &lock, until[i]), 0);
		mutex_unlock(&held);
		pthread_join(thread, NULL);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(held_to_the_end_of_the_block),
		cmocka_unit_test(given_up_before_the_end),
		cmocka_unit_test(waits_until_its_time),
		cmocka_unit_test(wakes_when_rung),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
