// SPDX-License-Identifier: Apache-2.0
#include "cli/command/nested.h"
#include <fcntl.h>
#include "base/file.h"

const char *nested_module(const char *modules)
{
	static const char *const names[] = {"kvm_amd", "kvm_intel"};
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		_cleanup_free_ char *path =
			str_printf("%s/%s/parameters/nested", modules, names[i]);
		_cleanup_free_ char *value = NULL;
		// A truth is "Y" or "N", of older kernels a number.
		if (path && file_read_line(AT_FDCWD, path, &value) == 0 &&
			(str_eq(value, "Y") || str_eq(value, "1")))
			return names[i];
	}
	return NULL;
}
