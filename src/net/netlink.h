// SPDX-License-Identifier: Apache-2.0
// The few rtnetlink and ctnetlink requests that slots need, over libmnl.
//
// A socket belongs to the network namespace of the thread that opens it, wherever it is used
// afterwards. Requests are collected and go to the kernel together in netlink_commit(), which
// handles them in order and answers each; one that fails does not stop those behind it.
#pragma once
#include "net/cidr.h"

#define MAC_SIZE 6

struct netlink;

int netlink_open(struct netlink **ret, struct err *e);
struct netlink *netlink_free(struct netlink *n);
DEFINE_CLEANUP(struct netlink *, netlink_free)
#define _cleanup_netlink_ _cleanup_(netlink_freep)

// Sends what was added; fails with the first request that failed. Empty again afterwards.
int netlink_commit(struct netlink *n, struct err *e);

// Names are copied. A pair with its peer in the namespace of the descriptor; both ends are down.
void netlink_add_veth(struct netlink *n, const char *name, const uint8_t mac[MAC_SIZE],
	const char *peer, const uint8_t peer_mac[MAC_SIZE], int peer_netns);
void netlink_set_up(struct netlink *n, unsigned ifindex, const uint8_t *mac /* NULL: kept */);
void netlink_del_link(struct netlink *n, const char *name); // -ENODEV when there is none
void netlink_add_address(struct netlink *n, unsigned ifindex, const struct cidr *address);
void netlink_add_default_route(struct netlink *n, unsigned ifindex, uint32_t gateway);
// An entry that never expires and is never asked for on the wire.
void netlink_add_neighbour(
	struct netlink *n, unsigned ifindex, uint32_t ip, const uint8_t mac[MAC_SIZE]);
// "unreachable <dst>": what no more specific route takes fails at once instead of leaving the host.
void netlink_add_unreachable(
	struct netlink *n, const struct cidr *dst, uint8_t protocol, uint32_t metric);
void netlink_del_unreachable(
	struct netlink *n, const struct cidr *dst, uint8_t protocol, uint32_t metric);

struct netlink_route {
	struct cidr dst;
	unsigned oif; // 0: none
	unsigned type, protocol;
	uint32_t metric;
	bool gateway; // by way of another router
};
// Each calls back for all there is in the socket's namespace; a negative return of the callback
// ends the walk and is returned.
typedef int (*netlink_route_fn)(const struct netlink_route *r, void *arg);
typedef int (*netlink_link_fn)(unsigned ifindex, const char *name, void *arg);
typedef int (*netlink_address_fn)(unsigned ifindex, const struct cidr *address, void *arg);
int netlink_each_route(struct netlink *n, netlink_route_fn fn, void *arg, struct err *e);
int netlink_each_link(struct netlink *n, netlink_link_fn fn, void *arg, struct err *e);
int netlink_each_address(struct netlink *n, netlink_address_fn fn, void *arg, struct err *e);

// Forgets all tracked connections of the calling thread's namespace.
int netlink_flush_conntrack(struct err *e);
