// SPDX-License-Identifier: Apache-2.0
#include "control/api/fields.h"
#include <string.h>
#include "base/clock.h"
#include "base/str.h"
#include "control/state/rows.h"
#include "base/json.h"

#define MAX_ENV (64u << 10)

int fields_check_maps(json_t *env, json_t *metadata, struct err *e)
{
	_cleanup_free_ char *metadata_text = metadata ? json_compact(metadata) : NULL;
	if (metadata_text && strlen(metadata_text) > ROW_MAX_METADATA)
		return err_set(
			e, ERR_INVALID, "metadata: larger than %u bytes as JSON", ROW_MAX_METADATA);
	_cleanup_free_ char *env_text = env ? json_compact(env) : NULL;
	if (env_text && strlen(env_text) > MAX_ENV)
		return err_set(e, ERR_INVALID, "env: larger than %u bytes as JSON", MAX_ENV);
	const char *name;
	json_t *value;
	json_object_foreach (env, name, value)
		if (!*name || strchr(name, '='))
			return err_set(
				e, ERR_INVALID, "env: '%.100s' is not a variable name", name);
	return 0;
}

int fields_on_timeout(const char *text, enum on_timeout *ret, struct err *e)
{
	if (!str_eq(text, "kill") && !str_eq(text, "pause"))
		return err_set(e, ERR_INVALID, "on_timeout: must be \"kill\" or \"pause\"");
	*ret = str_eq(text, "pause") ? ON_TIMEOUT_PAUSE : ON_TIMEOUT_KILL;
	return 0;
}

int fields_check_name(const char *name, struct err *e)
{
	if (!id_is_name(name))
		return err_set(e, ERR_INVALID, "name: " FIELDS_NAME_RULE);
	if (id_is_made(name))
		return err_set(
			e, ERR_INVALID, "name: must not look like an id ('i' and 20 of a-z, 0-9)");
	return 0;
}

int fields_check_patch(json_t *patch, struct err *e)
{
	const char *key;
	json_t *value;
	if (patch && !json_is_null(patch) && !json_is_object(patch))
		return err_set(e, ERR_INVALID, "metadata: must be an object, or null to clear it");
	json_object_foreach (patch, key, value) {
		const char *text = json_string_value(value);
		if (!text && !json_is_null(value))
			return err_set(e, ERR_INVALID,
				"metadata: the value of '%.100s' must be a string, or null to "
				"remove it",
				key);
		if (text && strlen(text) != json_string_length(value))
			return err_set(e, ERR_INVALID,
				"metadata: the value of '%.100s' must not hold a NUL character",
				key);
	}
	return 0;
}

uint64_t fields_ends_at(uint64_t timeout_sec)
{
	return timeout_sec ? clock_realtime_ns() + timeout_sec * NSEC_PER_SEC : 0;
}

const char *fields_on_timeout_text(enum on_timeout t)
{
	return t == ON_TIMEOUT_PAUSE ? "pause" : "kill";
}
