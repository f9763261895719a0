// SPDX-License-Identifier: Apache-2.0
// File entries as the protocol shows them.
#pragma once
#include <sys/stat.h>
#include <time.h>
#include "base/str.h"
#include "envd/process/users.h"

#define ENTRY_MODE_SIZE 24
// Go's FileMode.String(): "-rw-r--r--", "dtrwxrwxrwx", "Lrwxrwxrwx".
void entry_mode_text(mode_t mode, char out[ENTRY_MODE_SIZE]);
// RFC 3339 with nanoseconds, always of the years 1 to 9999: times beyond are its first or last.
#define ENTRY_TIME_SIZE 64
void entry_time_text(struct timespec t, char out[ENTRY_TIME_SIZE]);
// Appends the EntryInfo of path as JSON. 0 or the -errno of lstat.
int entry_add_json(struct strbuf *out, const char *path, struct users *users, mode_t *ret_mode);
// Appends s as a JSON string; bytes that are not UTF-8 become U+FFFD.
void entry_add_json_string(struct strbuf *out, const char *s);
