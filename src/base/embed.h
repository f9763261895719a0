// SPDX-License-Identifier: Apache-2.0
// Files compiled into a program by tools/embed.py, as tables that end with a NULL name. A table is
// declared where it is used.
#pragma once
#include <stddef.h>

struct embed {
	const char *name;
	const char *data; // followed by a NUL
	size_t len;
};
