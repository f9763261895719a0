// SPDX-License-Identifier: Apache-2.0
// What is written to host.db besides a sandbox.
#pragma once
#include "sandbox/table/host.h"

// data is borrowed.
struct store_event {
	const char *kind, *cause;
	json_t *data;
	const struct err
		*failed; // the operation failed: it will be told so again; NULL: it did not
};

struct store_snapshot {
	struct host_snapshot info;
	char token[96];	    // that the agent in the frozen guest knows
	char image_key[65]; // of a frozen base image, else ""
};
