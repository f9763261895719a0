// SPDX-License-Identifier: Apache-2.0
// Client of Firecracker's HTTP API over its Unix socket; the one VMM interface. fcqemu speaks the
// same. Errors carry method, path, status and body: "PUT /drives/rootfs: status 400:
// {"fault_message": ...}". Each kind of call has its own time-out. Fields that only newer versions
// know are sent only to those (shared reference: Firecracker API table 1.5).
#pragma once
#include "base/err.h"
#include "vmm/version.h"

struct vmm;

struct vmm_machine {
	unsigned vcpus; // 1..32
	unsigned memory_mib;
	bool track_dirty;
};

struct vmm_boot {
	const char *kernel, *initrd; // paths in the jail
	const char *args;	     // how the guest resets is for vmm_put_boot to say
};

struct vmm_drive {
	const char *id, *path;
	bool root, read_only;
};

struct vmm_net {
	const char *id, *tap, *mac;
};

enum vmm_backend { VMM_BACKEND_FILE, VMM_BACKEND_UFFD };

struct vmm_load {
	const char *state_path;
	enum vmm_backend backend;
	const char *backend_path; // memory file, or the pager's socket
	bool track_dirty, resume;
};

enum vmm_state { VMM_NOT_STARTED, VMM_RUNNING, VMM_PAUSED };

// Connects lazily. One thread at a time.
int vmm_new(const char *socket_path, struct vmm **ret, struct err *e);
struct vmm *vmm_free(struct vmm *v);
DEFINE_CLEANUP(struct vmm *, vmm_free)

int vmm_get_version(struct vmm *v, struct vmm_version *ret, struct err *e); // asked once, then kept
int vmm_get_state(struct vmm *v, enum vmm_state *ret, struct err *e);
// The same, from a VMM that may still be at work on a snapshot it was told to make.
int vmm_wait_idle(struct vmm *v, enum vmm_state *ret, struct err *e);
// The machine, whose processor has no virtualisation of its own.
int vmm_put_machine(struct vmm *v, const struct vmm_machine *m, struct err *e);
int vmm_put_boot(struct vmm *v, const struct vmm_boot *b, struct err *e);
int vmm_put_drive(struct vmm *v, const struct vmm_drive *d, struct err *e);
int vmm_patch_drive(struct vmm *v, const char *id, const char *path, struct err *e);
int vmm_put_net(struct vmm *v, const struct vmm_net *n, struct err *e);
int vmm_put_entropy(struct vmm *v, struct err *e);
int vmm_start(struct vmm *v, struct err *e);
int vmm_pause(struct vmm *v, struct err *e);
int vmm_resume(struct vmm *v, struct err *e);
// diff false: Full. mem_path and state_path as the VMM sees them.
int vmm_snapshot_create(
	struct vmm *v, const char *state_path, const char *mem_path, bool diff, struct err *e);
int vmm_snapshot_load(struct vmm *v, const struct vmm_load *l, struct err *e);
