// SPDX-License-Identifier: Apache-2.0
// cp out of a sandbox.
#pragma once
#include "cli/command/copy.h"

// A file or a directory with all that is in it; local "-": standard output.
int copy_out(struct copy *x, const char *remote, const char *local, struct err *e);
