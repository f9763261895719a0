// SPDX-License-Identifier: Apache-2.0
#include "hostagent/wire.h"
#include <inttypes.h>
#include <string.h>
#include "base/id.h"
#include "base/json.h"

#define MAX_LIST 100000u

static void *at(const void *p, size_t offset)
{
	return (char *)p + offset;
}

// --- writing

json_t *wire_text(const char *text, size_t len)
{
	json_t *j = json_stringn(text, len);
	if (j)
		return j;
	_cleanup_free_ char *clean = malloc(len + 1);
	if (!clean)
		return NULL;
	for (size_t i = 0; i < len; i++)
		clean[i] = text[i] > 0 ? text[i] : '?';
	return json_stringn(clean, len);
}

static json_t *number_json(uint64_t v)
{
	char text[24];
	snprintf(text, sizeof text, "%" PRIu64, v);
	return json_string(text);
}

static json_t *elements_json(const struct wire_message *m, const char *first, size_t n)
{
	_cleanup_json_ json_t *a = json_array();
	for (size_t i = 0; i < n; i++)
		if (json_array_append_new(a, wire_encode(m, first + i * m->size)) < 0)
			return NULL;
	return TAKE_PTR(a);
}

// false when out of memory; *ret stays NULL for a default, which is not written.
static bool field_json(const struct wire_field *f, const void *in, json_t **ret)
{
	const void *p = at(in, f->offset);
	const char *text = NULL;
	size_t n = 0;
	switch (f->type) {
	case WIRE_TEXT:
		text = p;
		n = strnlen(text, f->size);
		break;
	case WIRE_POINTER:
		text = *(const char *const *)p;
		n = text ? strlen(text) : 0;
		break;
	case WIRE_BUFFER:
		text = ((const struct strbuf *)p)->data;
		n = ((const struct strbuf *)p)->len;
		break;
	case WIRE_BYTES: {
		const struct strbuf *b = p;
		_cleanup_strbuf_ struct strbuf out = {0};
		if (b->len == 0)
			return true;
		str_base64_encode(&out, b->data, b->len);
		*ret = strbuf_check(&out) == 0 ? json_stringn_nocheck(out.data, out.len) : NULL;
		return *ret;
	}
	case WIRE_BOOL:
		if (!*(const bool *)p)
			return true;
		*ret = json_true();
		return true;
	case WIRE_U32:
		if (*(const unsigned *)p == 0)
			return true;
		*ret = json_integer(*(const unsigned *)p);
		return *ret;
	case WIRE_U64:
		if (*(const uint64_t *)p == 0)
			return true;
		*ret = number_json(*(const uint64_t *)p);
		return *ret;
	case WIRE_ENUM: {
		int v = *(const int *)p;
		if (v < 0 || v + 1 >= f->names->n)
			return true;
		*ret = json_string_nocheck(f->names->names[v + 1]);
		return *ret;
	}
	case WIRE_MAP:
	case WIRE_OBJECT: {
		json_t *j = *(json_t *const *)p;
		if (j && (f->type == WIRE_OBJECT || json_object_size(j) > 0))
			*ret = json_incref(j);
		return true;
	}
	case WIRE_MESSAGE:
		if ((f->flags & WIRE_HAS) && !*(bool *)at(in, f->count))
			return true;
		*ret = wire_encode(f->message, p);
		return *ret;
	case WIRE_ARRAY:
		n = MIN(*(unsigned *)at(in, f->count), f->size / f->message->size);
		if (n)
			*ret = elements_json(f->message, p, n);
		return n == 0 || *ret;
	case WIRE_LIST:
		n = *(size_t *)at(in, f->count);
		if (n)
			*ret = elements_json(f->message, *(char *const *)p, n);
		return n == 0 || *ret;
	}
	if (n)
		*ret = wire_text(text, n);
	return n == 0 || *ret;
}

json_t *wire_encode(const struct wire_message *m, const void *in)
{
	_cleanup_json_ json_t *o = json_object();
	for (size_t i = 0; i < m->n; i++) {
		json_t *value = NULL;
		if (!field_json(&m->fields[i], in, &value))
			return NULL;
		if (value && json_object_set_new_nocheck(o, m->fields[i].name, value) < 0)
			return NULL;
	}
	return TAKE_PTR(o);
}

// --- reading

