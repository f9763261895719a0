// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "sandbox/table/table.h"

// hidden NULL: a sandbox as anybody's. Else one that nobody asked for (freeze.c): it is not listed
// or watched, its journal entry stays open with this text, and it stays claimed.
int create_sandbox(struct host *h, const struct host_create *req, const char *hidden,
	struct host_sandbox *ret, struct err *e);
