// SPDX-License-Identifier: Apache-2.0
#include "sandbox/table/owed.h"
#include <string.h>
#include "base/json.h"

char *owed_text(const struct sandbox *s)
{
	const struct sandbox_owed *o = &s->owed;
	if (!o->thaw && !o->init)
		return strdup("");
	_cleanup_json_ json_t *j = json_pack("{s:b, s:b, s:s, s:i}", "thaw", (int)o->thaw, "init",
		(int)o->init, "token", o->token, "clock_ppm", o->clock_ppm);
	return j ? json_compact(j) : NULL;
}

void owed_read(struct sandbox *s, const char *text)
{
	struct sandbox_owed *o = &s->owed;
	*o = (struct sandbox_owed){0};
	_cleanup_json_ json_t *j = *text ? json_loads(text, 0, NULL) : NULL;
	const char *token = json_string_value(json_object_get(j, "token"));
	o->thaw = json_is_true(json_object_get(j, "thaw"));
	o->init = json_is_true(json_object_get(j, "init"));
	o->clock_ppm = (int)json_integer_value(json_object_get(j, "clock_ppm"));
	snprintf(o->token, sizeof o->token, "%s", token ? token : "");
	s->info.agent_silent = o->thaw || o->init;
}
