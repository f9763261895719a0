// SPDX-License-Identifier: Apache-2.0
// How this works: one table has every key of the file with its place in the struct, for reading and
// writing, and the formats that have it. The text has sorted keys and no blanks, so there is one
// text for one content, and a file that is read must be the very text that its content gives.
#include "snapshot/info.h"
#include <inttypes.h>
#include <stddef.h>
#include <string.h>
#include "base/json.h"
#include "snapshot/format.h"
#include "snapshot/header.h"

enum type { TEXT, NUMBER, NUMBER32, TRUTH, SUM, KIND, CONTENTS };
enum formats { ONE = 1, TWO = 2, BOTH = 3 }; // bits: format n is bit n - 1

struct key {
	const char *group, *name; // group: the object it is in; NULL: the outer one
	enum type type;
	enum formats formats;
	bool null; // may be null: empty, or 0
	size_t offset, size;
	uint64_t min, max; // of numbers
};

#define IN(member)                                                                                 \
	offsetof(struct snapshot_info, member), sizeof(((struct snapshot_info *)0)->member)

static const struct key keys[] = {
	{NULL, "id", TEXT, BOTH, false, IN(id)},
	{NULL, "parent", TEXT, BOTH, false, IN(parent)},
	{NULL, "kind", KIND, BOTH, false, IN(kind)},
	{NULL, "sandbox", TEXT, TWO, true, IN(sandbox)},
	{NULL, "template", TEXT, TWO, true, IN(template)},
	{NULL, "image_key", TEXT, TWO, true, IN(image_key)},
	{NULL, "accel", TEXT, TWO, true, IN(accel)},
	{NULL, "runtime", TEXT, TWO, true, IN(runtime)},
	{NULL, "kernel_id", TEXT, BOTH, false, IN(kernel_id)},
	{NULL, "vcpus", NUMBER32, BOTH, false, IN(vcpus), 1, 256},
	{NULL, "memory_bytes", NUMBER, BOTH, false, IN(memory_bytes), SNAPSHOT_BLOCK,
		HEADER_MAX_SIZE},
	{NULL, "disk_bytes", NUMBER, TWO, true, IN(disk_bytes), 0, INT64_MAX},
	{NULL, "contents", CONTENTS, TWO, false, IN(contents)},
	{NULL, "quiesced", TRUTH, TWO, false, IN(quiesced)},
	{NULL, "image", TEXT, BOTH, false, IN(image)},
	{"vmm", "name", TEXT, BOTH, false, IN(vmm_name)},
	{"vmm", "version", TEXT, BOTH, false, IN(vmm_version)},
	{"vmm", "sha256", TEXT, BOTH, false, IN(vmm_sha256)},
	{"vmm", "state_format", TEXT, BOTH, false, IN(vmm_state)},
	{"cpu", "vendor", TEXT, TWO, false, IN(cpu.vendor)},
	{"cpu", "family", NUMBER32, TWO, false, IN(cpu.family), 0, UINT32_MAX},
	{"cpu", "model", NUMBER32, TWO, false, IN(cpu.model), 0, UINT32_MAX},
	{"cpu", "features", TEXT, TWO, true, IN(cpu.features)},
	{"cpu", "tsc_khz", NUMBER, TWO, true, IN(cpu.tsc_khz), 0, 1000000000},
	{"agent", "version", TEXT, TWO, true, IN(agent_version)},
	{"clock", "tsc_khz", NUMBER, BOTH, false, IN(tsc_khz), 0, 1000000000},
	{"clock", "created_ns", NUMBER, BOTH, false, IN(created_ns), 0, INT64_MAX},
	{"token", "key_id", TEXT, TWO, false, IN(token.key_id)},
	{"token", "epoch", NUMBER, TWO, false, IN(token.epoch), 0, INT64_MAX},
	{"token", "sealed", TEXT, TWO, false, IN(token.sealed)},
	{"auth", "key_id", TEXT, TWO, false, IN(auth_key_id)},
	{"auth", "alg", TEXT, TWO, false, IN(auth_alg)},
	{"auth", "mac", TEXT, TWO, false, IN(auth_mac)},
	{"vmstate", "size", NUMBER, BOTH, false, IN(vmstate_size), 0, SNAPSHOT_MAX_VMSTATE},
	{"vmstate", "xxh3", SUM, ONE, false, IN(vmstate_xxh3)},
	{"disk", "size", NUMBER, BOTH, false, IN(disk_size), 0, INT64_MAX},
	{"digests", "header", SUM, TWO, true, IN(header_xxh3)},
	{"digests", "vmstate", SUM, TWO, true, IN(vmstate_xxh3)},
	{"digests", "sums", SUM, TWO, true, IN(sums_xxh3)},
};

