// SPDX-License-Identifier: Apache-2.0
// cp into a sandbox.
#pragma once
#include "cli/command/copy.h"

// A file or a directory with all that is in it; local "-": standard input.
int copy_in(struct copy *x, const char *local, const char *remote, struct err *e);
