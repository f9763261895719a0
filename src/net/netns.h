// SPDX-License-Identifier: Apache-2.0
// Network namespaces by name: a bind mount of the namespace's file keeps it alive without a
// process.
#pragma once
#include "base/err.h"

typedef int (*netns_fn)(void *arg, struct err *e);

// Runs fn on a thread of its own inside the namespace of the descriptor, or inside a new one when
// netns is -1, and waits. The caller's namespace never changes. Children started by fn are inside
// too.
int netns_run(int netns, netns_fn fn, void *arg, struct err *e);
// The namespace's file; -ENOENT also when something else is at that path.
int netns_open(const char *path);
// Binds the calling thread's namespace to path, which is made; nothing is left there on failure.
int netns_bind(const char *path, struct err *e);
// The name is gone at once; the namespace ends with its last process and descriptor.
int netns_unbind(const char *path, struct err *e);
// Makes dir a mount point for the names, with shared propagation as "ip netns" does: a name removed
// here goes from the mount namespaces of other processes too, which would keep it alive.
int netns_dir_make(const char *dir, struct err *e);
int netns_dir_remove(const char *dir, struct err *e); // must be empty
