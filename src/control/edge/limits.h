// SPDX-License-Identifier: Apache-2.0
// What the edge takes at once.
#pragma once

// Of requests under way at once, and of requests a second; after a pause four times as many of an
// address, twice as many to a sandbox, may come at once. Beyond them they are answered 429. 0: no
// limit.
struct edge_limits {
	// Of one address (IPv6: one /64), that show no API key or token of the sandbox.
	unsigned address_connections, address_rate;
	// To one sandbox.
	unsigned sandbox_connections, sandbox_rate;
};
#define EDGE_LIMITS_DEFAULT                                                                        \
	((struct edge_limits){                                                                     \
		.address_connections = 128,                                                        \
		.address_rate = 300,                                                               \
		.sandbox_connections = 512,                                                        \
		.sandbox_rate = 1000,                                                              \
	})
// To one sandbox's agent at once; the agent takes more (envd.c).
#define EDGE_AGENT_CONNECTIONS 192u
