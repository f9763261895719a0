// SPDX-License-Identifier: Apache-2.0
// VMMs that snapshots keep, for doctor: read from the data directory, where no server need run.
#pragma once
#include "base/err.h"

struct kept {
	unsigned vmms, snapshots; // other ones than this machine's; snapshots that hold them
	uint64_t oldest_ns;	  // the oldest of these
	char example[64];	  // "qemu 7.2.9"
};

// version: of this machine's program (NULL: none), package: that it is from ("": not known).
struct kept_host {
	const char *program, *version; // "qemu", "7.2.22"
	char package[128];
};
int kept_look(const char *data_dir, const struct kept_host *here, size_t n, struct kept *ret,
	struct err *e);
