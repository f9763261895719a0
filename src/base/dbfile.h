// SPDX-License-Identifier: Apache-2.0
// Database files as a whole: check, backup and restore, beside db.h which works with what is in
// them. Check and backup may be used while a server has the file open.
#pragma once
#include "base/embed.h"
#include "base/err.h"
#include "base/str.h"

// Version, and what is wrong, a line each, appended to problems (which may be NULL). ERR_INTERNAL
// when anything is; ERR_UNAVAILABLE for a database newer than the migrations.
int dbfile_check(const char *path, const struct embed *migrations, unsigned *ret_version,
	struct strbuf *problems, struct err *e);
// A copy as of one moment, checked before it has its name. ERR_CONFLICT when there is one of that
// name.
int dbfile_backup(const char *path, const struct embed *migrations, const char *to, struct err *e);
// The checked copy takes the place (and the owner) of path, which is kept as <path>.before-restore
// (with -wal and -shm). Nobody may have path open: the caller holds the server's lock.
int dbfile_restore(
	const char *path, const struct embed *migrations, const char *from, struct err *e);
// The file <with> takes the place (and the owner) of path, which is kept as <path>.<as>, as above.
int dbfile_replace(const char *path, const char *with, const char *as, struct err *e);
