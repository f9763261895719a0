// SPDX-License-Identifier: Apache-2.0
// What a client configures before the guest starts, read from request bodies with Firecracker's
// rules. Error texts go to the client as they are.
#pragma once
#include <jansson.h>
#include "base/err.h"
#include "fcqemu/body.h"

#define CONFIG_VERSION "1.16.1-fcqemu"
#define CONFIG_DRIVES_MAX 14u // with the interfaces and entropy, all usable slots of QEMU's microvm
#define CONFIG_NICS_MAX 8u
#define CONFIG_BOOT_ARGS_MAX 2048u

struct drive {
	char *id, *path, *partuuid, *cache_type;
	bool root, read_only;
};

struct nic {
	char *id, *tap, *mac;
	uint64_t mtu; // 0: not told to the guest
	int tap_fd;   // open from the moment it was configured
};

struct config {
	uint64_t vcpus, memory_mib;
	bool track_dirty; // kept for the answers: fcqemu always tracks
	char *kernel, *initrd, *boot_args;
	struct drive drives[CONFIG_DRIVES_MAX]; // the root first
	size_t n_drives;
	struct nic nics[CONFIG_NICS_MAX];
	size_t n_nics;
	bool entropy;
};

// Opens a tap for QEMU; the descriptor or -errno.
typedef int (*config_open_tap_fn)(const char *name, struct err *e);

void config_init(struct config *c);
void config_done(struct config *c);

extern const struct body_shape config_machine_shape, config_machine_patch_shape, config_boot_shape,
	config_drive_shape, config_drive_patch_shape, config_nic_shape, config_nic_patch_shape,
	config_entropy_shape, config_override_shape, config_state_shape;

// Each takes a body of its shape. All return 0 or -errno with the client's text, the configuration
// unchanged then.
int config_put_machine(struct config *c, const json_t *body, struct err *e);
int config_patch_machine(struct config *c, const json_t *body, struct err *e);
int config_put_boot(struct config *c, const json_t *body, struct err *e);
// Before the start, which fails so: PUT /boot-source takes any file.
int config_check_kernel(const struct config *c, struct err *e);
int config_put_drive(struct config *c, const json_t *body, struct err *e);
int config_put_nic(
	struct config *c, config_open_tap_fn open_tap, const json_t *body, struct err *e);
int config_put_entropy(struct config *c, const json_t *body, struct err *e);

// PATCH /drives: the drive, and the path asked for, owned by the caller.
int config_read_drive_patch(const struct config *c, const json_t *body, struct drive **ret,
	char **ret_path, struct err *e);
// PATCH /network-interfaces: nothing in it can be honoured; the error says why.
int config_read_nic_patch(const struct config *c, const json_t *body, struct err *e);
struct drive *config_find_drive(const struct config *c, const char *id);

// Letters, digits and '_'.
int config_check_id(const char *id, struct err *e);

// The machine as a state file keeps it, and back: as strict as the API, but no file and no tap is
// opened. NULL when out of memory.
json_t *config_state_json(const struct config *c);
int config_read_state(const json_t *o, struct config *ret, struct err *e);
// Opens the taps of a machine from a state file; overrides (may be NULL): the array of a load's
// network_overrides. Drives are checked to be there.
int config_open_backends(
	struct config *c, config_open_tap_fn open_tap, const json_t *overrides, struct err *e);

json_t *config_machine_json(const struct config *c);
json_t *config_json(const struct config *c); // GET /vm/config
