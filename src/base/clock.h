// SPDX-License-Identifier: Apache-2.0
// Time in unsigned 64-bit nanoseconds, and RFC 3339 text.
#pragma once
#include <time.h>
#include "base/macro.h"

#define NSEC_PER_SEC 1000000000ull
#define NSEC_PER_MSEC 1000000ull
#define TIME_NEVER UINT64_MAX // a deadline that does not come

uint64_t clock_monotonic_ns(void);
uint64_t clock_realtime_ns(void);
void clock_sleep_ns(uint64_t ns);
struct timespec clock_timespec(uint64_t ns);
// A deadline is a time of CLOCK_MONOTONIC in nanoseconds. Of a limit in milliseconds from now;
// TIME_NEVER for a negative one.
uint64_t deadline_in_ms(int64_t ms);
bool deadline_over(uint64_t deadline_ns);
// What is left of it for poll: rounded up, 0 when it is over, -1 for TIME_NEVER.
int deadline_left_ms(uint64_t deadline_ns);
// "2026-11-24T03:00:00.123Z"; out has room for 32 bytes.
void clock_format_rfc3339(uint64_t realtime_ns, char out[32]);
// Accepts fractions and offsets ("Z", "+02:00"), from 1970 to 2262. 0 or -EINVAL.
int clock_parse_rfc3339(const char *text, uint64_t *ret_ns);
// This boot of the machine (/proc/sys/kernel/random/boot_id), 36 characters; "" when unreadable.
void clock_boot_id(char out[37]);
