// SPDX-License-Identifier: Apache-2.0
// /etc/passwd and /etc/group: the same text is taken for both.
#include <string.h>
#include "envd/process/users.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	_cleanup_users_ struct users u = {.last_uid = (uid_t)-1, .last_gid = (gid_t)-1};
	strbuf_add(&u.passwd, data, len);
	strbuf_add(&u.group, data, len);
	// The name of the first line must be found, or the line be no user's.
	_cleanup_free_ char *name = strndup(u.passwd.data, strcspn(u.passwd.data, ":\n"));
	_cleanup_user_ struct user by_name = {0}, by_uid = {0};
	if (users_find(&u, name, &by_name) == 0 &&
		(strcmp(by_name.name, name) != 0 || users_find_uid(&u, by_name.uid, &by_uid) < 0))
		abort();
	if (by_name.n_groups > USERS_MAX_GROUPS)
		abort();
	users_name(&u, by_name.uid);
	users_group_name(&u, by_name.gid);
	return 0;
}