static const char *const kind_names[SNAPSHOT_KIND_MAX] = {
	"pause", "checkpoint", "template", "frozen"};
static const char *const contents_names[SNAPSHOT_CONTENTS_MAX] = {"memory and disk", "disk"};

const char *snapshot_kind_name(enum snapshot_kind k)
{
	return (unsigned)k < SNAPSHOT_KIND_MAX ? kind_names[k] : "unknown";
}

static int find_name(const char *const *names, int n, const char *name)
{
	int i = 0;
	while (i < n && !str_eq(names[i], name))
		i++;
	return i;
}

enum snapshot_kind snapshot_kind_from_name(const char *name)
{
	return (enum snapshot_kind)find_name(kind_names, SNAPSHOT_KIND_MAX, name);
}

static bool has(unsigned format, const struct key *k)
{
	return k->formats & 1u << (format - 1);
}

// A whole object that is null when it is not there: told by its first key, which is never empty.
static bool group_is_absent(const struct snapshot_info *s, const char *group)
{
	return group && ((str_eq(group, "token") && !s->token.key_id[0]) ||
				(str_eq(group, "auth") && !s->auth_key_id[0]));
}

// --- writing

// Sorted keys, no blanks: one text for one content, so that it can carry its own checksum.
static char *canonical(const json_t *j)
{
	return json_dumps(j, JSON_COMPACT | JSON_SORT_KEYS);
}

static json_t *sum_json(uint64_t v)
{
	char text[17];
	snprintf(text, sizeof text, "%016" PRIx64, v);
	return json_string(text);
}

static uint64_t number_of(const struct key *k, const void *at)
{
	uint32_t narrow;
	uint64_t v = 0;
	if (k->type == NUMBER32) {
		memcpy(&narrow, at, sizeof narrow);
		return narrow;
	}
	memcpy(&v, at, sizeof v);
	return v;
}

static json_t *value_json(const struct snapshot_info *s, const struct key *k)
{
	const char *at = (const char *)s + k->offset;
	switch (k->type) {
	case TEXT:
		return k->null && !*at ? json_null() : json_string(at);
	case NUMBER:
	case NUMBER32:
		return k->null && !number_of(k, at) ? json_null()
						    : json_integer((json_int_t)number_of(k, at));
	case TRUTH:
		return json_boolean(*(const bool *)at);
	case SUM:
		return k->null && !number_of(k, at) ? json_null() : sum_json(number_of(k, at));
	case KIND:
		return json_string(snapshot_kind_name(s->kind));
	case CONTENTS:
		return s->contents < SNAPSHOT_CONTENTS_MAX
			       ? json_string(contents_names[s->contents])
			       : NULL;
	}
	return NULL;
}

// The object of the group, made on its first key. Borrowed; NULL when out of memory.
static json_t *group_json(json_t *j, const char *group)
{
	json_t *g = group ? json_object_get(j, group) : j;
	if (!g && json_object_set_new(j, group, json_object()) == 0)
		g = json_object_get(j, group);
	return g;
}

