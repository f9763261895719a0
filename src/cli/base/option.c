// SPDX-License-Identifier: Apache-2.0
// Options, their values and their help.
#include "cli/base/option.h"
#include <getopt.h>
#include <string.h>
#include "base/str.h"
#include "cli/base/value.h"

const char *cli_suggest(
	const char *word, const char *(*get)(const void *ctx, size_t i), const void *ctx, size_t n)
{
	const char *best = NULL;
	unsigned best_distance = strlen(word) > 4 ? 3 : 2; // below this: like enough
	for (size_t i = 0; i < n; i++) {
		const char *name = get(ctx, i);
		if (strlen(word) >= 2 && str_starts(name, word))
			return name;
		unsigned d = str_distance(word, name);
		if (d < best_distance) {
			best = name;
			best_distance = d;
		}
	}
	return best;
}

static int set_map(json_t **map, const char *value, bool may_remove)
{
	const char *end = strchr(value, '=');
	bool removes = !end && may_remove && str_ends(value, "-");
	if (removes)
		end = value + strlen(value) - 1;
	if (!end || end == value)
		return -EINVAL;
	_cleanup_free_ char *key = strndup(value, (size_t)(end - value));
	if (!*map)
		*map = json_object();
	if (!key || !*map ||
		json_object_set_new(*map, key, removes ? json_null() : json_string(end + 1)) < 0)
		return -EILSEQ; // jansson refuses text that is not UTF-8
	return 0;
}

// There is no most: the least is said, in the units in which it is typed.
static int too_small(const struct cli_option *o, const char *value, struct err *e)
{
	unsigned long long least = o->min;
	const char *unit = o->type == OPT_MIB ? " MiB" : "";
	if (o->type == OPT_BYTES && least % (1u << 30) == 0) {
		least >>= 30;
		unit = "G";
	}
	return err_set(e, ERR_INVALID, "--%s: must be at least %llu%s, not %s", o->name, least,
		unit, value);
}

int cli_set_option(const struct cli_option *o, const char *value, struct err *e)
{
	static const char *const expected[] = {
		[OPT_U64] = "a number",
		[OPT_SECONDS] = "a time such as 90s, 5m, 2h or 'none'",
		[OPT_MIB] = "a size such as 512, 512M or 2G",
		[OPT_BYTES] = "a size such as 512M or 20G",
		[OPT_MAP] = "KEY=VALUE in UTF-8",
		[OPT_PATCH] = "KEY=VALUE, or KEY- to remove it, in UTF-8",
	};
	int rc = 0;
	uint64_t v = 0;
	switch (o->type) {
	case OPT_FLAG:
		*(bool *)o->out = true;
		return 0;
	case OPT_STRING:
		*(const char **)o->out = value;
		return 0;
	case OPT_MAP:
	case OPT_PATCH:
		rc = set_map(o->out, value, o->type == OPT_PATCH);
		break;
	case OPT_U64:
		rc = str_to_u64(value, UINT64_MAX, &v);
		break;
	case OPT_SECONDS:
		rc = cli_parse_seconds(value, &v);
		break;
	case OPT_MIB:
		rc = cli_parse_bytes(value, 1u << 20, &v);
		v >>= 20;
		break;
	case OPT_BYTES:
		rc = cli_parse_bytes(value, 1, &v);
		break;
	}
	if (rc < 0)
		return err_set(
			e, ERR_INVALID, "--%s: '%s' is not %s", o->name, value, expected[o->type]);
	if (o->type == OPT_MAP || o->type == OPT_PATCH)
		return 0;
	if (v < o->min && !o->max)
		return too_small(o, value, e);
	if (v < o->min || (o->max && v > o->max))
		return err_set(e, ERR_INVALID, "--%s: %s is not in %llu to %llu", o->name, value,
			(unsigned long long)o->min, (unsigned long long)o->max);
	*(uint64_t *)o->out = v;
	return 0;
}

