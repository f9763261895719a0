// SPDX-License-Identifier: Apache-2.0
// What the row of a sandbox that has something to run on says, beside host.db:
// <run>/state/<id>.json, with its open operation. host.db is made anew from it when it is lost
// (watch/rebuild.h); nothing else reads it.
//
// It is written after each commit of the row, and removed when the sandbox has nothing on the
// machine any more. The run directory is a tmpfs: what runs does not outlive it either, so nothing
// is synced. It is not in <run>/<id>, which is there for as long as the shim's processes alone: the
// state of a create or a resume is written before.
#pragma once
#include "sandbox/table/table.h"

#define STATEFILE_DIR "state"
#define STATEFILE_MAX 16384u
#define STATEFILE_FORMAT 1u

// Of the operation that is open; all "": none. data: what its recovery needs, JSON.
struct statefile_op {
	char id[UUID_SIZE], kind[24], data[256];
};

int statefile_make_dir(const struct host *h);
// The row as it is now; op NULL: none. A file that cannot be written is removed: a sandbox without
// one is kept and not judged. The database's lock is held, so that the last row is the last file.
void statefile_write(struct host *h, const struct sandbox *row, const struct statefile_op *op);
// The same but for the times; each may be NULL.
void statefile_set_time(struct host *h, const char *id, const uint64_t *ends_at_ns,
	const enum on_timeout *on_timeout);
void statefile_remove(struct host *h, const char *id);
int statefile_read(const char *run_dir, const char *id, struct sandbox *ret,
	struct statefile_op *ret_op, struct err *e);

int statefile_encode(const struct sandbox *row, const struct statefile_op *op, struct strbuf *out);
// Strict: no unknown fields, and nothing that a row could not have. What is no part of a row is
// zero in *ret, and pidfd -1.
int statefile_parse(const char *text, size_t len, struct sandbox *ret, struct statefile_op *ret_op,
	struct err *e);
