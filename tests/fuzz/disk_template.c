// SPDX-License-Identifier: Apache-2.0
// image_parse_template on any text: what it takes names files below the data directory only.
#include <string.h>
#include "disk/image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct image_info i;
	struct err e = {0};
	if (image_parse_template((const char *)data, size, &i, &e) < 0)
		return 0;
	if (strncmp(i.rootfs, "templates/", 10) != 0 || strstr(i.rootfs, "/..") ||
		strchr(i.kernel_id, '/'))
		abort();
	if (i.vcpus == 0 || i.memory_mb < i.min_memory_mb || i.rootfs_bytes > i.disk_mb << 20)
		abort();
	return 0;
}
