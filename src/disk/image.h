// SPDX-License-Identifier: Apache-2.0
// Guest images as they lie in a data directory: reading them, and removing what nobody needs.
// image_build.h makes them.
//
//	<data>/kernels/<id>/{vmlinux,initrd,config.json}	id: SHA-256 over both files' hashes
//	<data>/templates/<name>/{template.json,rootfs.<hash>.img}
//
// template.json is replaced by rename and names its root file system, so a template is the old one
// or the new one at any moment.
#pragma once
#include <jansson.h>
#include <limits.h>
#include "base/err.h"
#include "base/hash.h"

#define IMAGE_FORMAT_VERSION 1
#define IMAGE_NAME_SIZE 64

// All paths are relative to the data directory.
struct image_info {
	char name[IMAGE_NAME_SIZE];
	char kernel_id[SHA256_HEX_SIZE];
	char vmlinux[128], initrd[128], rootfs[160];
	char rootfs_sha256[SHA256_HEX_SIZE];
	uint64_t rootfs_bytes;
	unsigned vcpus;		// when a create asks for no other
	uint64_t memory_mb;	// same
	uint64_t disk_mb;	// same; the root file system fills this many already
	uint64_t min_memory_mb; // below this the guest does not boot
	char boot_args[512];	// for every VMM; console, root and clock are the VMM's to add
	char kernel_release[64];
	char created_at[32]; // RFC 3339
};

// Reads a template and checks that its files are there with the sizes recorded. ERR_NOT_FOUND,
// ERR_INVALID for a name that cannot be one, ERR_INTERNAL for a damaged one.
int image_load(const char *data_dir, const char *name, struct image_info *ret, struct err *e);
// All templates by name; damaged ones are left out and counted. *ret is freed by the caller.
int image_list(const char *data_dir, struct image_info **ret, size_t *ret_n, size_t *ret_damaged,
	struct err *e);
// Removes kernels that neither a template nor used() names, and leftovers of interrupted builds.
int image_collect(const char *data_dir, bool (*used)(void *ctx, const char *kernel_id), void *ctx,
	struct err *e);

// The text of a template.json, without a look at its files; the kernel's fields but its id stay
// empty. For image_load and the fuzzer.
int image_parse_template(const char *text, size_t len, struct image_info *ret, struct err *e);

// --- steps, also of building

// Reads a file that must hold one JSON object; owned by the caller.
int image_read_json(int dir, const char *path, json_t **ret, struct err *e);
// Sets the fields that come from the kernel; checks that its files are there, sizes as recorded.
int image_load_kernel(int dir, const char *id, struct image_info *i, struct err *e);
// Waits for and takes the lock of all changes to templates and kernels; descriptor or -errno.
int image_lock(int data_fd, struct err *e);
// Removes all entries of the directory that keep() does not claim. A missing directory is empty.
int image_sweep(int dir, const char *path, bool (*keep)(void *ctx, const char *name), void *ctx,
	struct err *e);
