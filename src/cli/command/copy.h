// SPDX-License-Identifier: Apache-2.0
// What both ways of cp share: the copy under way, and calls to the agent's file system.
#pragma once
#include "cli/base/api.h"
#include "cli/base/output.h"

struct copy {
	struct guest guest;
	const char *user;
	struct progress progress;
	int fd;	      // of the file under way
	int io_error; // of reading or writing it
	uint64_t files, bytes;
	json_t *modes; // uploaded: {"755": [path...]}, set at the end
};

// For http_call.tick: progress, and an end after Ctrl-C.
int copy_tick(void *copy);
int copy_interrupted(struct err *e); // 0, or ERR_CANCELED after Ctrl-C
void copy_warn(struct copy *x, const char *path, const char *why);
// "/files?path=..." of the agent. Owned by the caller.
int copy_files_path(const struct copy *x, const char *path, char **ret);
// {"path": path} to a method of the file system service.
int copy_fs_call(struct copy *x, const char *method, const char *path, json_t **ret, struct err *e);
// Of an entry as the service describes it.
bool copy_is_type(const json_t *entry, const char *type);
mode_t copy_mode_of(const json_t *entry, mode_t otherwise);
const char *copy_base_name(const char *path);
char *copy_without_slashes(const char *path); // at its end; owned by the caller
