// SPDX-License-Identifier: Apache-2.0
#include "base/json.h"
#include <inttypes.h>
#include <limits.h>
#include <string.h>
#include "base/str.h"

// Requests are parsed on small stacks and the parser recurses: deeper text is refused beforehand.
#define MAX_DEPTH 64
#define DEFAULT_MAX_STRING 4096

static int read_field(json_t *value, const struct json_field *f, struct err *e)
{
	switch (f->type) {
	case JF_STRING: {
		size_t max = f->max ? f->max : DEFAULT_MAX_STRING;
		if (!json_is_string(value))
			return err_set(e, ERR_INVALID, "%s: must be a string", f->name);
		if (json_string_length(value) > max)
			return err_set(e, ERR_INVALID, "%s: longer than %zu bytes", f->name, max);
		if (strlen(json_string_value(value)) != json_string_length(value))
			return err_set(
				e, ERR_INVALID, "%s: must not hold a NUL character", f->name);
		*(const char **)f->out = json_string_value(value);
		return 0;
	}
	case JF_BOOL:
		if (!json_is_boolean(value))
			return err_set(e, ERR_INVALID, "%s: must be true or false", f->name);
		*(bool *)f->out = json_is_true(value);
		return 0;
	case JF_U64: {
		json_int_t v = json_integer_value(value);
		uint64_t max = f->max ? f->max : INT64_MAX;
		if (!json_is_integer(value) || v < 0 || (uint64_t)v < f->min || (uint64_t)v > max) {
			if (!f->max)
				return err_set(e, ERR_INVALID,
					"%s: must be an integer not below %" PRIu64, f->name,
					f->min);
			return err_set(e, ERR_INVALID,
				"%s: must be an integer from %" PRIu64 " to %" PRIu64, f->name,
				f->min, max);
		}
		*(uint64_t *)f->out = (uint64_t)v;
		return 0;
	}
	case JF_INT: {
		json_int_t v = json_integer_value(value),
			   max = f->max ? (json_int_t)f->max : INT_MAX;
		if (!json_is_integer(value) || v < -max || v > max)
			return err_set(e, ERR_INVALID, "%s: must be an integer from -%lld to %lld",
				f->name, (long long)max, (long long)max);
		*(int *)f->out = (int)v;
		return 0;
	}
	case JF_OBJECT:
		if (!json_is_object(value))
			return err_set(e, ERR_INVALID, "%s: must be an object", f->name);
		break;
	case JF_ARRAY:
		if (!json_is_array(value))
			return err_set(e, ERR_INVALID, "%s: must be an array", f->name);
		break;
	case JF_STRING_MAP: {
		if (!json_is_object(value))
			return err_set(e, ERR_INVALID, "%s: must be an object of strings", f->name);
		const char *key;
		json_t *item;
		json_object_foreach (value, key, item) {
			if (!json_is_string(item))
				return err_set(e, ERR_INVALID,
					"%s: the value of '%.100s' must be a string", f->name, key);
			if (strlen(json_string_value(item)) != json_string_length(item))
				return err_set(e, ERR_INVALID,
					"%s: the value of '%.100s' must not hold a NUL character",
					f->name, key);
		}
		break;
	}
	case JF_ANY:
		break;
	}
	*(json_t **)f->out = value;
	return 0;
}

int json_read_fields(json_t *object, const struct json_field *fields, size_t n, bool ignore_unknown,
	struct err *e)
{
	if (!json_is_object(object))
		return err_set(e, ERR_INVALID, "must be a JSON object");
	size_t known = 0;
	for (size_t i = 0; i < n; i++) {
		const struct json_field *f = &fields[i];
		json_t *value = json_object_get(object, f->name);
		known += value != NULL;
		bool present = value && (f->type == JF_ANY || !json_is_null(value));
		if (f->present)
			*f->present = present;
		if (!present) {
			if (f->required)
				return err_set(e, ERR_INVALID, "%s: is missing", f->name);
			continue;
		}
		int r = read_field(value, f, e);
		if (r < 0)
			return r;
	}
	if (ignore_unknown || known == json_object_size(object))
		return 0;
	const char *key;
	json_t *item;
	json_object_foreach (object, key, item) {
		size_t i = 0;
		while (i < n && strcmp(fields[i].name, key) != 0)
			i++;
		if (i == n)
			return err_set(e, ERR_INVALID, "unknown field '%.100s'", key);
	}
	return 0;
}

// How many values there are at most.
static bool too_deep(const char *text, size_t len, size_t *ret_values)
{
	size_t depth = 0, values = 1;
	bool in_string = false;
	for (size_t i = 0; i < len; i++) {
		char c = text[i];
		if (in_string) {
			if (c == '\\')
				i++;
			else if (c == '"')
				in_string = false;
		} else if (c == '"') {
			in_string = true;
		} else if (c == ',') {
			values++;
		} else if (c == '[' || c == '{') {
			values++;
			if (++depth > MAX_DEPTH)
				return true;
		} else if ((c == ']' || c == '}') && depth > 0) {
			depth--;
		}
	}
	*ret_values = values;
	return false;
}

int json_parse_object(const char *text, size_t len, json_t **ret, struct err *e)
{
	size_t values;
	if (len > 0 && too_deep(text, len, &values))
		return err_set(e, ERR_INVALID, "JSON is nested deeper than %d levels", MAX_DEPTH);
	json_error_t je;
	_cleanup_json_ json_t *j = json_loadb(len ? text : "", len, JSON_REJECT_DUPLICATES, &je);
	if (!j)
		return err_set(e, ERR_INVALID, "not valid JSON: line %d column %d: %s", je.line,
			je.column, je.text);
	if (!json_is_object(j))
		return err_set(e, ERR_INVALID, "must be a JSON object");
	*ret = TAKE_PTR(j);
	return 0;
}

json_t *json_parse_foreign(const char *text, size_t len, size_t max_values)
{
	size_t values;
	if (len == 0 || too_deep(text, len, &values) || values > max_values)
		return NULL;
	return json_loadb(text, len, JSON_DECODE_ANY, NULL);
}

char *json_compact(const json_t *j)
{
	return j ? json_dumps(j, JSON_COMPACT) : NULL;
}
