// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "sandbox/capture/capture.h"

struct checkpoint {
	const char *kind;	   // of the snapshot's row
	const char *op;		   // of the journal's entry
	const char *fault;	   // point before the commit
	const char *done, *failed; // kinds of the event
};
// A snapshot of a running sandbox, which goes on before this returns, also on failure. snapshot
// NULL: a new id, in ret->info.id. data is taken over: what the event says besides the times.
int checkpoint(struct host *h, struct sandbox *s, const struct checkpoint *k, const char *op_id,
	const char *snapshot, json_t *data, struct store_snapshot *ret, struct err *e);
