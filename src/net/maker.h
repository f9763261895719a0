// SPDX-License-Identifier: Apache-2.0
// Makes, parks and removes single slots of one pool. No state but the configuration: what exists is
// read from the machine. Calls for different indexes may run at the same time.
#pragma once
#include "net/cidr.h"
#include "net/policy.h"
#include "net/slot.h"

#define SLOT_INDEX_MAX 32767

struct maker {
	char run_dir[120];
	char netns_dir[130]; // <run_dir>/netns
	char prefix[12];     // of host_if: "st3fa9c1-", from a hash of run_dir
	char table[20];	     // "stasis_3fa9c1"
	uint32_t hash;	     // metric of the range's route, which marks it as this pool's
	uint32_t uid_base;
	struct policy policy; // owns policy.allow
};

// Checks the configuration and makes run_dir; changes nothing else. Undo with maker_done.
int maker_init(struct maker *m, const struct slot_pool_config *cfg, struct err *e);
// Only the names, enough for maker_sweep and maker_host_remove. -ENOENT when run_dir is missing.
int maker_init_names(struct maker *m, const char *run_dir, struct err *e);
void maker_done(struct maker *m);

// The range against the host's routes; own leftovers do not count, nor, with any_pool, what belongs
// to any other pool.
int maker_check_range(const struct maker *m, bool any_pool, struct err *e);
// Mount point, route of the range, nft table, forwarding. Done again it brings them up to date.
int maker_host_make(const struct maker *m, struct err *e);
int maker_host_remove(const struct maker *m, struct err *e);

// How many slots the range and the names have room for.
unsigned maker_room(const struct maker *m);
void maker_describe(const struct maker *m, unsigned index, struct slot *ret);
int maker_make(const struct maker *m, unsigned index, struct err *e);
// After the guest is gone: no tap, no tracked connections. Callers of the slot's address get
// "host unreachable".
int maker_park(const struct maker *m, unsigned index, struct err *e);
int maker_unpark(const struct maker *m, unsigned index, struct err *e);
// Opens both walls to now and closes them to old.
int maker_set_resolvers(const struct maker *m, unsigned index, const struct resolvers *old,
	const struct resolvers *now, struct err *e);
int maker_remove(const struct maker *m, unsigned index, struct err *e);
// Whether the slot is all there, with the addresses that the range gives it.
bool maker_is_whole(const struct maker *m, unsigned index);
// Removes all slots of run_dir but those in keep[].
int maker_sweep(const struct maker *m, const unsigned *keep, size_t n_keep, struct err *e);
