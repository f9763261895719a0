// SPDX-License-Identifier: Apache-2.0
#include "shim/spec.h"
#include <jansson.h>
#include <string.h>
#include "base/id.h"
#include "base/str.h"

#define MAX_ARGS 256
#define MIN_CONSOLE 4096

struct spec {
	struct shim_spec s;
	json_t *root; // owns all the texts
	const char **vmm_argv, **pager_argv;
	struct shim_bind *binds;
};

enum kind { K_STRING, K_U64, K_I32, K_BOOL, K_ARRAY };

struct field {
	const char *name;
	enum kind kind;
	void *out;
	uint64_t max;	// K_U64
	bool optional;	// absent: *out is left alone
	bool is_uint32; // K_U64 into a uint32_t
};

static const char *const kind_names[] = {
	"a text", "a number from 0 on", "a 32-bit number", "true or false", "an array"};

static bool read_field(const struct field *f, json_t *v)
{
	json_int_t n = json_integer_value(v);
	switch (f->kind) {
	case K_STRING:
		if (!json_is_string(v) || strlen(json_string_value(v)) != json_string_length(v))
			return false;
		*(const char **)f->out = json_string_value(v);
		return true;
	case K_U64:
		if (!json_is_integer(v) || n < 0 || (f->max && (uint64_t)n > f->max))
			return false;
		if (f->is_uint32)
			*(uint32_t *)f->out = (uint32_t)n;
		else
			*(uint64_t *)f->out = (uint64_t)n;
		return true;
	case K_I32:
		if (!json_is_integer(v) || n < INT32_MIN || n > INT32_MAX)
			return false;
		*(int32_t *)f->out = (int32_t)n;
		return true;
	case K_BOOL:
		if (!json_is_boolean(v))
			return false;
		*(bool *)f->out = json_is_true(v);
		return true;
	case K_ARRAY:
		if (!json_is_array(v))
			return false;
		*(json_t **)f->out = v;
		return true;
	}
	return false;
}

static int read_object(json_t *o, const struct field *fields, size_t n, struct err *e)
{
	const char *key;
	json_t *v;
	if (!json_is_object(o))
		return err_set(e, ERR_INVALID, "not a JSON object");
	json_object_foreach (o, key, v) {
		size_t i = 0;
		while (i < n && strcmp(fields[i].name, key) != 0)
			i++;
		if (i == n)
			return err_set(e, ERR_INVALID, "unknown field '%s'", key);
		if (!read_field(&fields[i], v))
			return err_set(
				e, ERR_INVALID, "%s: must be %s", key, kind_names[fields[i].kind]);
	}
	for (size_t i = 0; i < n; i++)
		if (!fields[i].optional && !json_object_get(o, fields[i].name))
			return err_set(e, ERR_INVALID, "%s: missing", fields[i].name);
	return 0;
}

static int load_object(const char *text, size_t len, json_t **ret, struct err *e)
{
	json_error_t je;
	*ret = json_loadb(text, len, JSON_REJECT_DUPLICATES, &je);
	if (!*ret)
		return err_set(e, ERR_INVALID, "bad JSON: line %d: %s", je.line, je.text);
	return 0;
}

static int read_argv(const char *name, json_t *a, const char ***ret, struct err *e)
{
	size_t n = json_array_size(a);
	if (n > MAX_ARGS)
		return err_set(e, ERR_INVALID, "%s: more than %d entries", name, MAX_ARGS);
	_cleanup_free_ const char **argv = calloc(n + 1, sizeof *argv);
	if (!argv)
		return err_errno(e, ENOMEM, "%s", name);
	for (size_t i = 0; i < n; i++) {
		struct field f = {.kind = K_STRING, .out = &argv[i]};
		if (!read_field(&f, json_array_get(a, i)))
			return err_set(e, ERR_INVALID, "%s: must be an array of texts", name);
	}
	*ret = TAKE_PTR(argv);
	return 0;
}