static bool form_fits(enum wire_form form, const char *text)
{
	size_t n = 0;
	switch (form) {
	case FORM_ANY:
		return true;
	case FORM_UUID:
		return id_is_uuid(text);
	case FORM_SANDBOX:
		return id_is_sandbox(text);
	case FORM_NAME:
		return id_is_name(text);
	case FORM_WORD:
		return text[strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789_")] == '\0';
	case FORM_TOKEN:
		while (text[n] > ' ' && text[n] <= '~')
			n++;
		return n <= 90 && text[n] == '\0';
	}
	return false;
}

static const char *const form_name[] = {
	[FORM_ANY] = "a text",
	[FORM_UUID] = "a UUID in lower case",
	[FORM_SANDBOX] = "the id of a sandbox",
	[FORM_NAME] = "1-63 of a-z, 0-9, '.', '_', '-'",
	[FORM_WORD] = "a word of a-z, 0-9 and '_'",
	[FORM_TOKEN] = "at most 90 printable characters without blanks",
};

static int read_text(
	const struct wire_field *f, json_t *value, bool lenient, void *p, struct err *e)
{
	if (!json_is_string(value))
		return err_set(e, ERR_INVALID, "%s: must be a string", f->name);
	const char *text = json_string_value(value);
	size_t len = json_string_length(value);
	if (strlen(text) != len)
		return err_set(e, ERR_INVALID, "%s: must not hold a NUL character", f->name);
	size_t max = f->type == WIRE_TEXT ? f->size - 1 : f->max ? f->max : SIZE_MAX;
	if (len > max && !lenient)
		return err_set(e, ERR_INVALID, "%s: longer than %zu bytes", f->name, max);
	if (!lenient && len > 0 && !form_fits(f->form, text))
		return err_set(e, ERR_INVALID, "%s: must be %s", f->name, form_name[f->form]);
	if (f->type == WIRE_TEXT) {
		snprintf(p, f->size, "%s", text);
	} else if (f->type == WIRE_POINTER) {
		*(const char **)p = text;
	} else {
		strbuf_add(p, text, len);
		return strbuf_check(p) < 0 ? err_errno(e, ENOMEM, "%s", f->name) : 0;
	}
	return 0;
}

static int read_bytes(const struct wire_field *f, json_t *value, struct strbuf *out, struct err *e)
{
	const char *text = json_string_value(value);
	_cleanup_free_ char *plain = text ? strdup(text) : NULL;
	if (text && !plain)
		return err_errno(e, ENOMEM, "%s", f->name);
	// Both alphabets are allowed.
	for (char *c = plain; c && *c; c++)
		*c = *c == '-' ? '+' : *c == '_' ? '/' : *c;
	if (!plain || str_base64_decode(out, plain, json_string_length(value)) < 0)
		return err_set(e, ERR_INVALID, "%s: must be base64", f->name);
	return 0;
}

static int read_number(
	const struct wire_field *f, json_t *value, uint64_t max, uint64_t *ret, struct err *e)
{
	bool ok = false;
	if (json_is_integer(value)) {
		json_int_t v = json_integer_value(value);
		*ret = (uint64_t)v;
		ok = v >= 0 && (uint64_t)v <= max;
	} else if (json_is_real(value)) {
		double v = json_real_value(value);
		// Larger ones are not exact; they come as strings.
		ok = v >= 0 && v <= 9007199254740992.0 && v == (double)(uint64_t)v &&
		     (uint64_t)v <= max;
		*ret = ok ? (uint64_t)v : 0;
	} else if (json_is_string(value)) {
		ok = str_to_u64(json_string_value(value), max, ret) == 0;
	}
	if (!ok)
		return err_set(
			e, ERR_INVALID, "%s: must be an integer from 0 to %" PRIu64, f->name, max);
	return 0;
}

static int read_enum(
	const struct wire_field *f, json_t *value, bool lenient, int *ret, struct err *e)
{
	const struct wire_enum *names = f->names;
	int found = -1;
	if (json_is_integer(value)) {
		json_int_t v = json_integer_value(value);
		found = v >= 0 && v < names->n ? (int)v : -1;
	}
	for (int i = 0; json_is_string(value) && i < names->n; i++)
		if (str_eq(names->names[i], json_string_value(value)))
			found = i;
	if (found < 0 && lenient && (json_is_integer(value) || json_is_string(value)))
		found = 0;
	if (found < 0)
		return err_set(e, ERR_INVALID, "%s: must be one of %s, ...", f->name,
			names->names[MIN(1, names->n - 1)]);
	*ret = found > 0 ? found - 1 : names->unspecified;
	return 0;
}

static int read_map(const struct wire_field *f, json_t *value, json_t **ret, struct err *e)
{
	const char *key;
	json_t *item;
	if (!json_is_object(value))
		return err_set(e, ERR_INVALID, "%s: must be an object of strings", f->name);
	json_object_foreach (value, key, item) {
		if (!json_is_string(item))
			return err_set(e, ERR_INVALID, "%s: the value of '%.100s' must be a string",
				f->name, key);
		if (strlen(json_string_value(item)) != json_string_length(item))
			return err_set(e, ERR_INVALID,
				"%s: the value of '%.100s' must not hold a NUL character", f->name,
				key);
	}
	*ret = json_object_size(value) ? value : NULL;
	return 0;
}

static int read_elements(
	const struct wire_field *f, json_t *value, bool lenient, void *out, struct err *e)
{
	void *p = at(out, f->offset);
	const struct wire_message *m = f->message;
	if (!json_is_array(value))
		return err_set(e, ERR_INVALID, "%s: must be an array", f->name);
	size_t n = json_array_size(value);
	size_t max = f->type == WIRE_ARRAY ? f->size / m->size : f->max ? f->max : MAX_LIST;
	if (n > max)
		return err_set(e, ERR_INVALID, "%s: more than %zu elements", f->name, max);
	if (n == 0)
		return 0;
	char *first = f->type == WIRE_ARRAY ? p : calloc(n, m->size);
	if (!first)
		return err_errno(e, ENOMEM, "%s", f->name);
	if (f->type == WIRE_LIST)
		*(char **)p = first;
	for (size_t i = 0; i < n; i++) {
		int rc = wire_decode(m, json_array_get(value, i), lenient, first + i * m->size, e);
		if (rc < 0)
			return err_prefix(e, rc, "%s[%zu]", f->name, i);
		// Counted as they become whole, so that wire_done is right at any moment.
		if (f->type == WIRE_LIST)
			*(size_t *)at(out, f->count) = i + 1;
		else
			*(unsigned *)at(out, f->count) = (unsigned)(i + 1);
	}
	return 0;
}

static int read_field(
	const struct wire_field *f, json_t *value, bool lenient, void *out, struct err *e)
{
	void *p = at(out, f->offset);
	uint64_t v = 0;
	int rc = 0;
	switch (f->type) {
	case WIRE_TEXT:
	case WIRE_POINTER:
	case WIRE_BUFFER:
		return read_text(f, value, lenient, p, e);
	case WIRE_BYTES:
		return read_bytes(f, value, p, e);
	case WIRE_BOOL:
		if (!json_is_boolean(value))
			return err_set(e, ERR_INVALID, "%s: must be true or false", f->name);
		*(bool *)p = json_is_true(value);
		return 0;
	case WIRE_U32:
		rc = read_number(f, value, f->max && !lenient ? f->max : UINT32_MAX, &v, e);
		if (rc == 0)
			*(unsigned *)p = (unsigned)v;
		return rc;
	case WIRE_U64:
		rc = read_number(f, value, f->max && !lenient ? f->max : UINT64_MAX, &v, e);
		if (rc == 0)
			*(uint64_t *)p = v;
		return rc;
	case WIRE_ENUM:
		return read_enum(f, value, lenient, p, e);
	case WIRE_MAP:
		return read_map(f, value, p, e);
	case WIRE_OBJECT:
		if (!json_is_object(value))
			return err_set(e, ERR_INVALID, "%s: must be an object", f->name);
		*(json_t **)p = json_incref(value);
		return 0;
	case WIRE_MESSAGE:
		rc = wire_decode(f->message, value, lenient, p, e);
		if (rc == 0 && (f->flags & WIRE_HAS))
			*(bool *)at(out, f->count) = true;
		return rc < 0 ? err_prefix(e, rc, "%s", f->name) : 0;
	case WIRE_ARRAY:
	case WIRE_LIST:
		return read_elements(f, value, lenient, out, e);
	}
	return -EINVAL;
}

static bool is_missing(const struct wire_field *f, const void *out)
{
	const void *p = at(out, f->offset);
	switch (f->type) {
	case WIRE_TEXT:
		return *(const char *)p == '\0';
	case WIRE_POINTER:
		return !*(const char *const *)p;
	case WIRE_U32:
		return *(const unsigned *)p == 0;
	case WIRE_U64:
		return *(const uint64_t *)p == 0;
	case WIRE_ENUM:
		return *(const int *)p == f->names->unspecified;
	case WIRE_LIST:
		return *(size_t *)at(out, f->count) == 0;
	default:
		return false;
	}
}

// The original name: "sandbox_id" of "sandboxId".
static void snake(const char *camel, char out[64])
{
	size_t n = 0;
	for (; *camel && n < 62; camel++) {
		bool upper = *camel >= 'A' && *camel <= 'Z';
		if (upper)
			out[n++] = '_';
		out[n++] = (char)(upper ? *camel - 'A' + 'a' : *camel);
	}
	out[n] = '\0';
}

static void set_defaults(const struct wire_message *m, void *out)
{
	if (m->size)
		memset(out, 0, m->size);
	for (size_t i = 0; i < m->n; i++) {
		const struct wire_field *f = &m->fields[i];
		if (f->type == WIRE_ENUM)
			*(int *)at(out, f->offset) = f->names->unspecified;
		else if (f->type == WIRE_MESSAGE)
			set_defaults(f->message, at(out, f->offset));
	}
}

static const char *unknown_name(const struct wire_message *m, json_t *object)
{
	const char *key;
	json_t *item;
	json_object_foreach (object, key, item) {
		size_t i = 0;
		for (; i < m->n; i++) {
			char old[64];
			snake(m->fields[i].name, old);
			if (str_eq(m->fields[i].name, key) || str_eq(old, key))
				break;
		}
		if (i == m->n)
			return key;
	}
	return NULL;
}

static int decode(
	const struct wire_message *m, json_t *object, bool lenient, void *out, struct err *e)
{
	size_t known = 0;
	for (size_t i = 0; i < m->n; i++) {
		const struct wire_field *f = &m->fields[i];
		char old[64];
		snake(f->name, old);
		json_t *value = json_object_get(object, f->name);
		json_t *other = str_eq(old, f->name) ? NULL : json_object_get(object, old);
		known += (value != NULL) + (other != NULL);
		if (value && other)
			return err_set(e, ERR_INVALID, "%s: is given twice", f->name);
		value = value ? value : other;
		int rc = value && !json_is_null(value) ? read_field(f, value, lenient, out, e) : 0;
		if (rc < 0)
			return rc;
		if (!lenient && (f->flags & WIRE_REQUIRED) && is_missing(f, out))
			return err_set(e, ERR_INVALID, "%s: is missing", f->name);
	}
	if (lenient || known == json_object_size(object))
		return 0;
	const char *name = unknown_name(m, object);
	return name ? err_set(e, ERR_INVALID, "unknown field '%.100s'", name) : 0;
}

int wire_decode(
	const struct wire_message *m, json_t *object, bool lenient, void *out, struct err *e)
{
	if (!json_is_object(object))
		return err_set(e, ERR_INVALID, "must be a JSON object");
	set_defaults(m, out);
	int rc = decode(m, object, lenient, out, e);
	if (rc < 0) {
		wire_done(m, out);
		set_defaults(m, out);
	}
	return rc;
}

void wire_done(const struct wire_message *m, void *p)
{
	for (size_t i = 0; i < m->n; i++) {
		const struct wire_field *f = &m->fields[i];
		void *member = at(p, f->offset);
		switch (f->type) {
		case WIRE_BUFFER:
		case WIRE_BYTES:
			strbuf_done(member);
			break;
		case WIRE_OBJECT:
			json_decref(*(json_t **)member);
			*(json_t **)member = NULL;
			break;
		case WIRE_MESSAGE:
			wire_done(f->message, member);
			break;
		case WIRE_ARRAY:
			for (unsigned k = 0; k < *(unsigned *)at(p, f->count); k++)
				wire_done(f->message, (char *)member + k * f->message->size);
			break;
		case WIRE_LIST: {
			char **list = member;
			size_t *n = at(p, f->count);
			for (size_t k = 0; k < *n; k++)
				wire_done(f->message, *list + k * f->message->size);
			free(*list);
			*list = NULL;
			*n = 0;
			break;
		}
		default:
			break;
		}
	}
}
