// SPDX-License-Identifier: Apache-2.0
// A capture becomes a layer and a snapshot.
#pragma once
#include "sandbox/capture/capture.h"

// The layer, and c->header; may be repeated. dir: the sandbox's.
int capture_ingest(struct host *h, struct sandbox *s, struct capture *c, int dir, struct err *e);
// Layer and snapshot made durable, c->row filled in. On error the snapshot does not exist, unless
// c->published.
int capture_publish(
	struct host *h, struct sandbox *s, struct capture *c, uint64_t *since, struct err *e);
