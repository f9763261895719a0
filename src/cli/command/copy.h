// SPDX-License-Identifier: Apache-2.0
// What both ways of cp share: the copy under way, and calls to the agent's files.
#pragma once
#include "archive/entry.h"
#include "cli/base/api.h"
#include "cli/base/output.h"

struct copy {
	struct guest guest;
	const char *user;
	bool follow, exact; // -L, -a
	struct progress progress;
	uint64_t files, bytes;
	unsigned failed;     // files that could not be read
	bool agent_is_older; // copy_explain has found that it knows no archives
};

// For http_call.tick: progress, and an end after Ctrl-C.
int copy_tick(void *copy);
// For archives: tells on stderr what is left out.
void copy_note(void *copy, enum archive_note what, const char *path, const char *why);
// An error for what copy_note has told, if it was more than what is always left out.
int copy_check_failed(const struct copy *x, struct err *e);
// All of data. -EINTR after Ctrl-C: a pipe that nobody reads blocks for good.
int copy_write(int fd, const char *data, size_t len);
// "/files?path=...", or with another route ("/files/tar"), and further ("&rename=1"). Owned by the
// caller; NULL when out of memory.
char *copy_url(const struct copy *x, const char *route, const char *path, const char *further);
// After a call that failed: what to say. "interrupted" after Ctrl-C, "ended early" where the
// connection was cut, what to do where the agent is older than the call. After rc 0: 0.
int copy_explain(struct copy *x, int rc, const char *path, struct err *e);
// /dev/stdout, /dev/fd/N and the like: links of the kernel's to what is open, whose text is no path
// elsewhere.
bool copy_is_open_file(const char *path);
const char *copy_base_name(const char *path);
char *copy_without_slashes(const char *path); // at its end; owned by the caller
// Of docker's rule: "DIR/." is what is in DIR.
bool copy_means_content(const char *path);
