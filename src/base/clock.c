// SPDX-License-Identifier: Apache-2.0
#include "base/clock.h"
#include <fcntl.h>
#include <limits.h>
#include <string.h>

static uint64_t now(clockid_t id)
{
	struct timespec t;
	clock_gettime(id, &t);
	return (uint64_t)t.tv_sec * NSEC_PER_SEC + (uint64_t)t.tv_nsec;
}

uint64_t clock_monotonic_ns(void)
{
	return now(CLOCK_MONOTONIC);
}

uint64_t clock_realtime_ns(void)
{
	return now(CLOCK_REALTIME);
}

struct timespec clock_timespec(uint64_t ns)
{
	return (struct timespec){(time_t)(ns / NSEC_PER_SEC), (long)(ns % NSEC_PER_SEC)};
}

uint64_t deadline_in_ms(int64_t ms)
{
	uint64_t ns, at;
	if (ms < 0 || __builtin_mul_overflow((uint64_t)ms, NSEC_PER_MSEC, &ns) ||
		__builtin_add_overflow(clock_monotonic_ns(), ns, &at))
		return TIME_NEVER;
	return at;
}

bool deadline_over(uint64_t deadline_ns)
{
	return clock_monotonic_ns() >= deadline_ns;
}

int deadline_left_ms(uint64_t deadline_ns)
{
	if (deadline_ns == TIME_NEVER)
		return -1;
	uint64_t now = clock_monotonic_ns(), left = deadline_ns > now ? deadline_ns - now : 0;
	uint64_t ms = left / NSEC_PER_MSEC + (left % NSEC_PER_MSEC > 0);
	return (int)MIN(ms, (uint64_t)INT_MAX);
}

void clock_sleep_ns(uint64_t ns)
{
	struct timespec t = clock_timespec(ns);
	while (nanosleep(&t, &t) < 0 && errno == EINTR)
		;
}

void clock_format_rfc3339(uint64_t ns, char out[32])
{
	time_t s = (time_t)(ns / NSEC_PER_SEC);
	struct tm tm;
	gmtime_r(&s, &tm);
	snprintf(out, 32, "%04d-%02d-%02dT%02d:%02d:%02d.%03uZ", (tm.tm_year + 1900) % 10000,
		tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec,
		(unsigned)(ns % NSEC_PER_SEC / NSEC_PER_MSEC) % 1000);
}

int clock_parse_rfc3339(const char *text, uint64_t *ret_ns)
{
	struct tm tm = {0};
	// strptime skips blanks and takes years of other lengths.
	const char *p =
		strspn(text, "0123456789") == 4 ? strptime(text, "%Y-%m-%dT%H:%M:%S", &tm) : NULL;
	if (!p)
		return -EINVAL;
	struct tm said = tm;
	uint64_t frac = 0;
	if (*p == '.') {
		uint64_t unit = NSEC_PER_SEC / 10;
		if (*++p < '0' || *p > '9')
			return -EINVAL;
		for (; *p >= '0' && *p <= '9'; p++, unit /= 10)
			frac += (uint64_t)(*p - '0') * unit;
	}
	int64_t offset = 0;
	if (*p == 'Z' || *p == 'z') {
		p++;
	} else if (*p == '+' || *p == '-') {
		int h, m, n = 0;
		if (sscanf(p + 1, "%2d:%2d%n", &h, &m, &n) != 2 || n != 5 || h > 23 || m > 59)
			return -EINVAL;
		offset = (int64_t)(h * 3600 + m * 60) * (*p == '-' ? -1 : 1);
		p += 6;
	} else {
		return -EINVAL;
	}
	time_t s = timegm(&tm);
	// Days that no month has; times before 1970, and after 2262, which nanoseconds cannot say.
	if (*p || tm.tm_mday != said.tm_mday || tm.tm_mon != said.tm_mon || s - offset < 0 ||
		s - offset > INT64_MAX / (int64_t)NSEC_PER_SEC)
		return -EINVAL;
	*ret_ns = (uint64_t)(s - offset) * NSEC_PER_SEC + frac;
	return 0;
}

void clock_boot_id(char out[37])
{
	_cleanup_close_ int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, out, 36);
	out[n == 36 ? 36 : 0] = '\0';
}
