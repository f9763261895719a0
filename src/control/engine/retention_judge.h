// SPDX-License-Identifier: Apache-2.0
// What the rules of retention say of what there is: a pure function.
#pragma once
#include "control/state/retention_store.h"

struct retention_subject {
	enum retention_kind kind;
	char id[64];   // of a snapshot its name
	char name[64]; // for people; "" for none
	char api_key[UUID_SIZE], template[64];
	uint64_t age_sec;		    // since it was paused, made or used last
	uint64_t unique_bytes, frees_bytes; // where they are known
	bool kept;			    // it was asked to be kept
	// what follows
	size_t rule; // SIZE_MAX: none takes it
	char reason[120];
};

// In any order; each subject gets the first rule that takes it. bytes_known: else rules with
// max_bytes take nothing. 0 or -ENOMEM.
//
// A rule looks at the subjects of its kind, key and template that are not kept. In each group (per
// key, per template, or all) the newest keep_newest stay, of a rule with max_bytes at least one. Of
// the others those go that are older than max_age; with max_bytes the oldest, until the group's
// unique bytes are within it; and all, where the rule has neither.
int retention_judge(struct retention_subject *list, size_t n, const struct retention_rule *rules,
	size_t n_rules, bool bytes_known);
