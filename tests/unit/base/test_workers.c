// SPDX-License-Identifier: Apache-2.0
#include "../check.h"
#include <pthread.h>
#include <semaphore.h>
#include <string.h>
#include "base/clock.h"
#include "base/workers.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char order[64];
static sem_t begun, go, ended;

static void note(char c)
{
	pthread_mutex_lock(&lock);
	order[strlen(order)] = c;
	pthread_mutex_unlock(&lock);
}

static void hold(void *ctx)
{
	sem_post(&begun);
	sem_wait(&go);
	sem_post(&ended);
}

static void write_down(void *ctx)
{
	note(*(const char *)ctx);
	sem_post(&ended);
}

static int setup(void **state)
{
	memset(order, 0, sizeof order);
	sem_init(&begun, 0, 0);
	sem_init(&go, 0, 0);
	sem_init(&ended, 0, 0);
	return 0;
}

static void wait_n(sem_t *s, int n)
{
	while (n--)
		assert_int_equal(sem_wait(s), 0);
}

static void slow_jobs_leave_a_thread_to_urgent_ones(void **state)
{
	struct workers *w;
	size_t waiting, running;
	assert_int_equal(workers_new(3, 1, &w), 0);
	for (int i = 0; i < 5; i++)
		assert_int_equal(workers_add(w, false, 0, hold, NULL), 0);
	wait_n(&begun, 2);
	assert_int_equal(workers_add(w, true, 0, write_down, "u"), 0);
	wait_n(&ended, 1);
	assert_string_equal(order, "u");
	workers_count(w, &waiting, &running);
	assert_int_equal(waiting, 3);
	for (int i = 0; i < 5; i++)
		sem_post(&go);
	wait_n(&ended, 5);
	workers_stop(w, NULL);
	workers_free(w);
}

static void urgent_first_then_in_the_order_added(void **state)
{
	struct workers *w;
	assert_int_equal(workers_new(2, 1, &w), 0);
	assert_int_equal(workers_add(w, true, 0, hold, NULL), 0);
	assert_int_equal(workers_add(w, true, 0, hold, NULL), 0);
	wait_n(&begun, 2);
	assert_int_equal(workers_add(w, false, 0, write_down, "c"), 0);
	assert_int_equal(workers_add(w, true, 0, write_down, "a"), 0);
	assert_int_equal(workers_add(w, true, 0, write_down, "b"), 0);
	sem_post(&go); // one thread goes on, the other one stays
	wait_n(&ended, 4);
	assert_string_equal(order, "abc");
	sem_post(&go);
	wait_n(&ended, 1);
	workers_stop(w, NULL);
	workers_free(w);
}

static void a_job_waits_for_its_time_and_others_do_not(void **state)
{
	struct workers *w;
	uint64_t now = clock_monotonic_ns(), at = now + 50 * NSEC_PER_MSEC;
	assert_int_equal(workers_new(2, 1, &w), 0);
	assert_int_equal(workers_add(w, true, at, write_down, "l"), 0);
	assert_int_equal(workers_add(w, true, now, write_down, "n"), 0);
	wait_n(&ended, 2);
	assert_string_equal(order, "nl");
	assert_true(clock_monotonic_ns() >= at);
	workers_stop(w, NULL);
	workers_free(w);
}

static void what_was_not_begun_is_given_back(void **state)
{
	struct workers *w;
	assert_int_equal(workers_new(2, 1, &w), 0);
	assert_int_equal(
		workers_add(w, false, clock_monotonic_ns() + 3600 * NSEC_PER_SEC, hold, "d"), 0);
	workers_stop(w, (void (*)(void *))write_down);
	assert_string_equal(order, "d");
	assert_int_equal(workers_add(w, true, 0, hold, NULL), -ESHUTDOWN);
	workers_free(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(slow_jobs_leave_a_thread_to_urgent_ones, setup),
		cmocka_unit_test_setup(urgent_first_then_in_the_order_added, setup),
		cmocka_unit_test_setup(a_job_waits_for_its_time_and_others_do_not, setup),
		cmocka_unit_test_setup(what_was_not_begun_is_given_back, setup),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
