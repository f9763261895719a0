// SPDX-License-Identifier: Apache-2.0
// How the kernel tells which pages a guest wrote, and what it costs where it does not.
#pragma once
#include <stdbool.h>
#include <stdint.h>

// PAGEMAP_SCAN of Linux 6.7. STASIS_NO_PAGEMAP_SCAN in the environment, for tests: no.
bool pagemap_scan_works(void);
// Milliseconds of a processor in which this machine reads 100 MiB of another process's memory and
// as much of a file that is in memory, and compares them: tried with a part of that. 0: it could
// not be tried.
uint64_t pagemap_compare_ms(void);