static int read_binds(json_t *a, struct shim_bind **ret, size_t *ret_n, struct err *e)
{
	size_t n = json_array_size(a);
	_cleanup_free_ struct shim_bind *b = calloc(n + 1, sizeof *b);
	if (!b)
		return err_errno(e, ENOMEM, "binds");
	for (size_t i = 0; i < n; i++) {
		const struct field fields[] = {
			{"source", K_STRING, &b[i].source},
			{"target", K_STRING, &b[i].target},
			{"writable", K_BOOL, &b[i].writable},
		};
		int rc = read_object(json_array_get(a, i), fields, ARRAY_SIZE(fields), e);
		if (rc < 0)
			return err_prefix(e, rc, "binds[%zu]", i);
	}
	*ret = TAKE_PTR(b);
	*ret_n = n;
	return 0;
}

int spec_parse(const char *text, size_t len, struct spec **ret, struct err *e)
{
	_cleanup_(spec_freep) struct spec *sp = calloc(1, sizeof *sp);
	if (!sp)
		return err_errno(e, ENOMEM, "spec");
	struct shim_spec *s = &sp->s;
	json_t *argv = NULL, *pager = NULL, *binds = NULL;
	const struct field fields[] = {
		{"id", K_STRING, &s->id},
		{"dir", K_STRING, &s->dir},
		{"netns", K_STRING, &s->netns},
		{"uid", K_U64, &s->uid, .max = UINT32_MAX, .is_uint32 = true},
		{"gid", K_U64, &s->gid, .max = UINT32_MAX, .is_uint32 = true},
		{"runtime_dir", K_STRING, &s->runtime_dir},
		{"console_path", K_STRING, &s->console_path},
		{"console_max", K_U64, &s->console_max, .optional = true},
		{"fsize_max", K_U64, &s->fsize_max, .optional = true},
		{"kvm", K_BOOL, &s->kvm, .optional = true},
		{"vmm_argv", K_ARRAY, &argv},
		{"binds", K_ARRAY, &binds, .optional = true},
		{"pager_argv", K_ARRAY, &pager, .optional = true},
		{"own_dir", K_STRING, &s->own_dir, .optional = true},
		{"snap_dir", K_STRING, &s->snap_dir, .optional = true},
		{"vmm_log_path", K_STRING, &s->vmm_log_path, .optional = true},
		{"kmsg_from", K_U64, &s->kmsg_from, .optional = true},
	};
	int rc = load_object(text, len, &sp->root, e);
	if (rc == 0)
		rc = read_object(sp->root, fields, ARRAY_SIZE(fields), e);
	if (rc == 0)
		rc = read_argv("vmm_argv", argv, &sp->vmm_argv, e);
	if (rc == 0 && pager)
		rc = read_argv("pager_argv", pager, &sp->pager_argv, e);
	if (rc == 0 && binds)
		rc = read_binds(binds, &sp->binds, &s->n_binds, e);
	if (rc < 0)
		return rc;
	s->vmm_argv = sp->vmm_argv;
	s->pager_argv = sp->pager_argv;
	s->binds = sp->binds;
	rc = shim_spec_check(s, e);
	if (rc == 0)
		*ret = TAKE_PTR(sp);
	return rc;
}

const struct shim_spec *spec_get(const struct spec *s)
{
	return &s->s;
}

struct spec *spec_free(struct spec *s)
{
	if (s) {
		free(s->vmm_argv);
		free(s->pager_argv);
		free(s->binds);
		json_decref(s->root);
		free(s);
	}
	return NULL;
}

// Absolute, no empty, "." or ".." component, not "/" itself.
static bool path_is_plain(const char *p)
{
	if (!p || p[0] != '/')
		return false;
	while (*p) {
		size_t n = strcspn(p + 1, "/");
		if (n == 0 || (n == 1 && p[1] == '.') || (n == 2 && p[1] == '.' && p[2] == '.'))
			return false;
		p += n + 1;
	}
	return true;
}

