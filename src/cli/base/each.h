// SPDX-License-Identifier: Apache-2.0
// A command of several operands does the same with each.
#pragma once
#include "base/err.h"
#include "cli/base/command.h"

typedef int each_call(struct cli *c, const char *operand, const void *ctx, struct err *e);

// All are tried. The first failure is the command's, further ones are told at once. force: one that
// is not there is no failure.
int each_operand(struct cli *c, bool force, each_call *call, const void *ctx, struct err *e);
