// SPDX-License-Identifier: Apache-2.0
// The JSON mapping: every message there and back, what JSON it is, and that the tables say what
// proto/hostagent.proto says (the file is argument 1).
#include "../check.h"
#include <ctype.h>
#include <fcntl.h>
#include <string.h>
#include "base/file.h"
#include "base/json.h"
#include "hostagent/messages.h"

static const char *proto_path;

static const struct wire_message *message(const char *name)
{
	for (size_t i = 0; rpc_messages[i]; i++)
		if (strcmp(rpc_messages[i]->name, name) == 0)
			return rpc_messages[i];
	fail_msg("no message %s", name);
	return NULL;
}

// --- random structs, by the tables

static uint64_t rng = 88172645463325252ull;
static uint64_t next(void)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return rng;
}

static void random_text(const struct wire_field *f, char *out, size_t size)
{
	static const char *const odd[] = {
		"\xc3\xa9", "\"", "\\", "\n", "\xf0\x9f\x98\x80", " ", "/"};
	size_t n = 0;
	if (f->form == FORM_UUID) {
		snprintf(
			out, size, "%08x-0000-4000-8000-%012x", (unsigned)next(), (unsigned)next());
		return;
	}
	size_t longest = f->form == FORM_SANDBOX ? 39 : 60; // of those that are accepted
	size_t len = next() % MIN(size - 1, longest) + (f->flags & WIRE_REQUIRED ? 1 : 0);
	while (n < len) {
		if (f->form != FORM_ANY || next() % 4) {
			out[n++] = (char)('a' + next() % 26);
		} else {
			const char *o = odd[next() % ARRAY_SIZE(odd)];
			if (n + strlen(o) > len)
				break;
			memcpy(out + n, o, strlen(o));
			n += strlen(o);
		}
	}
	if (n == 0 && (f->flags & WIRE_REQUIRED))
		out[n++] = 'x';
	out[n] = '\0';
}

static json_t *random_object(void)
{
	json_t *o = json_object();
	for (size_t i = next() % 4; i > 0; i--) {
		char key[8];
		snprintf(key, sizeof key, "k%u", (unsigned)i);
		json_object_set_new(o, key, json_string(next() % 2 ? "v\xc3\xa9\"" : ""));
	}
	return o;
}

// What the struct borrows is kept here until the end of a round.
static void *kept[4096];
static size_t n_kept;
static bool kept_json[4096];
static void *keep(void *p, bool json)
{
	assert_true(n_kept < ARRAY_SIZE(kept));
	kept_json[n_kept] = json;
	return kept[n_kept++] = p;
}

static void fill(const struct wire_message *m, void *p);

static void fill_field(const struct wire_field *f, void *p)
{
	void *member = (char *)p + f->offset;
	bool zero = !(f->flags & WIRE_REQUIRED) && next() % 4 == 0;
	char text[64];
	uint64_t max;
	size_t n;
	if (zero && f->type != WIRE_ENUM)
		return;
	switch (f->type) {
	case WIRE_TEXT:
		random_text(f, member, f->size);
		break;
	case WIRE_POINTER:
		random_text(f, text, sizeof text);
		if (text[0])
			*(const char **)member = keep(strdup(text), false);
		break;
	case WIRE_BUFFER:
		random_text(f, text, sizeof text);
		if (text[0])
			strbuf_adds(member, text);
		break;
	case WIRE_BYTES:
		for (n = next() % 50; n > 0; n--)
			strbuf_addc(member, (char)next());
		break;
	case WIRE_BOOL:
		*(bool *)member = true;
		break;
	case WIRE_U32:
		max = f->max ? f->max : UINT32_MAX;
		*(unsigned *)member = (unsigned)(next() % 2 ? max : next() % max);
		break;
	case WIRE_U64:
		max = f->max ? f->max : UINT64_MAX;
		*(uint64_t *)member = next() % 2 ? max : next() % max;
		break;
	case WIRE_ENUM:
		*(int *)member = (int)(next() % (unsigned)(f->names->n - 1));
		break;
	case WIRE_MAP:
		*(json_t **)member = keep(random_object(), true);
		if (json_object_size(*(json_t **)member) == 0)
			*(json_t **)member = NULL;
		break;
	case WIRE_OBJECT:
		*(json_t **)member = random_object();
		break;
	case WIRE_MESSAGE:
		fill(f->message, member);
		if (f->flags & WIRE_HAS)
			*(bool *)((char *)p + f->count) = true;
		break;
	case WIRE_ARRAY:
		n = next() % (f->size / f->message->size + 1);
		for (size_t i = 0; i < n; i++)
			fill(f->message, (char *)member + i * f->message->size);
		*(unsigned *)((char *)p + f->count) = (unsigned)n;
		break;
	case WIRE_LIST:
		n = next() % 5 + 1;
		*(void **)member = calloc(n, f->message->size);
		for (size_t i = 0; i < n; i++)
			fill(f->message, *(char **)member + i * f->message->size);
		*(size_t *)((char *)p + f->count) = n;
		break;
	}
}