static int add_checksum(json_t *j, struct strbuf *out)
{
	_cleanup_free_ char *text = canonical(j);
	if (!text ||
		json_object_set_new(j, "checksum", sum_json(format_xxh3(text, strlen(text)))) < 0)
		return -ENOMEM;
	_cleanup_free_ char *whole = canonical(j);
	if (!whole)
		return -ENOMEM;
	strbuf_adds(out, whole);
	strbuf_addc(out, '\n');
	return strbuf_check(out);
}

int snapshot_encode(const struct snapshot_info *s, struct strbuf *out)
{
	unsigned format = s->format ? s->format : SNAPSHOT_FORMAT_VERSION;
	_cleanup_json_ json_t *j = json_pack("{s:i}", "format_version", (int)format);
	for (size_t i = 0; j && i < ARRAY_SIZE(keys); i++) {
		const struct key *k = &keys[i];
		if (!has(format, k))
			continue;
		if (group_is_absent(s, k->group)) {
			json_object_set_new(j, k->group, json_null());
			continue;
		}
		json_t *group = group_json(j, k->group), *value = value_json(s, k);
		if (!group || json_object_set_new(group, k->name, value) < 0)
			return -EINVAL;
	}
	return j ? add_checksum(j, out) : -ENOMEM;
}

// --- reading

static int refuse(struct err *e, const struct key *k, const char *why)
{
	return err_set(e, ERR_INTERNAL, "%s%s%s: %s", k->group ? k->group : "", k->group ? "." : "",
		k->name, why);
}

static int read_text(const struct key *k, const json_t *v, char *at, struct err *e)
{
	const char *text = json_string_value(v);
	if (!text || strlen(text) != json_string_length(v))
		return refuse(e, k, "must be a text");
	return str_format(at, k->size, "%s", text) < 0 ? refuse(e, k, "is too long") : 0;
}

static int read_number(const struct key *k, const json_t *v, void *at, struct err *e)
{
	uint64_t n = (uint64_t)json_integer_value(v);
	uint32_t narrow = (uint32_t)n;
	if (!json_is_integer(v) || json_integer_value(v) < 0 || n < k->min || n > k->max)
		return refuse(e, k, "must be a number in its range");
	if (k->type == NUMBER32)
		memcpy(at, &narrow, sizeof narrow);
	else
		memcpy(at, &n, sizeof n);
	return 0;
}

static int read_sum(const struct key *k, const json_t *v, void *at, struct err *e)
{
	const char *text = json_string_value(v);
	if (!text || strlen(text) != 16 || strspn(text, "0123456789abcdef") != 16)
		return refuse(e, k, "must be 16 hexadecimal digits");
	uint64_t sum = strtoull(text, NULL, 16);
	memcpy(at, &sum, sizeof sum);
	return 0;
}

static int read_name(const struct key *k, const json_t *v, const char *const *names, int n,
	unsigned *ret, struct err *e)
{
	const char *text = json_string_value(v);
	int i = text ? find_name(names, n, text) : n;
	*ret = (unsigned)i;
	return i == n ? refuse(e, k, "is unknown") : 0;
}

static int read_value(const struct key *k, const json_t *v, struct snapshot_info *s, struct err *e)
{
	char *at = (char *)s + k->offset;
	unsigned index;
	int r;
	if (k->null && json_is_null(v))
		return 0;
	switch (k->type) {
	case TEXT:
		return read_text(k, v, at, e);
	case NUMBER:
	case NUMBER32:
		return read_number(k, v, at, e);
	case TRUTH:
		*(bool *)at = json_is_true(v);
		return json_is_boolean(v) ? 0 : refuse(e, k, "must be true or false");
	case SUM:
		return read_sum(k, v, at, e);
	case KIND:
		r = read_name(k, v, kind_names, SNAPSHOT_KIND_MAX, &index, e);
		s->kind = (enum snapshot_kind)index;
		return r;
	case CONTENTS:
		r = read_name(k, v, contents_names, SNAPSHOT_CONTENTS_MAX, &index, e);
		s->contents = (enum snapshot_contents)index;
		return r;
	}
	return -EINVAL;
}

