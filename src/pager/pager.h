// SPDX-License-Identifier: Apache-2.0
// Serves the page faults of one VM from a memory image, until the VM ends.
#pragma once
#include "pager/stats.h"
#include "base/err.h"

struct pager_config {
	const char *socket;	 // where the VMM hands its memory over
	const char *header;	 // memory.hdr of the image
	const char *layers;	 // directory
	const char *working_set; // to load ahead; NULL: nothing
	const char *record;	 // where the working set of this run goes; NULL: nowhere
	const char *stats;	 // where the figures go, JSON; NULL: nowhere
	uint64_t prefetch_cap;	 // bytes loaded ahead and recorded at most; never above half the
				 // memory
	int timeout_ms;		 // for the VMM to connect, and again for the hand-shake
};

#define PAGER_PREFETCH_CAP (128ull << 20)
#define PAGER_TIMEOUT_MS 30000

// Returns 0 when the VM has ended or SIGTERM or SIGINT came; an error means that a page could not
// be served, and the VM, which may wait for it for ever, must be ended by the caller's supervisor.
// -EPROTO: the VMM did not come, or broke the hand-shake off; maybe it has ended.
// SIGUSR1: figures and record are written; the first one also ends the recording (the VM is ready).
// Blocks these signals for the calling thread.
int pager_run(const struct pager_config *cfg, struct err *e);
