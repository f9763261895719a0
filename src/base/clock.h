// SPDX-License-Identifier: Apache-2.0
// Time in unsigned 64-bit nanoseconds, and RFC 3339 text.
#pragma once
#include "base/macro.h"

#define NSEC_PER_SEC 1000000000ull
#define NSEC_PER_MSEC 1000000ull

uint64_t clock_monotonic_ns(void);
uint64_t clock_realtime_ns(void);
void clock_sleep_ns(uint64_t ns);
// "2026-11-24T03:00:00.123Z"; out has room for 32 bytes.
void clock_format_rfc3339(uint64_t realtime_ns, char out[32]);
// Accepts fractions and offsets ("Z", "+02:00"), from 1970 to 2262. 0 or -EINVAL.
int clock_parse_rfc3339(const char *text, uint64_t *ret_ns);
// This boot of the machine (/proc/sys/kernel/random/boot_id), 36 characters; "" when unreadable.
void clock_boot_id(char out[37]);
