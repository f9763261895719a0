// SPDX-License-Identifier: Apache-2.0
// What guests may reach: the nft texts of a slot's namespace and of the host.
#pragma once
#include "base/str.h"
#include "net/cidr.h"
#include "net/resolvers.h"

// Networks that guests never reach unless allowed one by one: everything that is not the public
// internet. The slot range and the host itself are denied besides, whatever is allowed.
extern const char *const policy_denied[]; // NULL-terminated

// Users that may connect to guests at their slots' addresses, besides root.
#define POLICY_USERS_MAX 16

struct policy {
	struct cidr range; // of all slots of the pool
	const struct cidr *allow;
	size_t n_allow;
	uint32_t users[POLICY_USERS_MAX];
	size_t n_users;
};

// host and slot are the two ends of the slot's veth pair. table is made by one transaction: whole
// or not at all.
void policy_slot_text(struct strbuf *out, const struct policy *p, uint32_t host, uint32_t slot);
// Replaces the table if it exists. prefix: what the names of the slots' host interfaces begin with.
void policy_host_text(
	struct strbuf *out, const struct policy *p, const char *table, const char *prefix);
// Those that guests cannot reach without a rule of their own: they are in a network that is denied,
// or this machine itself.
void policy_behind_wall(const struct resolvers *r, struct resolvers *ret);
// The resolvers behind the wall that one guest may ask: replaces those of the slot's table, and old
// by now in that of the host. iface: the slot's host interface.
void policy_slot_resolvers_text(struct strbuf *out, const struct resolvers *r);
void policy_host_resolvers_text(struct strbuf *out, const char *table, const char *iface,
	const struct resolvers *old, const struct resolvers *now);
// Gives the text to nft in the calling thread's namespace.
int policy_apply(const struct strbuf *text, struct err *e);
int policy_remove(const char *table, struct err *e); // a missing table is success