// May a bind be put there? Not over or into what the jail itself is made of.
static bool target_is_free(const char *target)
{
	static const char *const taken[] = {"proc", "dev", "usr", "run", "tmp", "bin", "lib",
		"lib64", "sys", "etc", "snap", "stasis"};
	size_t n = strcspn(target + 1, "/");
	for (size_t i = 0; i < ARRAY_SIZE(taken); i++)
		if (strlen(taken[i]) == n && memcmp(taken[i], target + 1, n) == 0)
			return false;
	return true;
}

int shim_spec_check(const struct shim_spec *s, struct err *e)
{
	const struct {
		const char *name, *path;
	} paths[] = {{"dir", s->dir}, {"netns", s->netns}, {"runtime_dir", s->runtime_dir},
		{"console_path", s->console_path}},
	  optional[] = {{"own_dir", s->own_dir}, {"snap_dir", s->snap_dir},
		  {"vmm_log_path", s->vmm_log_path}};
	if (!s->id || !id_is_sandbox(s->id))
		return err_set(e, ERR_INVALID, "id: must be 1 to 40 of a-z and 0-9");
	for (size_t i = 0; i < ARRAY_SIZE(paths); i++)
		if (!path_is_plain(paths[i].path))
			return err_set(e, ERR_INVALID,
				"%s: must be an absolute path without '.', '..' or '//'",
				paths[i].name);
	if (s->uid == 0 || s->gid == 0 || s->uid == UINT32_MAX || s->gid == UINT32_MAX)
		return err_set(e, ERR_INVALID, "uid, gid: must be the sandbox's own, not root's");
	if (s->fsize_max > INT64_MAX)
		return err_set(e, ERR_INVALID, "fsize_max: too large");
	if (s->console_max && (s->console_max < MIN_CONSOLE || s->console_max > INT64_MAX))
		return err_set(e, ERR_INVALID, "console_max: must be at least %d", MIN_CONSOLE);
	if (!s->vmm_argv || !s->vmm_argv[0] || s->vmm_argv[0][0] != '/')
		return err_set(
			e, ERR_INVALID, "vmm_argv: must start with a program's path in the jail");
	if (s->pager_argv && (!s->pager_argv[0] || s->pager_argv[0][0] != '/'))
		return err_set(
			e, ERR_INVALID, "pager_argv: must start with a program's path in the jail");
	for (size_t i = 0; i < ARRAY_SIZE(optional); i++)
		if (optional[i].path && !path_is_plain(optional[i].path))
			return err_set(e, ERR_INVALID,
				"%s: must be an absolute path without '.', '..' or '//'",
				optional[i].name);
	for (size_t i = 0; i < s->n_binds; i++) {
		const struct shim_bind *b = &s->binds[i];
		if (!path_is_plain(b->source))
			return err_set(
				e, ERR_INVALID, "binds[%zu].source: must be an absolute path", i);
		if (!path_is_plain(b->target) || !target_is_free(b->target))
			return err_set(e, ERR_INVALID,
				"binds[%zu].target: must be a path of its own in the jail", i);
	}
	return 0;
}

static json_t *argv_json(const char *const *argv)
{
	json_t *a = json_array();
	for (; a && argv && *argv; argv++)
		if (json_array_append_new(a, json_string(*argv)) < 0) {
			json_decref(a);
			return NULL;
		}
	return a;
}

