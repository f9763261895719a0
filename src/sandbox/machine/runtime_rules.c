// SPDX-License-Identifier: Apache-2.0
// The list of denied trees is beside them, not in them: one that is removed, and made again by a
// downgrade, is still denied.
#include "sandbox/machine/runtime_rules.h"
#include <fcntl.h>
#include <string.h>
#include "base/file.h"
#include "base/lock.h"

#define DENIED "runtime.denied"

static bool is_id(const char *text, size_t len)
{
	return len == SHIM_TREE_ID_SIZE - 1 && strspn(text, "0123456789abcdef") >= len;
}

static int read_floor(struct runtime_rules *r, const char *text, struct err *e)
{
	_cleanup_free_ char *copy = strdup(text);
	char *rest = copy, program[16], version[32], more;
	if (!copy)
		return err_errno(e, ENOMEM, "vmm_floor");
	for (const char *one; (one = strsep(&rest, ","));) {
		if (!one[strspn(one, " \t")])
			continue;
		struct vmm_version v;
		struct vmm_version *to = NULL;
		if (sscanf(one, " %15s %31s %c", program, version, &more) == 2)
			to = str_eq(program, "qemu")	      ? &r->qemu
			     : str_eq(program, "firecracker") ? &r->firecracker
							      : NULL;
		bool digits = to && version[0] >= '0' && version[0] <= '9';
		if (!digits || to->text[0] || !vmm_version_parse(version, &v))
			return err_set(e, ERR_INVALID,
				"vmm_floor: '%.60s' is not 'qemu 7.2.9' or 'firecracker 1.14.2', "
				"each at most once",
				one);
		*to = v;
	}
	return 0;
}

static int add(struct runtime_rules *r, const char *id)
{
	char(*list)[SHIM_TREE_ID_SIZE] = reallocarray(r->denied, r->n_denied + 1, sizeof *list);
	if (!list)
		return -ENOMEM;
	r->denied = list;
	snprintf(list[r->n_denied++], SHIM_TREE_ID_SIZE, "%.*s", SHIM_TREE_ID_SIZE - 1, id);
	return 0;
}

static int read_denied(struct runtime_rules *r, int data_fd, struct err *e)
{
	_cleanup_strbuf_ struct strbuf text = {0};
	int rc = file_read(data_fd, DENIED, 1u << 20, &text);
	if (rc == -ENOENT)
		return 0;
	for (const char *p = text.data; rc == 0 && p && *p;) {
		size_t len = strcspn(p, "\n");
		if (!is_id(p, len))
			return err_set(e, ERR_INTERNAL,
				DENIED ": '%.40s' is no runtime: correct the file", p);
		rc = add(r, p);
		p += len + (p[len] == '\n');
	}
	return rc < 0 ? err_errno(e, rc, DENIED) : 0;
}

int runtime_rules_open(struct runtime_rules *r, int data_fd, const char *floor, struct err *e)
{
	pthread_mutex_init(&r->lock, NULL);
	int rc = floor ? read_floor(r, floor, e) : 0;
	return rc == 0 ? read_denied(r, data_fd, e) : rc;
}

void runtime_rules_done(struct runtime_rules *r)
{
	free(r->denied);
	pthread_mutex_destroy(&r->lock);
}

static size_t find(const struct runtime_rules *r, const char *id)
{
	size_t i = 0;
	while (i < r->n_denied && !str_eq(r->denied[i], id))
		i++;
	return i;
}

bool runtime_is_denied(struct runtime_rules *r, const char *id)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&r->lock);
	return find(r, id) < r->n_denied;
}

bool runtime_is_allowed(
	struct runtime_rules *r, const struct vmm_choice *v, char ret_why[RUNTIME_WHY_SIZE])
{
	const struct vmm_version *floor = v->firecracker ? &r->firecracker : &r->qemu;
	const char *name = v->firecracker ? "Firecracker" : "QEMU";
	struct vmm_version is;
	if (runtime_is_denied(r, v->runtime)) {
		snprintf(ret_why, RUNTIME_WHY_SIZE, "its VMM, %s %s (runtime %s), is denied here",
			name, v->upstream, v->runtime);
		return false;
	}
	// Of what has no version it is not known that it is new enough.
	if (!floor->text[0] || (vmm_version_parse(v->upstream, &is) &&
				       vmm_at_least(&is, floor->major, floor->minor, floor->patch)))
		return true;
	snprintf(ret_why, RUNTIME_WHY_SIZE, "its VMM, %s %s, is below vmm_floor (%s)", name,
		v->upstream, floor->text);
	return false;
}

static int write_denied(const struct runtime_rules *r, int data_fd)
{
	_cleanup_strbuf_ struct strbuf text = {0};
	for (size_t i = 0; i < r->n_denied; i++)
		strbuf_addf(&text, "%s\n", r->denied[i]);
	int rc = strbuf_check(&text);
	return rc < 0 ? rc
		      : file_write_atomic(
				data_fd, DENIED, text.data ? text.data : "", text.len, 0600);
}

int runtime_deny(struct runtime_rules *r, int data_fd, const char *id, bool on, struct err *e)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&r->lock);
	size_t at = find(r, id), n = r->n_denied;
	if (!is_id(id, strlen(id)))
		return err_set(e, ERR_INVALID,
			"'%.64s' is no runtime: 32 hexadecimal digits, see 'stasis runtime ls'",
			id);
	if (on == (at < n))
		return 0;
	if (on && n == RUNTIME_DENIED_MAX)
		return err_set(e, ERR_LIMIT, "%zu runtimes are denied", n);
	int rc = 0;
	if (on)
		rc = add(r, id);
	else
		memcpy(r->denied[at], r->denied[--r->n_denied], sizeof *r->denied);
	if (rc == 0 && (rc = write_denied(r, data_fd)) < 0) { // as the file says
		r->n_denied = n;
		if (!on)
			memcpy(r->denied[at], id, sizeof *r->denied);
	}
	return rc < 0 ? err_errno(e, rc, DENIED) : 0;
}
