// SPDX-License-Identifier: Apache-2.0
// Building kernel, initramfs and root file system into a cache, and installing them into a data
// directory as a template. What an interrupted build leaves is removed by the next one.
//
//	<cache>/{kernel,initrd,rootfs}-<hash of all input>/	pieces, complete or absent
#pragma once
#include <signal.h>
#include "disk/image.h"

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
