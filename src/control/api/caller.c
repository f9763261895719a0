// SPDX-License-Identifier: Apache-2.0
#include "control/api/caller.h"
#include <inttypes.h>
#include <string.h>
#include "base/str.h"

const struct key_info *caller_key(const struct http_request *r)
{
	return http_req_data(r);
}

const char *caller_owner(const struct http_request *r)
{
	const struct key_info *k = caller_key(r);
	bool all = k && (k->scope == KEY_ADMIN || (k->scope == KEY_READ && !k->owner[0]));
	return all ? NULL : k ? k->owner : "";
}

bool caller_sees(const struct http_request *r, const char *owner)
{
	const char *mine = caller_owner(r);
	return !mine || (mine[0] && str_eq(mine, owner));
}

static void hide(json_t *sandbox)
{
	static const char *const tokens[] = {"envd_token", "port_token"};
	for (size_t i = 0; i < ARRAY_SIZE(tokens); i++)
		if (json_object_get(sandbox, tokens[i]))
			json_object_set_new(sandbox, tokens[i], json_string(""));
}

void caller_hide(const struct http_request *r, json_t *body)
{
	const struct key_info *k = caller_key(r);
	json_t *list = json_object_get(body, "sandboxes"), *item = NULL;
	size_t i;
	if (k && k->scope != KEY_READ)
		return;
	hide(body);
	json_array_foreach (list, i, item)
		hide(item);
}

int caller_take_creates(struct control *c, struct http_request *r, uint64_t n, struct err *e)
{
	const struct key_info *k = caller_key(r);
	unsigned wait = k ? keys_take_creates(c->keys, k, n) : 0;
	if (!wait)
		return 0;
	char text[16];
	snprintf(text, sizeof text, "%u", wait);
	http_reply_header(r, "Retry-After", text);
	return err_set(e, ERR_LIMIT,
		"quota: this key may create %" PRIu64
		" sandboxes a minute: ask again in %u s, or ask the server's operator for more",
		k->quota.creates, wait);
}
