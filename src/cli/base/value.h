// SPDX-License-Identifier: Apache-2.0
// Numbers as people type them. 0, or -EINVAL, -ERANGE.
#pragma once
#include <stdint.h>

// "90", "90s", "5m", "2h", "1d"; "none" is 0.
int cli_parse_seconds(const char *s, uint64_t *ret);
// "512M", "20G", "20GiB"; unit: of a bare number.
int cli_parse_bytes(const char *s, uint64_t unit, uint64_t *ret);
// Of the authorities that an https server is checked against: STASIS_CA_FILE; NULL: the system's.
const char *cli_ca_file(void);
