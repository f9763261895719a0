// SPDX-License-Identifier: Apache-2.0
// /etc/passwd and /etc/group, read directly: a static program has no NSS, and the guest's root file
// system may be anything.
#pragma once
#include <sys/types.h>
#include "base/str.h"

#define USERS_MAX_GROUPS 256

struct users {
	struct strbuf passwd, group; // whole files, unchanged
	// Last answers of users_name and users_group_name: listings ask for the same few again and
	// again.
	uid_t last_uid;
	gid_t last_gid;
	char last_user[64], last_group[64];
};

struct user {
	char *name, *home;
	uid_t uid;
	gid_t gid;
	gid_t groups[USERS_MAX_GROUPS]; // supplementary, gid first
	size_t n_groups;
};

// NULL: the files in /etc. A missing file counts as empty. 0 or -errno.
int users_load(const char *passwd_path, const char *group_path, struct users *ret);
void users_done(struct users *u);
#define _cleanup_users_ _cleanup_(users_done)

// -ENOENT when there is none of that name (or id). *ret is owned by the caller: user_done.
int users_find(const struct users *u, const char *name, struct user *ret);
int users_find_uid(const struct users *u, uid_t uid, struct user *ret);
void user_done(struct user *u);
#define _cleanup_user_ _cleanup_(user_done)

// The name, or the number as text; valid until the next call.
const char *users_name(struct users *u, uid_t uid);
const char *users_group_name(struct users *u, gid_t gid);
