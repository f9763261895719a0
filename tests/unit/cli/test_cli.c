// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include "../check.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"
#include "cli/base/option.h"
#include "cli/base/output.h"
#include "cli/base/value.h"
#include "cli/command/nested.h"
#include "cli/commands.h"

static void times(void **state)
{
	static const struct {
		const char *text;
		uint64_t seconds;
	} good[] = {{"0", 0}, {"none", 0}, {"90", 90}, {"90s", 90}, {"5m", 300}, {"2h", 7200},
		{"1d", 86400}};
	static const char *const bad[] = {
		"", "s", "m", "-1", "5 m", "5mm", "1.5h", "m5", "soon", "99999999999999999999d"};
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		uint64_t v = 1;
		assert_int_equal(cli_parse_seconds(good[i].text, &v), 0);
		assert_int_equal(v, good[i].seconds);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		uint64_t v = 1;
		assert_true(cli_parse_seconds(bad[i], &v) < 0);
		assert_int_equal(v, 1);
	}
}

static void sizes(void **state)
{
	static const struct {
		const char *text;
		uint64_t unit, bytes;
	} good[] = {{"512", 1, 512}, {"512", 1 << 20, 512u << 20}, {"1K", 1, 1024},
		{"512M", 1 << 20, 512u << 20}, {"2g", 1, 2ull << 30}, {"20GB", 1, 20ull << 30},
		{"20GiB", 1, 20ull << 30}, {"1T", 1, 1ull << 40}};
	static const char *const bad[] = {
		"", "G", "GB", "iB", "-1G", "1.5G", "1X", "1GG", "G1", "99999999999T", "B"};
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		uint64_t v = 1;
		assert_int_equal(cli_parse_bytes(good[i].text, good[i].unit, &v), 0);
		assert_true(v == good[i].bytes);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		uint64_t v = 1;
		assert_true(cli_parse_bytes(bad[i], 1, &v) < 0);
		assert_int_equal(v, 1);
	}
}

struct args {
	uint64_t number, memory, size, limit;
	bool flag, given;
	const char *text;
	json_t *map;
};

static int parse(struct cli *c, struct args *a, struct err *e, int min, int max, char **argv)
{
	static const struct cli_command command = {.name = "test", .synopsis = "ID"};
	const struct cli_option options[] = {
		{'n', "number", "N", "", OPT_U64, &a->number, 1, 32},
		{0, "memory", "MIB", "", OPT_MIB, &a->memory, 1, 0, &a->given},
		{0, "size", "SIZE", "", OPT_BYTES, &a->size, 1u << 30},
		{0, "limit", "N", "", OPT_U64, &a->limit, 1},
		{'f', "flag", NULL, "", OPT_FLAG, &a->flag},
		{'t', "text", "TEXT", "", OPT_STRING, &a->text},
		{'e', "env", "K=V", "", OPT_MAP, &a->map},
		{0},
	};
	*c = (struct cli){.command = &command, .argv = argv};
	while (argv[c->argc])
		c->argc++;
	return cli_parse(c, options, min, max, e);
}
#define ARGV(...) ((char *[]){(char *)"test", __VA_ARGS__, NULL})

static void options_are_read(void **state)
{
	struct args a = {0};
	struct cli c;
	struct err e = {0};
	char **argv = ARGV((char *)"x", (char *)"-fn", (char *)"3", (char *)"--memory=2G",
		(char *)"-e", (char *)"A=1=2", (char *)"-eB=", (char *)"-o", (char *)"json",
		(char *)"--", (char *)"-y");
	assert_int_equal(parse(&c, &a, &e, 2, 2, argv), 0);
	assert_int_equal(a.number, 3);
	assert_int_equal(a.memory, 2048);
	assert_true(a.flag && a.given && c.json);
	assert_string_equal(json_string_value(json_object_get(a.map, "A")), "1=2");
	assert_string_equal(json_string_value(json_object_get(a.map, "B")), "");
	assert_int_equal(c.argc, 2);
	assert_string_equal(c.argv[0], "x");
	assert_string_equal(c.argv[1], "-y");
	json_decref(a.map);
}

