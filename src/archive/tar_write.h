// SPDX-License-Identifier: Apache-2.0
// The blocks of a tar archive (POSIX.1-2001, "pax"; holes as GNU's sparse format 1.0, attributes as
// SCHILY.xattr, which GNU tar, bsdtar and Python read), but for the content of the files.
#pragma once
#include "archive/entry.h"
#include "base/str.h"

#define TAR_BLOCK 512u
// Records of the archive about itself; other readers pass over them. Value: "why" LF "path".
#define TAR_SKIPPED "STASIS.skipped"
#define TAR_FAILED "STASIS.failed"

// The header of an entry. The content follows: size bytes of a file, of one with segments the bytes
// of these alone; then tar_add_padding of that count. exact_time: nanoseconds too.
void tar_add_header(struct strbuf *out, const struct archive_entry *e, bool exact_time);
void tar_add_padding(struct strbuf *out, uint64_t length);
void tar_add_note(struct strbuf *out, enum archive_note what, const char *path, const char *why);
void tar_add_end(struct strbuf *out);
