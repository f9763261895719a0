// SPDX-License-Identifier: Apache-2.0
// What a request at the edge is for, read from what its client sent.
#pragma once
#include "base/macro.h"

struct edge_target {
	char id[64]; // "" when malformed
	uint16_t port;
};

// The header's id and port (either may be NULL or empty), else "{port}-{id}.<domain>" as nginx's
// $host gives it: lower case, without a port. NULL when good, else the name of the refusal.
const char *target_parse(const char *id, const char *port, const char *host, const char *domain,
	struct edge_target *ret);
// Paths of the agent that only the host may ask: compared after decoding and removing "." and "..",
// more generously than the agent itself matches. NULL: a path that was too long to be told, true.
bool target_is_internal_path(const char *uri);
