// SPDX-License-Identifier: Apache-2.0
// Links that take the place of what is there, in one step. 0 or -errno; -EISDIR where that is a
// directory.
#pragma once
#include "base/macro.h"

int link_symbolic(int dir, const char *name, const char *target);
// To a regular file (-EINVAL for anything else). Where the file system has no hard links: a copy.
int link_hard(int dir, const char *name, int from_dir, const char *from);
