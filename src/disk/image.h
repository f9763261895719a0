// SPDX-License-Identifier: Apache-2.0
// Guest images: building kernel, initramfs and root file system into a cache, installing them into
// a data directory as a template, and reading templates back.
//
//	<cache>/{kernel,initrd,rootfs}-<hash of all input>/	pieces, complete or absent
//	<data>/kernels/<id>/{vmlinux,initrd,config.json}	id: SHA-256 over both files' hashes
//	<data>/templates/<name>/{template.json,rootfs.<hash>.img}
//
// template.json is replaced by rename and names its root file system, so a template is the old one
// or the new one at any moment. What an interrupted build leaves is removed by the next one.
#pragma once
#include <limits.h>
#include <signal.h>
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

// percent over the whole build, 0 to 100; text is one line.
typedef void (*image_progress_fn)(void *ctx, unsigned percent, const char *text);

struct image_build_config {
	const char *data_dir;
	const char *cache_dir; // NULL: $STASIS_CACHE, else PATH_CACHE_DEFAULT
	const char *name;      // NULL: "base"
	bool force;	       // builds kernel and root file system anew (newer Debian packages)
	// NULL: found by paths_find ("stasis-init", "envd", "images").
	const char *init_program, *envd_program, *scripts_dir;
	image_progress_fn progress; // may be NULL
	void *progress_ctx;
	const volatile sig_atomic_t *cancel; // non-zero: ends soon, -ECANCELED; may be NULL
};

// Builds what the cache lacks and installs the template. Waits for another build in the same cache.
// With a warm cache and an unchanged template nothing is copied. Undone on error.
int image_build(const struct image_build_config *c, struct image_info *ret, struct err *e);
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