static void fill(const struct wire_message *m, void *p)
{
	for (size_t i = 0; i < m->n; i++)
		fill_field(&m->fields[i], p);
}

static bool same(const struct wire_message *m, const void *a, const void *b);

static bool same_field(const struct wire_field *f, const void *pa, const void *pb)
{
	const void *a = (const char *)pa + f->offset, *b = (const char *)pb + f->offset;
	size_t n, nb;
	switch (f->type) {
	case WIRE_TEXT:
		return strcmp(a, b) == 0;
	case WIRE_POINTER: {
		const char *x = *(const char *const *)a, *y = *(const char *const *)b;
		return x == y || str_eq(x, y);
	}
	case WIRE_BUFFER:
	case WIRE_BYTES: {
		const struct strbuf *x = a, *y = b;
		return x->len == y->len && (x->len == 0 || memcmp(x->data, y->data, x->len) == 0);
	}
	case WIRE_BOOL:
		return *(const bool *)a == *(const bool *)b;
	case WIRE_U32:
	case WIRE_ENUM:
		return *(const unsigned *)a == *(const unsigned *)b;
	case WIRE_U64:
		return *(const uint64_t *)a == *(const uint64_t *)b;
	case WIRE_MAP:
	case WIRE_OBJECT: {
		json_t *x = *(json_t *const *)a, *y = *(json_t *const *)b;
		return x == y || json_equal(x, y);
	}
	case WIRE_MESSAGE:
		if (f->flags & WIRE_HAS) {
			bool x = *(const bool *)((const char *)pa + f->count);
			if (x != *(const bool *)((const char *)pb + f->count) || !x)
				return x == *(const bool *)((const char *)pb + f->count);
		}
		return same(f->message, a, b);
	case WIRE_ARRAY:
	case WIRE_LIST:
		n = f->type == WIRE_ARRAY ? *(const unsigned *)((const char *)pa + f->count)
					  : *(const size_t *)((const char *)pa + f->count);
		nb = f->type == WIRE_ARRAY ? *(const unsigned *)((const char *)pb + f->count)
					   : *(const size_t *)((const char *)pb + f->count);
		if (n != nb)
			return false;
		a = f->type == WIRE_LIST ? *(const void *const *)a : a;
		b = f->type == WIRE_LIST ? *(const void *const *)b : b;
		for (size_t i = 0; i < n; i++)
			if (!same(f->message, (const char *)a + i * f->message->size,
				    (const char *)b + i * f->message->size))
				return false;
		return true;
	}
	return false;
}

static bool same(const struct wire_message *m, const void *a, const void *b)
{
	for (size_t i = 0; i < m->n; i++)
		if (!same_field(&m->fields[i], a, b)) {
			print_message("%s.%s differs\n", m->name, m->fields[i].name);
			return false;
		}
	return true;
}

static void every_message_comes_back_as_it_was(void **state)
{
	for (size_t i = 0; rpc_messages[i]; i++) {
		const struct wire_message *m = rpc_messages[i];
		for (int round = 0; round < 300; round++) {
			struct err e = {0};
			void *a = calloc(1, MAX(m->size, 1)), *b = malloc(MAX(m->size, 1));
			fill(m, a);
			json_t *j = wire_encode(m, a);
			char *text = json_compact(j);
			json_t *parsed = NULL;
			assert_int_equal(json_parse_object(text, strlen(text), &parsed, &e), 0);
			if (wire_decode(m, parsed, round % 2, b, &e) < 0)
				fail_msg("%s: %s in %s", m->name, e.text, text);
			if (!same(m, a, b))
				fail_msg("%s: %s", m->name, text);
			wire_done(m, a);
			wire_done(m, b);
			json_decref(j);
			json_decref(parsed);
			free(text);
			free(a);
			free(b);
			while (n_kept > 0)
				if (kept_json[--n_kept])
					json_decref(kept[n_kept]);
				else
					free(kept[n_kept]);
		}
	}
}

// --- what it looks like