// First the version alone, so that a newer file is called newer and not damaged.
static int read_version(const json_t *j, unsigned *ret, struct err *e)
{
	json_int_t v = json_integer_value(json_object_get(j, "format_version"));
	if (v < 1)
		return err_set(e, ERR_INTERNAL, "format_version: must be a number from 1");
	if (v > (json_int_t)SNAPSHOT_FORMAT_VERSION)
		return err_set(e, ERR_INTERNAL,
			"format version %" JSON_INTEGER_FORMAT "; this program knows 1 to %u", v,
			SNAPSHOT_FORMAT_VERSION);
	*ret = (unsigned)v;
	return 0;
}

static int read_keys(const json_t *j, struct snapshot_info *s, struct err *e)
{
	int r = read_version(j, &s->format, e);
	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(keys); i++) {
		const struct key *k = &keys[i];
		const json_t *group = k->group ? json_object_get(j, k->group) : j;
		if (!has(s->format, k) ||
			(json_is_null(group) &&
				(str_eq(k->group, "token") || str_eq(k->group, "auth"))))
			continue;
		r = read_value(k, json_object_get(group, k->name), s, e);
	}
	return r;
}

static int check_checksum(const json_t *j, const char *text, size_t len, struct err *e)
{
	_cleanup_strbuf_ struct strbuf again = {0};
	_cleanup_json_ json_t *plain = json_copy((json_t *)j);
	if (!plain || json_object_del(plain, "checksum") < 0)
		return err_set(e, ERR_INTERNAL, "has no checksum");
	if (add_checksum(plain, &again) < 0)
		return err_errno(e, ENOMEM, "snapshot");
	if (again.len != len || memcmp(again.data, text, len) != 0)
		return err_set(e, ERR_INTERNAL, "checksum does not match");
	return 0;
}

// A key that is not in the table, a null in another place: the text is not what we would write.
static int check_bytes(const struct snapshot_info *s, const char *text, size_t len, struct err *e)
{
	_cleanup_strbuf_ struct strbuf again = {0};
	int r = snapshot_encode(s, &again);
	if (r < 0)
		return err_errno(e, r, "snapshot");
	if (again.len != len || memcmp(again.data, text, len) != 0)
		return err_set(e, ERR_INTERNAL, "has keys that format %u does not have", s->format);
	return 0;
}

static bool is_hex(const char *text, size_t len)
{
	return strlen(text) == len && strspn(text, "0123456789abcdef") == len;
}

int snapshot_check(const struct snapshot_info *s, struct err *e)
{
	if (!id_is_uuid(s->id) || !id_is_uuid(s->image) || (*s->parent && !id_is_uuid(s->parent)))
		return err_set(e, ERR_INTERNAL, "id, image and parent must be UUIDs");
	if (!is_hex(s->vmm_sha256, 64))
		return err_set(e, ERR_INTERNAL, "vmm.sha256 must be 64 hexadecimal digits");
	if (s->memory_bytes % SNAPSHOT_BLOCK)
		return err_set(
			e, ERR_INTERNAL, "memory_bytes is not a multiple of %u", SNAPSHOT_BLOCK);
	if (*s->token.key_id && !is_hex(s->token.key_id, 16))
		return err_set(e, ERR_INTERNAL, "token.key_id must be 16 hexadecimal digits");
	return 0;
}

int snapshot_decode(const char *text, size_t len, struct snapshot_info *ret, struct err *e)
{
	_cleanup_json_ json_t *j = NULL;
	// Who wrote format 1 took none that was not.
	struct snapshot_info s = {.quiesced = true};
	int r = json_parse_object(text, len, &j, e);
	if (r == 0)
		r = read_keys(j, &s, e);
	if (r == 0)
		r = check_checksum(j, text, len, e);
	if (r == 0)
		r = snapshot_check(&s, e);
	if (r == 0)
		r = check_bytes(&s, text, len, e);
	if (r < 0) {
		// Not the caller's request but a damaged file.
		if (e)
			e->code = ERR_INTERNAL;
		return -EIO;
	}
	*ret = s;
	return 0;
}
