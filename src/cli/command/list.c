// SPDX-License-Identifier: Apache-2.0
#include "cli/command/list.h"
#include "cli/command/format.h"

int list_check(const struct cli *c, const struct list *l, struct err *e)
{
	if ((l->quiet && l->format) || (c->json && (l->quiet || l->format)))
		return err_set(e, ERR_INVALID, "-q, --format and -o json exclude each other");
	return l->format ? format_check(l->format, e) : 0;
}

int list_print_one(
	const struct list *l, const struct list_kind *k, const json_t *object, struct err *e)
{
	_cleanup_strbuf_ struct strbuf line = {0};
	if (!l->quiet && !l->format)
		return 1;
	if (l->format) {
		int rc = format_add(&line, l->format, object, e);
		if (rc < 0)
			return rc;
	} else {
		_cleanup_free_ char *name = output_value(json_object_get(object, k->name));
		strbuf_addf(&line, "%s\n", name ? name : "-");
	}
	fputs(line.data ? line.data : "\n", stdout);
	return 0;
}

int list_print(const struct cli *c, const struct list *l, const struct list_kind *k,
	const json_t *answer, struct err *e)
{
	if (c->json)
		return output_json(answer);
	const json_t *object;
	size_t i;
	int rc = 0;
	_cleanup_table_ struct table t;
	table_init(&t, k->titles);
	t.states = k->states;
	t.no_headers = l->no_headers;
	json_array_foreach (json_object_get(answer, k->array), i, object) {
		rc = list_print_one(l, k, object, e);
		if (rc < 0)
			return rc;
		if (rc > 0)
			k->row(&t, object);
	}
	return l->quiet || l->format ? 0 : table_print(&t, stdout);
}