static void the_json_is_that_of_proto3(void **state)
{
	const struct host_sandbox s = {.id = "ibox",
		.state = SANDBOX_PAUSED,
		.vcpus = 2,
		.disk_mb = 2048,
		.created_ns = UINT64_MAX,
		.on_timeout = ON_TIMEOUT_KILL,
		.phases = {{"boot", 7}},
		.n_phases = 1,
		.detail = "cut \xc3"};
	_cleanup_json_ json_t *j = wire_encode(message("Sandbox"), &s);
	_cleanup_free_ char *text = json_compact(j);
	assert_string_equal(text, "{\"id\":\"ibox\",\"state\":\"SANDBOX_STATE_PAUSED\",\"vcpus\":2,"
				  "\"diskMb\":\"2048\",\"createdNs\":\"18446744073709551615\","
				  "\"onTimeout\":\"ON_TIMEOUT_KILL\",\"detail\":\"cut ?\","
				  "\"phases\":[{\"name\":\"boot\",\"us\":\"7\"}]}");
	const struct rpc_text log = {.data = {.data = (char *)"\xff\xfe\xfd", .len = 3}};
	_cleanup_json_ json_t *l = wire_encode(message("ReadLogResponse"), &log);
	assert_string_equal(json_string_value(json_object_get(l, "data")), "//79");
	struct rpc_text back;
	_cleanup_json_ json_t *url = json_pack("{s:s}", "data", "__79");
	assert_int_equal(wire_decode(message("ReadLogResponse"), url, false, &back, NULL), 0);
	assert_int_equal(back.data.len, 3);
	assert_memory_equal(back.data.data, "\xff\xfe\xfd", 3);
	strbuf_done(&back.data);
}

static void a_newer_host_is_understood(void **state)
{
	_cleanup_json_ json_t *j = json_loads(
		"{\"sandbox\":{\"id\":\"ibox\",\"state\":\"SANDBOX_STATE_DREAMING\",\"mood\":[1],"
		"\"vcpus\":2,\"onTimeout\":17},\"more\":{}}",
		0, NULL);
	struct rpc_sandbox got;
	struct err e = {0};
	assert_int_equal(wire_decode(message("GetSandboxResponse"), j, true, &got, &e), 0);
	assert_true(got.has);
	assert_string_equal(got.sandbox.id, "ibox");
	assert_int_equal(got.sandbox.state, SANDBOX_ERROR);
	assert_int_equal(got.sandbox.vcpus, 2);
	assert_true(wire_decode(message("GetSandboxResponse"), j, false, &got, &e) < 0);
	assert_string_equal(e.text, "sandbox: state: must be one of SANDBOX_STATE_PENDING, ...");
	assert_false(got.has);
}

static void errors_carry_their_own_code(void **state)
{
	struct err e = {0}, back = {0};
	err_set(&e, ERR_NO_SPACE, "full");
	_cleanup_json_ json_t *j = rpc_error_json(&e);
	_cleanup_free_ char *text = json_compact(j);
	// As any protobuf library would write ErrorInfo{code: "no_space"}.
	assert_string_equal(text,
		"{\"code\":\"resource_exhausted\",\"message\":\"full\",\"details\":[{\"type\":"
		"\"stasis.host.v1.ErrorInfo\",\"value\":\"Cghub19zcGFjZQ==\",\"debug\":{\"code\":"
		"\"no_space\"}}]}");
	assert_int_equal(rpc_error_status(&e), 429);
	assert_int_equal(rpc_error_read(j, 429, &back), -ENOSPC);
	assert_int_equal(back.code, ERR_NO_SPACE);
	// Without a detail, with a damaged or unknown one, with nothing at all.
	static const struct {
		const char *json;
		int status;
		enum err_code code;
	} others[] = {
		{"{\"code\":\"resource_exhausted\",\"message\":\"x\"}", 429, ERR_LIMIT},
		{"{\"code\":\"not_found\",\"details\":[{\"type\":\"stasis.host.v1.ErrorInfo\","
		 "\"value\":\"Cv8\"}]}",
			404, ERR_NOT_FOUND},
		{"{\"code\":\"unavailable\",\"details\":[{\"type\":\"stasis.host.v1.ErrorInfo\","
		 "\"value\":\"CgRteXRo\"}]}",
			503, ERR_UNAVAILABLE},
		{"{\"code\":\"aborted\",\"details\":7}", 409, ERR_CONFLICT},
		{"{}", 404, ERR_NOT_FOUND},
	};
	for (size_t i = 0; i < ARRAY_SIZE(others); i++) {
		_cleanup_json_ json_t *o = json_loads(others[i].json, 0, NULL);
		struct err got = {0};
		assert_true(rpc_error_read(o, others[i].status, &got) < 0);
		if (got.code != others[i].code)
			fail_msg("%s: %d", others[i].json, got.code);
	}
	struct err got = {0};
	assert_true(rpc_error_read(NULL, 502, &got) < 0);
	assert_int_equal(got.code, ERR_BAD_GATEWAY);
}

// --- the tables and the file

static void json_name(const char *proto, char out[64])
{
	size_t n = 0;
	for (; *proto && n < 62; proto++)
		if (*proto == '_' && proto[1])
			out[n++] = (char)toupper(*++proto);
		else
			out[n++] = *proto;
	out[n] = '\0';
}