char *shim_spec_format(const struct shim_spec *s)
{
	json_auto_t *binds = json_array();
	for (size_t i = 0; binds && i < s->n_binds; i++)
		if (json_array_append_new(binds,
			    json_pack("{ss ss sb}", "source", s->binds[i].source, "target",
				    s->binds[i].target, "writable", (int)s->binds[i].writable)) < 0)
			return NULL;
	json_auto_t *o = json_pack("{ss ss ss sI sI ss ss sI sI sI sb so* sO}", "id", s->id, "dir",
		s->dir, "netns", s->netns, "uid", (json_int_t)s->uid, "gid", (json_int_t)s->gid,
		"runtime_dir", s->runtime_dir, "console_path", s->console_path, "console_max",
		(json_int_t)s->console_max, "fsize_max", (json_int_t)s->fsize_max, "kmsg_from",
		(json_int_t)s->kmsg_from, "kvm", (int)s->kvm, "vmm_argv", argv_json(s->vmm_argv),
		"binds", binds);
	if (o && s->pager_argv &&
		json_object_set_new(o, "pager_argv", argv_json(s->pager_argv)) < 0)
		return NULL;
	const struct {
		const char *name, *path;
	} optional[] = {{"own_dir", s->own_dir}, {"snap_dir", s->snap_dir},
		{"vmm_log_path", s->vmm_log_path}};
	for (size_t i = 0; o && i < ARRAY_SIZE(optional); i++)
		if (optional[i].path &&
			json_object_set_new(o, optional[i].name, json_string(optional[i].path)) < 0)
			return NULL;
	return o ? json_dumps(o, JSON_INDENT(1)) : NULL;
}

char *shim_state_format(const struct shim_state *s)
{
	json_auto_t *o = json_pack("{ss si sI ss sI si sI}", "id", s->id, "pid", s->pid,
		"start_time", (json_int_t)s->start_time, "boot_id", s->boot_id, "uid",
		(json_int_t)s->uid, "vmm_pid", s->vmm_pid, "kmsg_from", (json_int_t)s->kmsg_from);
	return o ? json_dumps(o, JSON_COMPACT) : NULL;
}

int shim_state_parse(const char *text, size_t len, struct shim_state *ret, struct err *e)
{
	json_auto_t *o = NULL;
	struct shim_state s = {0};
	const char *id = NULL, *boot = NULL;
	const struct field fields[] = {
		{"id", K_STRING, &id}, {"pid", K_I32, &s.pid}, {"start_time", K_U64, &s.start_time},
		{"boot_id", K_STRING, &boot},
		{"uid", K_U64, &s.uid, .max = UINT32_MAX, .is_uint32 = true},
		{"vmm_pid", K_I32, &s.vmm_pid},
		{"kmsg_from", K_U64, &s.kmsg_from, .optional = true}, // of the first shims
	};
	int rc = load_object(text, len, &o, e);
	if (rc == 0)
		rc = read_object(o, fields, ARRAY_SIZE(fields), e);
	if (rc < 0)
		return rc;
	if (s.pid <= 0 || str_format(s.id, sizeof s.id, "%s", id) < 0 ||
		str_format(s.boot_id, sizeof s.boot_id, "%s", boot) < 0)
		return err_set(e, ERR_INVALID, "a value is out of its range");
	*ret = s;
	return 0;
}

char *shim_exit_format(const struct shim_exit *x)
{
	json_auto_t *o = json_pack("{ss si ss ss sI}", "first", x->first, "status", x->status,
		"cause", x->cause, "detail", x->detail, "at_ns", (json_int_t)x->at_ns);
	return o ? json_dumps(o, JSON_COMPACT) : NULL;
}

int shim_exit_parse(const char *text, size_t len, struct shim_exit *ret, struct err *e)
{
	json_auto_t *o = NULL;
	struct shim_exit x = {0};
	const char *first = NULL, *cause = NULL, *detail = NULL;
	const struct field fields[] = {
		{"first", K_STRING, &first},
		{"status", K_I32, &x.status},
		{"cause", K_STRING, &cause},
		{"detail", K_STRING, &detail},
		{"at_ns", K_U64, &x.at_ns},
	};
	int rc = load_object(text, len, &o, e);
	if (rc == 0)
		rc = read_object(o, fields, ARRAY_SIZE(fields), e);
	if (rc < 0)
		return rc;
	if (str_format(x.first, sizeof x.first, "%s", first) < 0 ||
		str_format(x.cause, sizeof x.cause, "%s", cause) < 0 ||
		str_format(x.detail, sizeof x.detail, "%s", detail) < 0)
		return err_set(e, ERR_INVALID, "a value is too long");
	*ret = x;
	return 0;
}
