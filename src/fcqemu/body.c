// SPDX-License-Identifier: Apache-2.0
#include "fcqemu/body.h"
#include <string.h>
#include "base/str.h"

#define DESERIALIZING "An error occurred when deserializing the json body of a request: "

static const struct body_field *find_field(
	const struct body_field *fields, size_t n, const char *name)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(fields[i].name, name) == 0)
			return &fields[i];
	return NULL;
}

static int check_only(const struct body_field *f, const json_t *v, struct err *e)
{
	_cleanup_free_ char *text = json_is_string(v)
					    ? strdup(json_string_value(v))
					    : json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
	if (!text)
		return err_set(e, ERR_INTERNAL, "Out of memory.");
	if (f->only && strcmp(text, f->only) == 0)
		return 0;
	return err_set(
		e, ERR_INVALID, "fcqemu cannot honour the field `%s` (%s).", f->name, f->why);
}

static int check_value(const struct body_field *f, const json_t *v, struct err *e)
{
	switch (f->type) {
	case BODY_STRING:
		if (!json_is_string(v))
			break;
		if (strlen(json_string_value(v)) != json_string_length(v))
			return err_set(e, ERR_INVALID,
				DESERIALIZING "field `%s` holds a NUL character.", f->name);
		return 0;
	case BODY_BOOL:
		if (json_is_boolean(v))
			return 0;
		break;
	case BODY_UINT:
		if (!json_is_integer(v))
			break;
		if (json_integer_value(v) < 0 || (uint64_t)json_integer_value(v) > f->max)
			return err_set(e, ERR_INVALID,
				DESERIALIZING "field `%s` is out of range (0 to %llu).", f->name,
				(unsigned long long)f->max);
		return 0;
	case BODY_OBJECT:
		if (json_is_object(v))
			return 0;
		break;
	case BODY_ARRAY:
		if (json_is_array(v))
			return 0;
		break;
	case BODY_ONLY:
		return check_only(f, v, e);
	}
	static const char *const wanted[] = {
		"a string", "a boolean", "an unsigned integer", "an object", "an array"};
	return err_set(e, ERR_INVALID, DESERIALIZING "invalid type: field `%s` must be %s.",
		f->name, wanted[f->type]);
}

static int store(const struct body_field *f, const json_t *v, void *ret)
{
	void *at = (char *)ret + f->offset;
	if (f->type == BODY_STRING) {
		char *copy = strdup(json_string_value(v)), **to = at;
		if (!copy)
			return -ENOMEM;
		free(*to);
		*to = copy;
	} else if (f->type == BODY_BOOL) {
		*(bool *)at = json_is_true(v);
	} else if (f->type == BODY_UINT) {
		*(uint64_t *)at = (uint64_t)json_integer_value(v);
	} else if (f->type == BODY_OBJECT || f->type == BODY_ARRAY) {
		json_t **to = at;
		json_decref(*to);
		*to = json_incref((json_t *)v);
	}
	return 0;
}

static int unknown_field(const struct body_field *fields, size_t n, const char *name, struct err *e)
{
	_cleanup_strbuf_ struct strbuf list = {0};
	for (size_t i = 0; i < n; i++)
		strbuf_addf(&list, "%s`%s`", i ? ", " : "", fields[i].name);
	return err_set(e, ERR_INVALID, DESERIALIZING "unknown field `%.100s`, expected one of %s.",
		name, list.data);
}

int body_read(const char *text, size_t len, const struct body_field *fields, size_t n, void *ret,
	uint32_t *ret_seen, struct err *e)
{
	json_error_t je;
	_cleanup_(json_decrefp) json_t *o = json_loadb(text, len, JSON_REJECT_DUPLICATES, &je);
	if (!o)
		return err_set(e, ERR_INVALID, DESERIALIZING "%s at line %d column %d.", je.text,
			je.line, je.column);
	return body_read_object(o, fields, n, ret, ret_seen, e);
}

int body_read_object(const json_t *o, const struct body_field *fields, size_t n, void *ret,
	uint32_t *ret_seen, struct err *e)
{
	if (!json_is_object(o))
		return err_set(e, ERR_INVALID, DESERIALIZING "invalid type: expected an object.");
	uint32_t seen = 0;
	const char *name;
	json_t *v;
	json_object_foreach ((json_t *)o, name, v) {
		const struct body_field *f = find_field(fields, n, name);
		if (!f)
			return unknown_field(fields, n, name, e);
		if (json_is_null(v) && !f->required)
			continue;
		int rc = check_value(f, v, e);
		if (rc < 0)
			return rc;
		seen |= 1u << (f - fields);
	}
	for (size_t i = 0; i < n; i++)
		if (fields[i].required && !(seen & 1u << i))
			return err_set(e, ERR_INVALID, DESERIALIZING "missing field `%s`.",
				fields[i].name);
	// Nothing can be refused any more.
	for (size_t i = 0; i < n; i++)
		if (seen & 1u << i &&
			store(&fields[i], json_object_get(o, fields[i].name), ret) < 0)
			return err_set(e, ERR_INTERNAL, "Out of memory.");
	if (ret_seen)
		*ret_seen = seen;
	return 0;
}

void body_done(const struct body_field *fields, size_t n, void *filled)
{
	for (size_t i = 0; i < n; i++) {
		void *at = (char *)filled + fields[i].offset;
		if (fields[i].type == BODY_STRING) {
			free(*(char **)at);
			*(char **)at = NULL;
		} else if (fields[i].type == BODY_OBJECT || fields[i].type == BODY_ARRAY) {
			json_decref(*(json_t **)at);
			*(json_t **)at = NULL;
		}
	}
}