static const char *type_of(const struct wire_field *f)
{
	switch (f->type) {
	case WIRE_TEXT:
	case WIRE_POINTER:
	case WIRE_BUFFER:
		return "string";
	case WIRE_BYTES:
		return "bytes";
	case WIRE_BOOL:
		return "bool";
	case WIRE_U32:
		return "uint32";
	case WIRE_U64:
		return "uint64";
	case WIRE_ENUM:
		return strstr(f->names->names[0], "STATE") ? "SandboxState" : "OnTimeout";
	case WIRE_MAP:
		return "map<string, string>";
	case WIRE_OBJECT:
		return "google.protobuf.Struct";
	case WIRE_MESSAGE:
	case WIRE_ARRAY:
	case WIRE_LIST:
		return f->message->name;
	}
	return "";
}

// The at-th of the message. They stand in the order of their numbers, which may have gaps.
static void check_field(const struct wire_message *m, size_t at, const char *type, const char *name,
	size_t number, bool repeated)
{
	static size_t before;
	char json[64];
	json_name(name, json);
	if (at >= m->n || number < 1 || (at > 0 && number <= before))
		fail_msg("%s.%s: number %zu", m->name, name, number);
	before = number;
	const struct wire_field *f = &m->fields[at];
	if (strcmp(f->name, json) != 0 || strcmp(type_of(f), type) != 0 ||
		repeated != (f->type == WIRE_ARRAY || f->type == WIRE_LIST))
		fail_msg("%s: %s %s = %zu, but the table has %s %s", m->name, type, name, number,
			type_of(f), f->name);
}

static void the_tables_say_what_the_file_says(void **state)
{
	_cleanup_strbuf_ struct strbuf text = {0};
	assert_int_equal(file_read(AT_FDCWD, proto_path, 1 << 20, &text), 0);
	const struct wire_message *m = NULL;
	size_t n_messages = 0, n_methods = 0, n_fields = 0, n_enum = 0, known = 0;
	const struct wire_enum *names = NULL;
	char *save, *line;
	while (rpc_messages[known])
		known++;
	for (line = strtok_r(text.data, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char a[64], b[64], c[64], d[64];
		size_t number;
		char *comment = strstr(line, "//");
		if (comment)
			*comment = '\0';
		if (sscanf(line, " rpc %63[A-Za-z](%63[A-Za-z]) returns (%63[A-Za-z ])", a, b, c) ==
			3) {
			bool stream = strncmp(c, "stream ", 7) == 0;
			size_t i = 0;
			while (i < RPC_MAX && strcmp(rpc_methods[i].name, a) != 0)
				i++;
			assert_true(i < RPC_MAX);
			assert_string_equal(rpc_methods[i].in->name, b);
			assert_string_equal(rpc_methods[i].out->name, c + (stream ? 7 : 0));
			assert_int_equal(rpc_methods[i].stream, stream);
			n_methods++;
		} else if (sscanf(line, "message %63s", a) == 1) {
			m = message(a);
			n_messages++;
			n_fields = 0;
			if (strstr(line, "{}"))
				assert_int_equal(m->n, 0);
		} else if (sscanf(line, "enum %63s", a) == 1) {
			names = strcmp(a, "SandboxState") == 0
					? message("Sandbox")->fields[2].names
					: message("Sandbox")->fields[10].names;
			n_enum = 0;
		} else if (names && sscanf(line, " %63[A-Z_] = %zu;", a, &number) == 2) {
			assert_int_equal(number, n_enum++);
			assert_string_equal(names->names[number], a);
		} else if (line[0] == '}') {
			if (m)
				assert_int_equal(n_fields, m->n);
			if (names)
				assert_int_equal(n_enum, names->n);
			m = NULL;
			names = NULL;
		} else if (m && strstr(line, "map<string, string>") &&
			   sscanf(strchr(line, '>') + 1, " %63s = %zu;", b, &number) == 2) {
			check_field(m, n_fields, "map<string, string>", b, number, false);
			n_fields++;
		} else if (m && sscanf(line, " repeated %63s %63s = %zu;", a, b, &number) == 3) {
			check_field(m, n_fields, a, b, number, true);
			n_fields++;
		} else if (m && sscanf(line, " %63s %63s %63s %63s", a, b, c, d) == 4 &&
			   strcmp(c, "=") == 0) {
			check_field(m, n_fields, a, b, strtoul(d, NULL, 10), false);
			n_fields++;
		}
	}
	assert_int_equal(n_methods, RPC_MAX);
	assert_int_equal(n_messages, known);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_message_comes_back_as_it_was),
		cmocka_unit_test(the_json_is_that_of_proto3),
		cmocka_unit_test(a_newer_host_is_understood),
		cmocka_unit_test(errors_carry_their_own_code),
		cmocka_unit_test(the_tables_say_what_the_file_says),
	};
	proto_path = argv[1];
	return cmocka_run_group_tests(tests, NULL, NULL);
}
