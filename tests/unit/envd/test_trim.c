// SPDX-License-Identifier: Apache-2.0
// When freed space is given back, in which pieces, and what a disk can do to whoever waits for it.
// The disk is played: its numbers in /sys and its answers to FITRIM.
#include "../check.h"
#include <errno.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include "base/clock.h"
#include "base/macro.h"
#include "envd/wake/trim.h"

#define MIB (1ull << 20)
#define GIB (1ull << 30)

static void test_a_pass_begins_when_enough_may_have_been_freed(void **state)
{
	static const struct {
		const char *what;
		int64_t written, free; // since the last pass, MiB
		bool begins;
	} t[] = {
		{"nothing happened", 0, 0, false},
		{"written and kept", 1024, -1024, false},
		{"deleted, what was there before", 0, 1024, true},
		{"written and deleted in between", 1024, 0, true},
		{"written, half of it deleted", 1024, -512, true},
		{"as much as waits", 0, 64, false},
		{"a little more", 1, 64, true},
		{"one written, another deleted", 100, -30, true},
		{"written without growing much", 100, -36, false},
		{"filled by something else than writes", 0, -1024, false},
	};
	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		struct trim_counts then = {5 * GIB, 2 * GIB, 4 * GIB};
		struct trim_counts now = {then.written + (uint64_t)t[i].written * MIB,
			then.free + (uint64_t)t[i].free * MIB, 4 * GIB};
		struct trim_plan p = {.since = then};
		if (trim_plan_begin(&p, &now) != t[i].begins)
			fail_msg("%s", t[i].what);
		assert_int_equal(p.under_way, t[i].begins);
		// What was not worth it is still counted, what was is not again.
		assert_int_equal(p.since.written, t[i].begins ? now.written : 5 * GIB);
	}
}

static void test_small_amounts_add_up(void **state)
{
	struct trim_plan p = {.since = {0, GIB, 2 * GIB}};
	for (unsigned i = 1; i <= 6; i++) {
		struct trim_counts now = {i * 10 * MIB, GIB, 2 * GIB};
		assert_false(trim_plan_begin(&p, &now));
	}
	struct trim_counts now = {70 * MIB, GIB, 2 * GIB};
	assert_true(trim_plan_begin(&p, &now));
}

static void test_another_device_begins_anew(void **state)
{
	struct trim_plan p = {.since = {10 * GIB, GIB, 2 * GIB}};
	struct trim_counts now = {MIB, GIB, 2 * GIB};
	assert_false(trim_plan_begin(&p, &now));
	now.written += 100 * MIB;
	assert_true(trim_plan_begin(&p, &now));
}

// Every byte once, in pieces that hold whole block groups, however often it is interrupted.
static void test_a_pass_covers_all_and_goes_on_where_it_stopped(void **state)
{
	static const uint64_t sizes[] = {0, 1, 100 * MIB, 128 * MIB, 128 * MIB + 1, 2 * GIB,
		2 * GIB - 4096, 100 * GIB + 512, UINT64_MAX};
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct trim_plan p = {.since = {0}};
		struct trim_counts now = {GIB, 0, sizes[i]};
		uint64_t end = 0, start, length;
		unsigned n = 0;
		assert_true(trim_plan_begin(&p, &now));
		while (n < 1000 && trim_plan_next(&p, sizes[i], &start, &length)) {
			assert_int_equal(start, end);
			assert_true(length > 0 && length <= TRIM_CHUNK);
			assert_int_equal(start % TRIM_CHUNK, 0);
			end = start + length;
			if (++n % 3 ==
				0) // the next freeze: nothing was freed, and still it goes on
				assert_true(trim_plan_begin(&p, &now) == p.under_way);
		}
		if (n < 1000) {
			assert_int_equal(end, sizes[i]);
			assert_false(trim_plan_begin(&p, &now));
		}
	}
}

// The file system may shrink between two freezes.
static void test_a_pass_ends_behind_the_end(void **state)
{
	struct trim_plan p = {.next = 10 * GIB, .under_way = true};
	uint64_t start, length;
	assert_false(trim_plan_next(&p, GIB, &start, &length));
	assert_false(p.under_way);
}

// --- the disk

#define CHUNKS 20

static struct {
	uint64_t written; // bytes
	int error;
	uint64_t piece_ns;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool hangs; // until this is taken back
	unsigned times[CHUNKS], calls;
} disk = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

int __wrap_file_read_line(int dirfd, const char *path, char **ret);
int __wrap_file_read_line(int dirfd, const char *path, char **ret)
{
	assert_non_null(strstr(path, "/sys/dev/block/"));
	unsigned long long sectors =
		strstr(path, "/size") ? CHUNKS * TRIM_CHUNK / 512 : disk.written / 512;
	*ret = malloc(128);
	assert_non_null(*ret);
	snprintf(
		*ret, 128, strstr(path, "/size") ? "%llu" : "  8 0  9 1 2 3 %llu 4 5 6 7", sectors);
	return 0;
}

