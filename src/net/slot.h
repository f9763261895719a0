// SPDX-License-Identifier: Apache-2.0
// Network slots: one network namespace each, all alike inside, so that any snapshot can wake in any
// slot.
//
//	guest eth0 169.254.0.21/30 ── tap0 169.254.0.22/30 [slot's namespace] vethS ═══ stN [host]
//	the slot's host-side /31 out of the range: host = even address, slot = odd address
//
// In the namespace: DNAT of everything that arrives for the slot's address to the guest, masquerade
// the other way, and the first nft text denies the guest the host, other slots, private,
// link-local, metadata, multicast addresses and IPv6. On the host: one nft table "stasis" with
// masquerade and the same denial seen from outside (a guest that breaks its namespace gains
// nothing).
//
// Slots are made ahead in a pool, over netlink in-process (no "ip" processes), with "nft -f -" once
// per slot. Names of host-side things carry the pool's prefix so that leftovers are found again at
// start.
#pragma once
#include <netinet/in.h>
#include "base/err.h"

#define SLOT_GUEST_IP "169.254.0.21"
#define SLOT_GATEWAY_IP "169.254.0.22"
#define SLOT_GUEST_PREFIX 30
#define SLOT_GUEST_MAC "06:00:a9:fe:00:15"
#define SLOT_GATEWAY_MAC "06:00:a9:fe:00:16"
#define SLOT_TAP_NAME "tap0"

struct slot {
	unsigned index;
	char netns[160];	       // path of the namespace's bind mount, <run>/netns/<index>
	char host_if[16];	       // "st<index>", the host's end of the veth pair
	char address[INET_ADDRSTRLEN]; // the slot's address: the guest's ports are reached there
};

struct slot_pool_config {
	const char *run_dir; // netns bind mounts go to <run_dir>/netns
	const char *range;   // CIDR, "10.213.0.0/16"; checked against the host's routes at start
	unsigned warm;	     // slots kept ready
	unsigned max;	     // slots at all, at most half the range
	uint32_t uid_base;   // slot N's tap is owned by uid uid_base + N
	const char *const *allow; // CIDRs that guests may reach although the policy denies them;
				  // NULL-terminated
};

struct slot_pool;
// Checks the range, writes the host's table, enables forwarding for the slot interfaces only,
// removes leftovers of an earlier run except the slots whose indexes are in keep[] (sandboxes to be
// adopted), and starts the thread that keeps the pool warm.
int slot_pool_new(const struct slot_pool_config *cfg, const unsigned *keep, size_t n_keep,
	struct slot_pool **ret, struct err *e);
// Removes all slots that are not taken; taken ones stay (their sandboxes outlive the server).
struct slot_pool *slot_pool_free(struct slot_pool *p);
// A ready slot, made on the spot when the pool is empty. ERR_LIMIT when max is reached.
int slot_pool_take(struct slot_pool *p, struct slot *ret, struct err *e);
// The slot of a sandbox that is being adopted (index in keep[]); fails when its namespace is gone.
int slot_pool_adopt(struct slot_pool *p, unsigned index, struct slot *ret, struct err *e);
// After the sandbox is gone: conntrack flushed, counters reset, back to the pool; a slot that can't
// be cleaned is destroyed and replaced.
void slot_pool_give(struct slot_pool *p, const struct slot *s);
void slot_pool_stats(struct slot_pool *p, unsigned *ret_ready, unsigned *ret_taken);
// Removes everything of that run_dir and range: for "setup remove" and tests.
int slot_cleanup_all(const char *run_dir, struct err *e);
// For doctor and bench: makes and removes one slot, *ret_ns is the time of the making.
int slot_probe(const struct slot_pool_config *cfg, uint64_t *ret_ns, struct err *e);
