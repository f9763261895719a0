// SPDX-License-Identifier: Apache-2.0
// The fields of a tar archive's headers and records, read.
#pragma once
#include <time.h>
#include "base/str.h"

// Offsets in a header: POSIX.1-2001, pax, "ustar Interchange Format".
enum {
	TAR_AT_NAME = 0,
	TAR_AT_MODE = 100,
	TAR_AT_UID = 108,
	TAR_AT_GID = 116,
	TAR_AT_SIZE = 124,
	TAR_AT_MTIME = 136,
	TAR_AT_SUM = 148,
	TAR_AT_TYPE = 156,
	TAR_AT_LINK = 157,
	TAR_AT_MAGIC = 257,
	TAR_AT_PREFIX = 345
};

// h is a block. Its sum and magic are right.
bool tar_is_header(const char *h);
// The name of its own, with its prefix.
void tar_read_name(const char *h, struct strbuf *to);
// Octal, ended by a blank, NUL or the field's end; or binary with the first bit set (GNU). -EINVAL
// or -ERANGE.
int tar_read_number(const char *field, size_t size, uint64_t *ret);
// Of a record: seconds since 1970 with a sign and a fraction. -EINVAL or -ERANGE.
int tar_read_time(const char *text, struct timespec *ret);
