// SPDX-License-Identifier: Apache-2.0
#include "envd/process/users.h"
#include <fcntl.h>
#include <string.h>
#include "base/file.h"

#define MAX_FILE (4u << 20)
#define MAX_FIELDS 7

struct field {
	const char *s;
	size_t len;
};

int users_load(const char *passwd_path, const char *group_path, struct users *ret)
{
	struct users u = {.last_uid = (uid_t)-1, .last_gid = (gid_t)-1};
	int rc =
		file_read(AT_FDCWD, passwd_path ? passwd_path : "/etc/passwd", MAX_FILE, &u.passwd);
	if (rc == 0 || rc == -ENOENT)
		rc = file_read(
			AT_FDCWD, group_path ? group_path : "/etc/group", MAX_FILE, &u.group);
	if (rc < 0 && rc != -ENOENT) {
		users_done(&u);
		return rc;
	}
	*ret = u;
	return 0;
}

void users_done(struct users *u)
{
	strbuf_done(&u->passwd);
	strbuf_done(&u->group);
}

void user_done(struct user *u)
{
	free(u->name);
	free(u->home);
	*u = (struct user){0};
}

// Cuts the next line into its fields. Returns how many there are, 0 for a line to be skipped, -1 at
// the end. Lines of NIS ("+", "-") and comments are skipped.
static int next_line(const char **pos, struct field f[MAX_FIELDS])
{
	const char *p = *pos;
	if (!p || !*p)
		return -1;
	size_t len = strcspn(p, "\n");
	const char *end = p + len;
	*pos = *end ? end + 1 : end;
	if (len == 0 || *p == '#' || *p == '+' || *p == '-')
		return 0;
	int n = 0;
	while (n < MAX_FIELDS) {
		const char *colon = memchr(p, ':', (size_t)(end - p));
		const char *stop = colon ? colon : end;
		f[n++] = (struct field){p, (size_t)(stop - p)};
		if (!colon)
			break;
		p = colon + 1;
	}
	return n;
}

static bool field_id(const struct field *f, uint32_t *ret)
{
	char text[16];
	uint64_t v;
	if (f->len >= sizeof text)
		return false;
	memcpy(text, f->s, f->len);
	text[f->len] = '\0';
	// -1 means "leave it as it is" to setresuid and chown.
	if (str_to_u64(text, UINT32_MAX - 1, &v) < 0)
		return false;
	*ret = (uint32_t)v;
	return true;
}

static bool field_is(const struct field *f, const char *s)
{
	return strlen(s) == f->len && memcmp(f->s, s, f->len) == 0;
}

static bool lists_member(const struct field *members, const char *name)
{
	size_t n = strlen(name);
	const char *p = members->s, *end = p + members->len;
	while (p < end) {
		const char *comma = memchr(p, ',', (size_t)(end - p));
		const char *stop = comma ? comma : end;
		if ((size_t)(stop - p) == n && memcmp(p, name, n) == 0)
			return true;
		p = stop + 1;
	}
	return false;
}

static void find_groups(const struct users *u, struct user *r)
{
	struct field f[MAX_FIELDS];
	const char *pos = u->group.data;
	r->groups[r->n_groups++] = r->gid;
	for (int n; (n = next_line(&pos, f)) >= 0;) {
		gid_t gid;
		if (n < 4 || !field_id(&f[2], &gid) || gid == r->gid ||
			!lists_member(&f[3], r->name))
			continue;
		if (r->n_groups == USERS_MAX_GROUPS)
			break;
		r->groups[r->n_groups++] = gid;
	}
}

static int find(const struct users *u, const char *name, uid_t uid, struct user *ret)
{
	struct field f[MAX_FIELDS];
	const char *pos = u->passwd.data;
	for (int n; (n = next_line(&pos, f)) >= 0;) {
		_cleanup_user_ struct user r = {0};
		if (n < 6 || !field_id(&f[2], &r.uid) || !field_id(&f[3], &r.gid))
			continue;
		if (name ? !field_is(&f[0], name) : r.uid != uid)
			continue;
		r.name = strndup(f[0].s, f[0].len);
		r.home = f[5].len ? strndup(f[5].s, f[5].len) : strdup("/");
		if (!r.name || !r.home)
			return -ENOMEM;
		find_groups(u, &r);
		*ret = r;
		r = (struct user){0};
		return 0;
	}
	return -ENOENT;
}

int users_find(const struct users *u, const char *name, struct user *ret)
{
	return *name ? find(u, name, 0, ret) : -ENOENT;
}

int users_find_uid(const struct users *u, uid_t uid, struct user *ret)
{
	return find(u, NULL, uid, ret);
}

// The name with that id in either file (the id is the third field in both).
static void name_of(const struct strbuf *text, uint32_t id, char *out, size_t size)
{
	struct field f[MAX_FIELDS];
	const char *pos = text->data;
	for (int n; (n = next_line(&pos, f)) >= 0;) {
		uint32_t v;
		if (n >= 3 && f[0].len && f[0].len < size && field_id(&f[2], &v) && v == id) {
			memcpy(out, f[0].s, f[0].len);
			out[f[0].len] = '\0';
			return;
		}
	}
	snprintf(out, size, "%u", id);
}

const char *users_name(struct users *u, uid_t uid)
{
	if (uid != u->last_uid || !u->last_user[0])
		name_of(&u->passwd, uid, u->last_user, sizeof u->last_user);
	u->last_uid = uid;
	return u->last_user;
}

const char *users_group_name(struct users *u, gid_t gid)
{
	if (gid != u->last_gid || !u->last_group[0])
		name_of(&u->group, gid, u->last_group, sizeof u->last_group);
	u->last_gid = gid;
	return u->last_group;
}
