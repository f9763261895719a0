// SPDX-License-Identifier: Apache-2.0
// A new sandbox: asked for by a user, a child of a fork, or one that boots to be prewarmed.
#pragma once
#include "sandbox/life/operation.h"

// A new sandbox in the table, claimed for an operation. hidden: nobody asked for it, it is not
// listed or watched. 1 with *ret filled: this very operation has made it. ERR_LIMIT when the host
// is full.
int create_insert(struct host *h, const struct operation_kind *kind, const char *op_id,
	const struct host_sandbox *info, bool hidden, struct operation *ret_o,
	struct host_sandbox *ret, struct err *e);
// After a failure: it goes from the table and the database, as soon as nothing of it is left.
void create_forget(struct operation *o);
int create_sandbox(
	struct host *h, const struct host_create *req, struct host_sandbox *ret, struct err *e);
