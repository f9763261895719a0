// SPDX-License-Identifier: Apache-2.0
// For the histories of tests, which have no counts (sandbox/table/refs.h): collection of layers by
// reachability: a layer stays while a header names it or the journal does.
// No grace time, and safe to kill at any point.
#pragma once
#include "base/err.h"

struct collect_roots {
	// Headers besides those of all snapshots (base.hdr of each sandbox that is not stopped),
	// relative to the data directory. Called once; the array and its strings are freed.
	int (*headers)(void *ctx, char ***ret_paths, size_t *ret_n, struct err *e);
	// Is a layer with this id named by an open journal entry?
	bool (*named)(void *ctx, const char *id);
	void *ctx;
};

struct collect_stats {
	uint64_t kept, removed, removed_bytes; // bytes: blocks given back
};

// Removes the layers below <data>/layers that nothing reaches, half-made ones included. Any root
// that cannot be read ends it before anything is removed. The order is the point: first the layers
// are listed, then the journal is asked about each, then the headers are read. So an operation is
// safe that names its layers in the journal before it makes or relies on them, and whose header is
// in place before the entry is closed.
int collect_layers(
	int data_fd, const struct collect_roots *roots, struct collect_stats *ret, struct err *e);