static const char *option_name(const void *ctx, size_t i)
{
	return ((const struct cli_option_set *)ctx)->rows[i].name;
}

static void print_help(const struct cli *c, const struct cli_option_set *set)
{
	const struct cli_command *cmd = c->command;
	printf("Usage: stasis %s%s%s%s\n\n%c%s.\n", cmd->name, set->n ? " [options]" : "",
		*cmd->synopsis ? " " : "", cmd->synopsis, cmd->summary[0] & ~32, cmd->summary + 1);
	size_t width = 0;
	for (size_t i = 0; i < set->n; i++) {
		const struct cli_option *o = &set->rows[i];
		size_t w = strlen(o->name) + (o->arg ? strlen(o->arg) + 1 : 0);
		width = MAX(width, w);
	}
	printf("\nOptions:\n");
	for (size_t i = 0; i < set->n; i++) {
		const struct cli_option *o = &set->rows[i];
		int pad = (int)(width - strlen(o->name) - (o->arg ? strlen(o->arg) + 1 : 0));
		if (o->letter)
			printf("  -%c, ", o->letter);
		else
			printf("      ");
		printf("--%s%s%s%*s  %s\n", o->name, o->arg ? " " : "", o->arg ? o->arg : "", pad,
			"", o->help);
	}
	if (cmd->text)
		printf("\n%s", cmd->text);
}

static void add_options(struct cli_option_set *set, const struct cli_option *o)
{
	for (; o && o->name && set->n < CLI_MAX_OPTIONS; o++)
		set->rows[set->n++] = *o;
}

// What other tools have for making a container, and why there is no need of it here.
static const char *needless_option(const struct cli *c, const char *name, int letter)
{
	static const struct {
		char letter;
		const char *name, *why;
	} rows[] = {
		{'d', "detach",
			"a sandbox runs in the background by itself, without --rm also after the "
			"command; 'stasis create' makes one without a command"},
		{'p', "publish",
			"every port of a sandbox is reachable: 'stasis port ID PORT' prints its "
			"URL"},
	};
	bool makes = str_eq(c->command->name, "run") || str_eq(c->command->name, "create");
	for (size_t i = 0; makes && i < ARRAY_SIZE(rows); i++)
		if (name ? str_eq(name, rows[i].name) : letter == rows[i].letter)
			return rows[i].why;
	return NULL;
}

static int bad_option(struct cli *c, const struct cli_option_set *set, const char *word, int letter,
	struct err *e)
{
	const char *hint = "", *needless;
	char text[120] = "";
	if (str_eq(c->command->name, "exec") || str_eq(c->command->name, "run"))
		hint = " (put -- before the command that is to run)";
	if (word) {
		char name[64];
		snprintf(name, sizeof name, "%.*s", (int)strcspn(word, "="), word);
		if ((needless = needless_option(c, name, 0)))
			return err_set(e, ERR_INVALID, "unknown option '--%s': %s", name, needless);
		const char *near = cli_suggest(name, option_name, set, set->n);
		if (near)
			snprintf(text, sizeof text, "; did you mean --%s?", near);
		return err_set(e, ERR_INVALID, "unknown option '--%s'%s%s", name, text, hint);
	}
	if ((needless = needless_option(c, NULL, letter)))
		return err_set(e, ERR_INVALID, "unknown option '-%c': %s", letter, needless);
	return err_set(e, ERR_INVALID, "unknown option '-%c'%s", letter, hint);
}

// Of getopt_long: letters, and names whose values begin where letters end.
struct getopt_lists {
	struct option names[CLI_MAX_OPTIONS + 1];
	char letters[2 * CLI_MAX_OPTIONS + 2];
};
#define FIRST_NAME 256

static struct getopt_lists make_lists(const struct cli_option_set *set)
{
	struct getopt_lists l = {.letters = ":"};
	size_t n = 1;
	for (size_t i = 0; i < set->n; i++) {
		const struct cli_option *o = &set->rows[i];
		l.names[i] = (struct option){o->name, o->arg ? required_argument : no_argument,
			NULL, FIRST_NAME + (int)i};
		if (!o->letter)
			continue;
		l.letters[n++] = o->letter;
		if (o->arg)
			l.letters[n++] = ':';
	}
	return l;
}