int __wrap_ioctl(int fd, unsigned long request, struct fstrim_range *r);
int __wrap_ioctl(int fd, unsigned long request, struct fstrim_range *r)
{
	assert_int_equal(request, FITRIM);
	assert_int_equal(r->minlen, TRIM_EXTENT);
	pthread_mutex_lock(&disk.lock);
	disk.calls++;
	while (disk.hangs)
		pthread_cond_wait(&disk.changed, &disk.lock);
	if (r->start / TRIM_CHUNK < CHUNKS)
		disk.times[r->start / TRIM_CHUNK]++;
	int error = disk.error;
	pthread_mutex_unlock(&disk.lock);
	clock_sleep_ns(disk.piece_ns);
	errno = error;
	return error ? -1 : 0;
}

static int new_disk(void **state)
{
	disk.written = GIB;
	disk.error = 0;
	disk.piece_ns = 0;
	disk.hangs = false;
	disk.calls = 0;
	memset(disk.times, 0, sizeof disk.times);
	*state = trim_new("/");
	return *state ? 0 : -1;
}

static int remove_disk(void **state)
{
	trim_free(*state);
	return 0;
}

static void let_go(void)
{
	pthread_mutex_lock(&disk.lock);
	disk.hangs = false;
	pthread_cond_broadcast(&disk.changed);
	pthread_mutex_unlock(&disk.lock);
}

static unsigned look(const unsigned *n)
{
	pthread_mutex_lock(&disk.lock);
	unsigned value = *n;
	pthread_mutex_unlock(&disk.lock);
	return value;
}

static void assert_all_once(void)
{
	for (unsigned i = 0; i < CHUNKS; i++)
		assert_int_equal(look(&disk.times[i]), 1);
}

// As freezes come, until the disk was asked for its last piece. How often that took.
static unsigned run_to_the_end(struct trim *t, uint64_t limit_ns)
{
	unsigned n = 0;
	for (; look(&disk.times[CHUNKS - 1]) == 0; n++) {
		assert_true(n < 100000);
		trim_run(t, limit_ns);
		clock_sleep_ns(NSEC_PER_MSEC);
	}
	return n;
}

static void test_nothing_is_asked_when_nothing_was_freed(void **state)
{
	assert_int_equal(trim_run(*state, NSEC_PER_SEC), 0);
	assert_int_equal(trim_run(NULL, NSEC_PER_SEC), 0);
	assert_int_equal(look(&disk.calls), 0);
}

static void test_all_of_the_disk_is_asked_for_once(void **state)
{
	disk.written += GIB;
	assert_true(trim_run(*state, 60 * NSEC_PER_SEC) > 0);
	assert_all_once();
	assert_int_equal(trim_run(*state, NSEC_PER_SEC), 0);
	assert_all_once();
}

static void test_a_slow_disk_is_done_over_several_times(void **state)
{
	disk.written += GIB;
	disk.piece_ns = 5 * NSEC_PER_MSEC;
	assert_true(run_to_the_end(*state, 20 * NSEC_PER_MSEC) > 1);
	assert_all_once();
}

static void test_who_waits_leaves_a_disk_that_hangs(void **state)
{
	disk.written += GIB;
	disk.hangs = true;
	while (look(&disk.calls) == 0) // a thread that comes too late asks nothing
		trim_run(*state, 20 * NSEC_PER_MSEC);
	// As long as it hangs nothing is begun, and nobody waits.
	assert_int_equal(trim_run(*state, 600 * NSEC_PER_SEC), 0);
	assert_int_equal(look(&disk.calls), 1);
	let_go();
	run_to_the_end(*state, 60 * NSEC_PER_SEC);
	assert_all_once();
}

static void test_a_disk_that_cannot_is_asked_again_only_for_more(void **state)
{
	static const int errors[] = {EOPNOTSUPP, EIO, EROFS, EINVAL};
	for (size_t i = 0; i < ARRAY_SIZE(errors); i++) {
		disk.calls = 0;
		disk.error = errors[i];
		disk.written += GIB;
		assert_true(trim_run(*state, 60 * NSEC_PER_SEC) > 0);
		assert_int_equal(look(&disk.calls), 1);
		assert_int_equal(trim_run(*state, 60 * NSEC_PER_SEC), 0);
		assert_int_equal(look(&disk.calls), 1);
	}
}

#define D(name) cmocka_unit_test_setup_teardown(name, new_disk, remove_disk)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_pass_begins_when_enough_may_have_been_freed),
		cmocka_unit_test(test_small_amounts_add_up),
		cmocka_unit_test(test_another_device_begins_anew),
		cmocka_unit_test(test_a_pass_covers_all_and_goes_on_where_it_stopped),
		cmocka_unit_test(test_a_pass_ends_behind_the_end),
		D(test_nothing_is_asked_when_nothing_was_freed),
		D(test_all_of_the_disk_is_asked_for_once),
		D(test_a_slow_disk_is_done_over_several_times),
		D(test_who_waits_leaves_a_disk_that_hangs),
		D(test_a_disk_that_cannot_is_asked_again_only_for_more),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
