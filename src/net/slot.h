// SPDX-License-Identifier: Apache-2.0
// Network slots: one network namespace each, all alike inside, so that any snapshot can wake in any
// slot.
//
//	guest eth0 169.254.0.21/30 ── tap0 169.254.0.22/30 [namespace] veth0 ═══ st…-N [host]
//	the veth pair has a /31 out of the range: host = even address, slot = odd address
//
// Into the guest leads one way: connections that this host makes to the slot's address. The guest
// sees its gateway as their source. Out of it leads masquerading to the public internet; the host,
// other slots, private, link-local, metadata, multicast addresses and IPv6 are denied twice, by
// tables in the namespace and of the host (policy.c has both).
//
// Slots are made ahead in a pool, over netlink in-process (no "ip" processes), with "nft -f -" once
// per slot. Names of host-side things (interfaces "st3fa9c1-N", the table "inet stasis_3fa9c1", the
// metric of the range's "unreachable" route) carry six digits of a hash of run_dir: pools of
// different servers live side by side, and leftovers are found again at start.
//
// Needs root, the program nft, tun, veth. Not undone: forwarding stays switched on for the
// interfaces that lead to other networks (where net.ipv4.ip_forward is off).
#pragma once
#include <netinet/in.h>
#include "base/err.h"
#include "net/resolvers.h"

#define SLOT_GUEST_IP "169.254.0.21"
#define SLOT_GATEWAY_IP "169.254.0.22"
#define SLOT_GUEST_PREFIX 30
#define SLOT_GUEST_MAC "06:00:a9:fe:00:15"
#define SLOT_GATEWAY_MAC "06:00:a9:fe:00:16"
#define SLOT_TAP_NAME "tap0"
#define SLOT_VETH_NAME "veth0" // the slot's end of the veth pair, in its namespace

struct slot {
	unsigned index;
	char netns[160];	       // path of the namespace's bind mount, <run>/netns/<index>
	char host_if[16];	       // "st3fa9c1-<index>", the host's end of the veth pair
	char address[INET_ADDRSTRLEN]; // the slot's address: the guest's ports are reached there
};

struct slot_pool_config {
	const char *run_dir; // netns bind mounts go to <run_dir>/netns
	const char *range;   // CIDR, "10.213.0.0/16"; checked against the host's routes at start
	unsigned warm;	     // slots kept ready
	unsigned max;	     // slots at all, at most half the range
	uint32_t uid_base;   // slot N's tap is owned by uid uid_base + N
	// CIDRs that guests may reach although the policy denies them; NULL-terminated, may be
	// NULL. The host and other slots stay denied in any case. Adopted slots keep what they had.
	const char *const *allow;
	const struct resolvers *usual; // see slot_pool_resolvers; may be NULL
	// Users of this host that may connect to guests, besides root: the edge's workers, a
	// control plane of its own. At most 16 (POLICY_USERS_MAX).
	const uint32_t *users;
	size_t n_users;
};

struct slot_pool;
// Checks the range, writes the host's table, enables forwarding for the slot interfaces only,
// removes leftovers of an earlier run except the slots whose indexes are in keep[] (sandboxes to be
// adopted), and starts the thread that keeps the pool warm.
int slot_pool_new(const struct slot_pool_config *cfg, const unsigned *keep, size_t n_keep,
	struct slot_pool **ret, struct err *e);
// Removes all slots that are not taken; taken ones stay (their sandboxes outlive the server).
struct slot_pool *slot_pool_free(struct slot_pool *p);
// A ready slot, made on the spot when the pool is empty; where only resting ones are left, waits
// for one (3 s at most). ERR_LIMIT when max are in use.
int slot_pool_take(struct slot_pool *p, struct slot *ret, struct err *e);
// The slot of a sandbox that is being adopted (index in keep[]); ERR_NOT_FOUND when it was not
// whole at slot_pool_new, or has addresses of another range: then it was removed there.
int slot_pool_adopt(struct slot_pool *p, unsigned index, struct slot *ret, struct err *e);
// Lets the guest of a taken slot ask these on port 53, also those that the policy denies, and no
// others. The caller alone has the slot. usual: slots are opened ahead for them from now on, so
// that the next guest with this list does not wait for it. ERR_INVALID for an address of the range.
int slot_pool_resolvers(struct slot_pool *p, const struct slot *s, const struct resolvers *r,
	bool usual, struct err *e);
// After the sandbox is gone. Returns at once; the pool then removes the tap, forgets all tracked
// connections, lets the slot rest for 3 s, in which its address answers "host unreachable" (nobody
// who was just connecting to the old guest gets the next one), and makes a new tap. A slot that
// can't be cleaned is destroyed.
void slot_pool_give(struct slot_pool *p, const struct slot *s);
void slot_pool_stats(struct slot_pool *p, unsigned *ret_ready, unsigned *ret_taken);
// Removes everything of that run_dir, slots in use too: for "setup remove" and tests.
int slot_cleanup_all(const char *run_dir, struct err *e);
// For doctor and bench: checks the range, makes and removes one slot under link-local addresses of
// its own, beside running servers; *ret_ns is the time of the making.
int slot_probe(const struct slot_pool_config *cfg, uint64_t *ret_ns, struct err *e);
