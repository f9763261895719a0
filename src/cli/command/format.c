// SPDX-License-Identifier: Apache-2.0
#include "cli/command/format.h"
#include <string.h>
#include "cli/base/output.h"

static int unknown_field(const char *name, const json_t *object, struct err *e)
{
	_cleanup_strbuf_ struct strbuf fields = {0};
	const char *key;
	const json_t *v;
	json_object_foreach ((json_t *)object, key, v)
		strbuf_addf(&fields, "%s%s", fields.len ? ", " : "", key);
	return err_set(e, ERR_INVALID, "--format: there is no field '%s'; the fields are: %s", name,
		fields.data ? fields.data : "none");
}

// "error.message" is the field message of the object error. A label's name may have dots itself.
static int add_field(struct strbuf *out, const char *name, const json_t *object, struct err *e)
{
	size_t n = strcspn(name, ".");
	_cleanup_free_ char *first = strndup(name, n);
	const json_t *v = first ? json_object_get(object, first) : NULL;
	if (!first)
		return err_errno(e, ENOMEM, "--format");
	if (!v || (name[n] && !json_is_object(v) && !json_is_null(v)))
		return unknown_field(name, object, e);
	if (name[n])
		v = json_object_get(v, name + n + 1);
	_cleanup_free_ char *text = output_value(v);
	if (!text)
		return err_errno(e, ENOMEM, "--format");
	strbuf_adds(out, text);
	return 0;
}

// One pass over the template; object NULL: its form is checked, and out not used.
static int expand(struct strbuf *out, const char *format, const json_t *object, struct err *e)
{
	static const char escapes[] = "tn\\{}", meant[] = "\t\n\\{}";
	for (const char *p = format; *p; p++) {
		if (*p == '\\') {
			const char *escape = p[1] ? strchr(escapes, p[1]) : NULL;
			if (!escape)
				return err_set(e, ERR_INVALID,
					"--format: '\\%.1s' is none of \\t \\n \\\\ \\{ \\}",
					p + 1);
			if (object)
				strbuf_addc(out, meant[escape - escapes]);
			p++;
		} else if (*p == '{') {
			const char *end = strchr(p, '}');
			if (!end || end == p + 1)
				return err_set(e, ERR_INVALID,
					"--format: '%s': a field is written {name}", p);
			_cleanup_free_ char *name = strndup(p + 1, (size_t)(end - p - 1));
			int rc = !name	  ? err_errno(e, ENOMEM, "--format")
				 : object ? add_field(out, name, object, e)
					  : 0;
			if (rc < 0)
				return rc;
			p = end;
		} else if (object) {
			strbuf_addc(out, *p);
		}
	}
	return 0;
}

int format_check(const char *format, struct err *e)
{
	if (!strchr(format, '{'))
		return err_set(e, ERR_INVALID,
			"--format takes a template like '{id} {state}'; for JSON use -o json");
	return expand(NULL, format, NULL, e);
}

int format_add(struct strbuf *out, const char *format, const json_t *object, struct err *e)
{
	int rc = expand(out, format, object, e);
	strbuf_addc(out, '\n');
	if (rc == 0 && out->failed)
		return err_errno(e, ENOMEM, "--format");
	return rc;
}
