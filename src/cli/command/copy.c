// SPDX-License-Identifier: Apache-2.0
#include "cli/command/copy.h"
#include <string.h>
#include <sys/stat.h>
#include "base/json.h"
#include "base/str.h"
#include "cli/base/term.h"

int copy_tick(void *ctx)
{
	struct copy *x = ctx;
	progress_tick(&x->progress);
	return term_interrupts(NULL) ? -1 : 0;
}

int copy_interrupted(struct err *e)
{
	return term_interrupts(NULL) ? err_set(e, ERR_CANCELED, "interrupted") : 0;
}

void copy_warn(struct copy *x, const char *path, const char *why)
{
	bool on = x->progress.on;
	progress_clear(&x->progress);
	x->progress.on = on;
	output_complain("%s: skipped: %s", path, why);
}

int copy_files_path(const struct copy *x, const char *path, char **ret)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	strbuf_adds(&b, "/files?path=");
	str_percent_encode(&b, path);
	if (x->user) {
		strbuf_adds(&b, "&username=");
		str_percent_encode(&b, x->user);
	}
	*ret = strbuf_steal(&b);
	return *ret ? 0 : -ENOMEM;
}

int copy_fs_call(struct copy *x, const char *method, const char *path, json_t **ret, struct err *e)
{
	_cleanup_json_ json_t *req = json_pack("{s:s}", "path", path);
	if (!req)
		return err_set(e, ERR_INVALID, "%s: the name is not UTF-8", path);
	char full[64];
	snprintf(full, sizeof full, "filesystem.Filesystem/%s", method);
	return envd_unary(x->guest.http, &x->guest.target, full, req, 30000, ret, e);
}

bool copy_is_type(const json_t *entry, const char *type)
{
	return str_eq(json_string_value(json_object_get(entry, "type")), type);
}

mode_t copy_mode_of(const json_t *entry, mode_t otherwise)
{
	const json_t *m = json_object_get(entry, "mode");
	return m ? (mode_t)json_integer_value(m) & 0777 : otherwise;
}

const char *copy_base_name(const char *path)
{
	const char *slash = strrchr(path, '/');
	return slash ? slash + 1 : path;
}

char *copy_without_slashes(const char *path)
{
	size_t n = strlen(path);
	while (n > 1 && path[n - 1] == '/')
		n--;
	return strndup(path, n);
}
