// SPDX-License-Identifier: Apache-2.0
// What an operation left that was cut off by the end of a server is finished or undone: the way an
// operation fails, with the journal's entry in place of its memory. A shim that is alive is never
// ended for not answering: the sandbox stays as it is, says why, and is asked again until it
// answers.
#pragma once
#include "sandbox/table/table.h"

// What the journal says of the sandbox's open operation; all empty: it had none. A sandbox has two
// of them in an array: a destroy does not wait for what it cuts off, which is then the second one.
struct unsettled {
	char kind[24], id[UUID_SIZE], snapshot[UUID_SIZE], layer[UUID_SIZE];
	bool full; // full_next of before
	// Of a resume whose snapshot is resumed once: what its machine was to have.
	bool once;
	char token[96];
	uint64_t ends_at_ns;
	unsigned tries;
};
void unsettled_read(const char *kind, const char *id, const char *data, struct unsettled *ret);
// In the background, of a sandbox that is claimed and has s->unsettled, whose layer is held; all
// that ends with it.
int settle_later(struct host *h, struct sandbox *s);