static int read_options(struct cli *c, const struct cli_option_set *set, struct err *e)
{
	const struct getopt_lists l = make_lists(set);
	opterr = 0;
	optind = 0; // glibc: start afresh, with a new list of options
	for (int o; (o = getopt_long(c->argc, c->argv, l.letters, l.names, NULL)) != -1;) {
		const struct cli_option *row = NULL;
		const char *word = c->argv[optind - 1];
		if (o == '?' && optopt >= FIRST_NAME)
			return err_set(e, ERR_INVALID, "--%s takes no value",
				set->rows[optopt - FIRST_NAME].name);
		if (o == '?')
			return bad_option(c, set, optopt ? NULL : word + 2, optopt, e);
		if (o == ':')
			return err_set(e, ERR_INVALID, "option '%s' needs a value", word);
		for (size_t i = 0; i < set->n && !row; i++)
			if (o == FIRST_NAME + (int)i || o == set->rows[i].letter)
				row = &set->rows[i];
		int rc = row ? cli_set_option(row, optarg, e) : -EINVAL;
		if (rc < 0)
			return rc;
		if (row->present)
			*row->present = true;
	}
	c->argc -= optind;
	c->argv += optind;
	return 0;
}

static int check_operands(const struct cli *c, int min, int max, struct err *e)
{
	if (max >= 0 && c->argc > max)
		return err_set(e, ERR_INVALID, "unexpected '%s'; usage: stasis %s %s", c->argv[max],
			c->command->name, c->command->synopsis);
	if (c->argc < min)
		return err_set(e, ERR_INVALID, "missing operand; usage: stasis %s %s",
			c->command->name, c->command->synopsis);
	return 0;
}

int cli_parse(struct cli *c, const struct cli_option *options, int min_operands, int max_operands,
	struct err *e)
{
	const char *format = "table";
	bool help = false;
	const struct cli_option talking[] = {
		{0, "url", "URL", "server (default: STASIS_URL, else " CLI_URL_DEFAULT ")",
			OPT_STRING, &c->url},
		{0, "api-key", "KEY",
			"key (default: STASIS_API_KEY, else <data directory>/admin.key)",
			OPT_STRING, &c->api_key},
		{0, "api-key-file", "FILE", "key in a file, - for standard input", OPT_STRING,
			&c->api_key_file},
		{0, "client-timeout", "TIME",
			"give up on a server that shows no sign of life for so long (default: "
			"STASIS_CLIENT_TIMEOUT, else 30s)",
			OPT_SECONDS, &c->timeout, 0, 86400, &c->has_timeout},
		{0},
	};
	const struct cli_option output[] = {
		{'o', "output", "table|json", "what is printed (default: table)", OPT_STRING,
			&format},
		{0},
	};
	const struct cli_option always[] = {
		{'h', "help", NULL, "show this help", OPT_FLAG, &help},
		{0},
	};
	struct cli_option_set set = {0};
	add_options(&set, options);
	if (!c->command->plain)
		add_options(&set, output);
	if (c->command->talks)
		add_options(&set, talking);
	add_options(&set, always);
	if (c->describe) {
		*c->describe = set;
		return 1;
	}

	int rc = read_options(c, &set, e);
	if (rc < 0)
		return rc;
	if (c->api_key && !help)
		fputs("stasis: warning: everybody on this machine can read a key on a command "
		      "line: set STASIS_API_KEY, or give --api-key-file\n",
			stderr);
	if (help) {
		print_help(c, &set);
		return 1;
	}
	if (strcmp(format, "json") == 0)
		c->json = true;
	else if (strcmp(format, "table") != 0)
		return err_set(e, ERR_INVALID, "-o: '%s' is not table or json", format);
	return check_operands(c, min_operands, max_operands, e);
}