static void mistakes_are_told(void **state)
{
	static const struct {
		const char *argv[4];
		const char *says;
	} table[] = {
		{{"x", "--nummber", "3"}, "did you mean --number?"},
		{{"x", "--mem=3"}, NULL}, // a unique beginning is enough
		{{"x", "-z"}, "unknown option '-z'"},
		{{"x", "--number"}, "needs a value"},
		{{"x", "--flag=1"}, "takes no value"},
		{{"x", "--number", "0"}, "1 to 32"},
		{{"x", "--number", "33"}, "1 to 32"},
		{{"x", "--memory", "1k"}, "--memory: must be at least 1 MiB, not 1k"},
		{{"x", "--size", "1"}, "--size: must be at least 1G, not 1"},
		{{"x", "--limit", "0"}, "--limit: must be at least 1, not 0"},
		{{"x", "-d"}, "unknown option '-d'"},
		{{"x", "--number", "many"}, "not a number"},
		{{"x", "--env", "novalue"}, "KEY=VALUE"},
		{{"x", "--env", "=v"}, "KEY=VALUE"},
		{{"x", "--env", "k=\xff"}, "UTF-8"},
		{{"x", "-o", "xml"}, "not table or json"},
		{{NULL}, "missing operand"},
		{{"x", "y"}, "unexpected 'y'"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		struct args a = {0};
		struct cli c;
		struct err e = {0};
		char *argv[6] = {(char *)"test"};
		for (size_t k = 0; k < 4; k++)
			argv[k + 1] = (char *)table[i].argv[k];
		int rc = parse(&c, &a, &e, 1, 1, argv);
		if (!table[i].says) {
			assert_int_equal(rc, 0);
		} else {
			assert_true(rc < 0);
			assert_int_equal(e.code, ERR_INVALID);
			if (!strstr(e.text, table[i].says))
				fail_msg("'%s' does not say '%s'", e.text, table[i].says);
		}
		json_decref(a.map);
	}
}

static const char *word(const void *ctx, size_t i)
{
	return ((const char *const *)ctx)[i];
}

static void suggestions(void **state)
{
	static const char *const words[] = {"create", "ls", "get", "exec", "cp", "events"};
	static const char *const cases[][2] = {{"craete", "create"}, {"crate", "create"},
		{"exce", "exec"}, {"event", "events"}, {"l", "ls"}, {"zzzzzz", NULL}, {"", NULL}};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		const char *got = cli_suggest(cases[i][0], word, words, ARRAY_SIZE(words));
		if (cases[i][1])
			assert_string_equal(got, cases[i][1]);
		else
			assert_null(got);
	}
}

static void synonyms_lead_to_commands(void **state)
{
	for (const struct cli_synonym *s = cli_synonyms; s->word; s++) {
		bool here = false, also = !s->also;
		for (const struct cli_command *k = cli_commands; k->name; k++) {
			assert_string_not_equal(s->word, k->name);
			here |= str_starts(s->here, k->name);
			also |= s->also && str_starts(s->also, k->name);
		}
		if (!here || !also)
			fail_msg("'%s' leads nowhere", s->word);
	}
}

static void every_command_has_its_help(void **state)
{
	for (const struct cli_command *c = cli_commands; c->name; c++) {
		assert_non_null(c->run);
		assert_true(strlen(c->summary) > 5);
		for (const struct cli_command *k = cli_commands; k < c; k++)
			assert_string_not_equal(c->name, k->name);
	}
}

static void tables_align_and_hide_control_characters(void **state)
{
	_cleanup_table_ struct table t;
	_cleanup_free_ char *text = NULL;
	size_t size;
	table_init(&t, (const char *const[]){"ID", "NAME", NULL});
	table_cell(&t, "%s", "caf\xc3\xa9");
	table_cell(&t, "%s", "a\033[31mb\n");
	table_cell(&t, "%s", "\xc2\x80\xc2\x9b\xc2\x9f\xc2\xa0\x7f");
	table_cell(&t, "%s", "y");
	FILE *f = open_memstream(&text, &size);
	assert_int_equal(table_print(&t, f), 0);
	fclose(f);
	assert_string_equal(text, "ID     NAME\ncaf\xc3\xa9   a?[31mb?\n???\xc2\xa0?  y\n");
}

