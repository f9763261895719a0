// SPDX-License-Identifier: Apache-2.0
// Snapshots of the guest: state file and memory file, written and loaded.
#pragma once
#include "fcqemu/qemu.h"

struct snapshot_create {
	const char *state_path, *mem_path;
	bool diff;
};

struct snapshot_load {
	const char *state_path;
	bool uffd;
	const char *backend_path;    // memory file, or the page server's socket
	const json_t *net_overrides; // an array, or NULL
};

// The guest is stopped. Both files are written beside their places (.tmp), fsynced, and renamed,
// the memory last: where mem_path exists, both are whole. Only then does the tracking begin anew;
// after an error it is as it was, and so is the guest. What was at the two paths is replaced.
int snapshot_create(struct qemu *q, const struct qemu_options *o, const struct config *c,
	const struct snapshot_create *s, struct err *e);
// Starts QEMU with the machine of the state file; the guest stays stopped. *ret: that machine,
// owned by the caller. On an error no process is left.
int snapshot_load(struct qemu *q, const struct qemu_options *o, const struct snapshot_load *l,
	config_open_tap_fn open_tap, struct config *ret, struct err *e);
