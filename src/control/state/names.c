// SPDX-License-Identifier: Apache-2.0
#include "control/state/names.h"
#include <string.h>
#include "base/str.h"
#include "control/state/row.h"

size_t names_bucket(const char *text)
{
	uint32_t h = 2166136261u;
	for (; *text; text++)
		h = (h ^ (unsigned char)*text) * 16777619u;
	return h & (NAMES_BUCKETS - 1);
}

struct name_entry *name_new(struct sandbox_row *row, const char *text, bool claim)
{
	struct name_entry *n = calloc(1, sizeof *n);
	if (!n)
		return NULL;
	n->row = row;
	n->claim = claim;
	snprintf(n->text, sizeof n->text, "%s", text);
	return n;
}

struct name_entry *names_link(struct names *n, struct name_entry *entry)
{
	struct name_entry **b = &n->bucket[names_bucket(entry->text)];
	entry->next = *b;
	return *b = entry;
}

struct name_entry *names_drop(struct names *n, struct name_entry *entry)
{
	if (!entry)
		return NULL;
	struct name_entry **b = &n->bucket[names_bucket(entry->text)];
	while (*b != entry)
		b = &(*b)->next;
	*b = entry->next;
	free(entry);
	return NULL;
}

int names_check(
	const struct names *n, const struct sandbox_row *row, const char *text, struct err *e)
{
	for (const struct name_entry *o = n->bucket[names_bucket(text)]; o; o = o->next)
		if (o->row != row && !o->row->ended_ns && str_eq(o->text, text) &&
			str_eq(o->row->api_key, row->api_key))
			return err_set(e, ERR_CONFLICT, "the name '%s' is taken by sandbox %s",
				text, o->row->id);
	return 0;
}

struct sandbox_row *names_find(const struct names *n, const char *api_key, const char *text)
{
	struct sandbox_row *found = NULL;
	for (const struct name_entry *o = n->bucket[names_bucket(text)]; o; o = o->next) {
		if (o->claim || !str_eq(o->text, text) || !str_eq(o->row->api_key, api_key))
			continue;
		bool better = !found || (found->ended_ns && !o->row->ended_ns) ||
			      (!found->ended_ns == !o->row->ended_ns &&
				      o->row->created_ns > found->created_ns);
		if (better)
			found = o->row;
	}
	return found;
}
