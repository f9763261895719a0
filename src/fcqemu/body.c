// SPDX-License-Identifier: Apache-2.0
#include "fcqemu/body.h"
#include <string.h>
#include "base/json.h"
#include "base/str.h"

#define DESERIALIZING "An error occurred when deserializing the json body of a request: "

static const struct body_field *find_field(const struct body_shape *s, const char *name)
{
	for (size_t i = 0; i < s->n; i++)
		if (strcmp(s->fields[i].name, name) == 0)
			return &s->fields[i];
	return NULL;
}

// "string "x"", "integer `5`": the value that was found.
static char *describe(const json_t *v)
{
	if (json_is_null(v))
		return strdup("null");
	if (json_is_object(v))
		return strdup("map");
	if (json_is_array(v))
		return strdup("sequence");
	_cleanup_free_ char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
	if (!text)
		return NULL;
	if (json_is_string(v))
		return str_printf("string %.200s", text);
	return str_printf("%s `%s`",
		json_is_integer(v) ? "integer"
		: json_is_real(v)  ? "floating point"
				   : "boolean",
		text);
}

static int wrong_type(const json_t *v, const char *wanted, struct err *e)
{
	_cleanup_free_ char *found = describe(v);
	return err_set(e, ERR_INVALID, DESERIALIZING "invalid %s: %s, expected %s.",
		json_is_integer(v) && wanted[0] == 'u' ? "value" : "type", found ? found : "",
		wanted);
}

// "`a`", "`a` or `b`", "one of `a`, `b`, `c`"
static void list_names(const char *const *names, size_t n, struct strbuf *out)
{
	if (n > 2)
		strbuf_adds(out, "one of ");
	for (size_t i = 0; i < n; i++)
		strbuf_addf(out, "%s`%s`", i == 0 ? "" : n == 2 ? " or " : ", ", names[i]);
}

static int unknown(
	const char *what, const char *name, const char *const *names, size_t n, struct err *e)
{
	_cleanup_strbuf_ struct strbuf list = {0};
	list_names(names, n, &list);
	return err_set(e, ERR_INVALID, DESERIALIZING "unknown %s `%.100s`, expected %s.", what,
		name, list.data ? list.data : "");
}

static int check_choice(const struct body_field *f, const json_t *v, struct err *e)
{
	size_t n = 0;
	if (!json_is_string(v))
		return err_set(e, ERR_INVALID, DESERIALIZING "expected value.");
	for (; f->choices[n]; n++)
		if (strcmp(f->choices[n], json_string_value(v)) == 0)
			return 0;
	return unknown("variant", json_string_value(v), f->choices, n, e);
}

static int check_text(const struct body_field *f, const json_t *v, struct err *e)
{
	if (!json_is_string(v))
		return wrong_type(v, f->type == BODY_PATH ? "path string" : "a string", e);
	if (strlen(json_string_value(v)) != json_string_length(v))
		return err_set(
			e, ERR_INVALID, DESERIALIZING "field `%s` holds a NUL character.", f->name);
	return 0;
}

static int check_number(const struct body_field *f, const json_t *v, struct err *e)
{
	const char *wanted = f->max <= UINT8_MAX ? "u8" : f->max <= UINT16_MAX ? "u16" : "usize";
	if (!json_is_integer(v) || json_integer_value(v) < 0)
		return wrong_type(v, wanted, e);
	if ((uint64_t)json_integer_value(v) <= f->max)
		return 0;
	if (f->max <= UINT16_MAX)
		return wrong_type(v, wanted, e);
	return err_set(e, ERR_INVALID, DESERIALIZING "field `%s` is out of range (0 to %llu).",
		f->name, (unsigned long long)f->max);
}