// By columns of the terminal: a wide character has two, a combining one none.
static void tables_align_wide_characters(void **state)
{
	_cleanup_table_ struct table t;
	_cleanup_free_ char *text = NULL;
	size_t size;
	static const char *const cells[] = {"\xe6\x97\xa5\xe6\x9c\xac", "1", "cafe\xcc\x81", "2",
		"\xf0\x9f\x98\x80", "3", "bad\xff\xc3", "4"};
	table_init(&t, (const char *const[]){"A", "B", NULL});
	for (size_t i = 0; i < ARRAY_SIZE(cells); i++)
		table_cell(&t, "%s", cells[i]);
	FILE *f = open_memstream(&text, &size);
	assert_int_equal(table_print(&t, f), 0);
	fclose(f);
	assert_string_equal(text, "A      B\n\xe6\x97\xa5\xe6\x9c\xac   1\ncafe\xcc\x81   2\n"
				  "\xf0\x9f\x98\x80     3\nbad\xff\xc3  4\n");
}

static void human(void **state)
{
	char out[32];
	human_size(0, out);
	assert_string_equal(out, "-");
	human_size(1023, out);
	assert_string_equal(out, "1023 B");
	human_size(1536, out);
	assert_string_equal(out, "1.5 KiB");
	human_size(512ull << 20, out);
	assert_string_equal(out, "512 MiB");
	human_size(UINT64_MAX, out);
	assert_string_equal(out, "16 EiB");
	human_span(59, out);
	assert_string_equal(out, "59s");
	static const struct {
		uint64_t seconds;
		const char *text;
	} spans[] = {{60, "1m"}, {89, "1m"}, {90, "2m"}, {299, "5m"}, {3569, "59m"},
		{3570, "1h 0m"}, {3600 + 1799, "1h 30m"}, {86369, "23h 59m"}, {86370, "1d 0h"},
		{2 * 86400 + 3 * 3600 + 1799, "2d 3h"}, {3 * 86400 - 1, "3d 0h"}};
	for (size_t i = 0; i < ARRAY_SIZE(spans); i++) {
		human_span(spans[i].seconds, out);
		assert_string_equal(out, spans[i].text);
	}
	json_t *past = json_string("2020-01-01T00:00:00Z"), *none = json_null();
	human_when(past, out);
	assert_non_null(strstr(out, " ago"));
	human_when(none, out);
	assert_string_equal(out, "-");
	char when[32];
	// Rounded, so that a test need not be quick.
	clock_format_rfc3339(clock_realtime_ns() + 300 * NSEC_PER_SEC, when);
	json_t *soon = json_string(when);
	human_when(soon, out);
	assert_string_equal(out, "in 5m");
	json_decref(past);
	json_decref(soon);
	json_decref(none);
}

// What the kernel has said of it, by version and module.
static void nested_virtualisation_is_seen(void **state)
{
	static const struct {
		const char *module, *value, *seen;
	} cases[] = {{"kvm_amd", "1\n", "kvm_amd"}, {"kvm_intel", "Y\n", "kvm_intel"},
		{"kvm_intel", "N\n", NULL}, {"kvm_amd", "0\n", NULL}, {"kvm_amd", "", NULL},
		{"kvm", "Y\n", NULL}};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char dir[] = "/tmp/test-cli.XXXXXX";
		assert_non_null(mkdtemp(dir));
		_cleanup_free_ char *parameters =
			str_printf("%s/%s/parameters", dir, cases[i].module);
		_cleanup_free_ char *file = str_printf("%s/nested", parameters);
		assert_null(nested_module(dir));
		assert_int_equal(file_mkdir_p(AT_FDCWD, parameters, 0700), 0);
		assert_int_equal(file_write_atomic(AT_FDCWD, file, cases[i].value,
					 strlen(cases[i].value), 0600),
			0);
		const char *seen = nested_module(dir);
		file_rm_rf(AT_FDCWD, dir);
		assert_true(str_eq(seen, cases[i].seen) || seen == cases[i].seen);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(times),
		cmocka_unit_test(sizes),
		cmocka_unit_test(options_are_read),
		cmocka_unit_test(mistakes_are_told),
		cmocka_unit_test(suggestions),
		cmocka_unit_test(synonyms_lead_to_commands),
		cmocka_unit_test(every_command_has_its_help),
		cmocka_unit_test(tables_align_and_hide_control_characters),
		cmocka_unit_test(tables_align_wide_characters),
		cmocka_unit_test(human),
		cmocka_unit_test(nested_virtualisation_is_seen),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
