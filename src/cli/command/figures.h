// SPDX-License-Identifier: Apache-2.0
// What bench has measured, and how it is printed.
#pragma once
#include "cli/base/api.h"

enum figure {
	F_CREATE,
	F_CREATE_EXEC,
	F_EXEC,
	F_PAUSE,
	F_RESUME,
	F_RESUME_EXEC,
	F_FORK_FIRST,
	F_FORK,
	F_SNAPSHOT,
	F_SPAWN,
	F_MAX,
};
extern const char *const figure_names[F_MAX]; // as people read them, and of "pause": the call

struct figures {
	const char *template; // NULL: the server's default
	uint64_t runs, children, dirty_mib;
	uint64_t *samples[F_MAX]; // microseconds, runs of each
	size_t n[F_MAX];
	json_t *phases[F_MAX]; // one array a sample where the API has phases
};

// The server's own account of its machine; kernel and processor are of the machine we run on.
int figures_machine(struct cli *c, json_t **ret, struct err *e);
// Sorts the samples. 0 or -errno.
int figures_print(const struct cli *c, struct figures *f, json_t *machine);
