// SPDX-License-Identifier: Apache-2.0
// What the tests of the shim share: a temporary directory with a network namespace, a disk, a
// kernel file and the runtime of the dummy VMM; sandboxes in it; the comparison at the end.
#pragma once
#include "shim/shim.h"

// WORLD_UID: user of the first sandbox, of each test program another (meson.build); each sandbox
// has its own.

struct world {
	char dir[64];
	char *run, *netns, *kernel, *runtime;
	char *shim, *dummy; // programs under test
	uint32_t next_uid;
};

struct box {
	struct shim_spec spec;
	struct shim_bind binds[4];
	char id[32];
	char *dir, *console, *disk;
	struct shim_state state;
	int pidfd; // -1: not started
};

// A tree below <base>/runtime; *ret_dir is the caller's.
int world_tree(const char *base, const char *const *programs, const char *const *extra,
	char **ret_dir, struct err *e);
int world_init(struct world *w, const char *shim_program, const char *dummy_program);
// Checks that nothing is left: no mount below the directory, no process of a sandbox's uid, no
// sandbox directory. Then removes all.
int world_done(struct world *w);

// A sandbox that runs the dummy with these further arguments (NULL-terminated, kept).
void box_init(struct box *b, struct world *w, const char *const *vmm_argv);
int box_start(struct box *b, const struct world *w, int timeout_ms, struct err *e);
// One command to the dummy VMM through the API socket; the answer, owned by the caller. NULL when
// the VMM ended instead.
char *box_ask(struct box *b, const char *command);
// Waits until the shim has ended (10 s); false: still there.
bool box_wait_gone(struct box *b);
void box_done(struct box *b); // stops it, and checks that its directory is gone

size_t world_count_processes(uint32_t uid);