static int check_type(const struct body_field *f, const json_t *v, struct err *e)
{
	int rc = 0;
	switch (f->type) {
	case BODY_STRING:
	case BODY_PATH:
		return check_text(f, v, e);
	case BODY_CHOICE:
		return check_choice(f, v, e);
	case BODY_BOOL:
		return json_is_boolean(v) ? 0 : wrong_type(v, "a boolean", e);
	case BODY_UINT:
		return check_number(f, v, e);
	case BODY_OBJECT:
		if (f->shape)
			return body_check(v, f->shape, e);
		return json_is_object(v) ? 0 : wrong_type(v, "an object", e);
	case BODY_ARRAY:
		if (!json_is_array(v))
			return wrong_type(v, "a sequence", e);
		for (size_t i = 0; rc == 0 && f->shape && i < json_array_size(v); i++)
			rc = body_check(json_array_get(v, i), f->shape, e);
		return rc;
	}
	return rc;
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

static int unknown_field(const struct body_shape *s, const char *name, struct err *e)
{
	const char *names[32];
	for (size_t i = 0; i < s->n; i++)
		names[i] = s->fields[i].name;
	return unknown("field", name, names, s->n, e);
}

int body_parse(const char *text, size_t len, json_t **ret, struct err *e)
{
	json_error_t je;
	*ret = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &je);
	if (*ret)
		return 0;
	// "duplicate object key near '"name"'"
	const char *name = strchr(je.text, '"');
	if (json_error_code(&je) == json_error_duplicate_key && name)
		return err_set(e, ERR_INVALID, DESERIALIZING "duplicate field `%.*s`.",
			(int)strcspn(name + 1, "\""), name + 1);
	return err_set(e, ERR_INVALID, DESERIALIZING "%s at line %d column %d.", je.text, je.line,
		je.column);
}

int body_check(const json_t *v, const struct body_shape *shape, struct err *e)
{
	const char *name;
	json_t *member;
	if (!json_is_object(v))
		return wrong_type(v, shape->name, e);
	json_object_foreach ((json_t *)v, name, member) {
		const struct body_field *f = find_field(shape, name);
		if (!f && shape->open)
			continue;
		if (!f)
			return unknown_field(shape, name, e);
		if (f->nullable && json_is_null(member))
			continue;
		int rc = check_type(f, member, e);
		if (rc < 0)
			return rc;
	}
	for (size_t i = 0; i < shape->n; i++)
		if (shape->fields[i].required && !json_object_get(v, shape->fields[i].name))
			return err_set(e, ERR_INVALID, DESERIALIZING "missing field `%s`.",
				shape->fields[i].name);
	return shape->check ? shape->check(v, e) : 0;
}

static int store(const struct body_field *f, const json_t *v, void *ret)
{
	void *at = (char *)ret + f->offset;
	switch (f->type) {
	case BODY_STRING:
	case BODY_PATH:
	case BODY_CHOICE: {
		char *copy = strdup(json_string_value(v)), **to = at;
		if (!copy)
			return -ENOMEM;
		free(*to);
		*to = copy;
		return 0;
	}
	case BODY_BOOL:
		*(bool *)at = json_is_true(v);
		return 0;
	case BODY_UINT:
		*(uint64_t *)at = (uint64_t)json_integer_value(v);
		return 0;
	case BODY_OBJECT:
	case BODY_ARRAY:
		json_decref(*(json_t **)at);
		*(json_t **)at = json_incref((json_t *)v);
		return 0;
	}
	return 0;
}

int body_take(const json_t *o, const struct body_shape *shape, void *ret, uint32_t *ret_seen,
	struct err *e)
{
	uint32_t seen = 0;
	for (size_t i = 0; i < shape->n; i++) {
		const struct body_field *f = &shape->fields[i];
		const json_t *v = json_object_get(o, f->name);
		if (!v || json_is_null(v))
			continue;
		seen |= 1u << i;
		int rc = f->why ? check_only(f, v, e) : 0;
		if (rc < 0)
			return rc;
	}
	// Nothing can be refused any more.
	for (size_t i = 0; i < shape->n; i++) {
		const struct body_field *f = &shape->fields[i];
		if (seen & 1u << i && !f->why && store(f, json_object_get(o, f->name), ret) < 0)
			return err_set(e, ERR_INTERNAL, "Out of memory.");
	}
	if (ret_seen)
		*ret_seen = seen;
	return 0;
}

int body_read(
	const char *text, size_t len, const struct body_shape *shape, void *ret, struct err *e)
{
	_cleanup_json_ json_t *o = NULL;
	int rc = body_parse(text, len, &o, e);
	if (rc == 0)
		rc = body_check(o, shape, e);
	return rc < 0 ? rc : body_take(o, shape, ret, NULL, e);
}

void body_done(const struct body_shape *shape, void *filled)
{
	for (size_t i = 0; i < shape->n; i++) {
		const struct body_field *f = &shape->fields[i];
		void *at = (char *)filled + f->offset;
		if (f->why)
			continue;
		if (f->type == BODY_STRING || f->type == BODY_PATH || f->type == BODY_CHOICE) {
			free(*(char **)at);
			*(char **)at = NULL;
		} else if (f->type == BODY_OBJECT || f->type == BODY_ARRAY) {
			json_decref(*(json_t **)at);
			*(json_t **)at = NULL;
		}
	}
}
