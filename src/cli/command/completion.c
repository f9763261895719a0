// SPDX-License-Identifier: Apache-2.0
// completion. How this works: the scripts for the three shells know nothing of commands and
// options. They call "stasis completion words -- WORD...", which takes the words of a command line
// and prints what the last one may become. It reads the tables: of commands, of the options of each
// (which the command itself hands over instead of running, see struct cli.describe), and of what
// the words of a synopsis stand for. Ids and names come from the server, within a second or not at
// all.
#include <string.h>
#include "base/embed.h"
#include "base/json.h"
#include "base/str.h"
#include "cli/base/api.h"
#include "cli/base/option.h"
#include "cli/base/output.h"
#include "cli/command/all.h"

#define SERVER_LIMIT_MS 1000

extern const struct embed cli_completion[]; // completion/

struct completion {
	struct cli c; // for the server
	const struct cli_command *command;
	struct cli_option_set options; // its options; what they point to is gone
	struct strbuf head;	       // what comes before each candidate: "--state=running,"
	const char *word;	       // what a candidate begins with
};

static void offer(struct completion *x, const char *value, const char *what)
{
	if (value && str_starts(value, x->word))
		printf("%s%s\t%s\n", x->head.data ? x->head.data : "", value, what);
}

// --- from the server

static json_t *ask(struct completion *x, const char *path, const char *array)
{
	_cleanup_json_ json_t *answer = NULL;
	struct err ignored = {0};
	if (api_call_with(&x->c,
		    &(struct http_call){
			    .method = "GET",
			    .path = path,
			    .connect_timeout_ms = SERVER_LIMIT_MS,
			    .timeout_ms = SERVER_LIMIT_MS,
		    },
		    &answer, &ignored) < 0)
		return NULL;
	return json_incref(json_object_get(answer, array));
}

static void offer_fields(struct completion *x, const char *path, const char *array,
	const char *const *names, const char *const *described, const char *suffix)
{
	_cleanup_json_ json_t *list = ask(x, path, array);
	const json_t *o;
	size_t i;
	json_array_foreach (list, i, o) {
		_cleanup_strbuf_ struct strbuf what = {0};
		for (size_t k = 0; described[k]; k++) {
			// Names of keys are free text; a line here is a candidate.
			_cleanup_free_ char *s = output_value(json_object_get(o, described[k]));
			strbuf_addf(&what, "%s%s", what.len ? ", " : "", s ? s : "");
		}
		for (size_t k = 0; names[k]; k++) {
			const char *s = json_string_value(json_object_get(o, names[k]));
			_cleanup_free_ char *value = s ? str_printf("%s%s", s, suffix) : NULL;
			offer(x, value, what.data ? what.data : "");
		}
	}
}

static const char *const id_and_name[] = {"name", "id", NULL};
static const char *const state_of[] = {"template", "state", NULL};

static void offer_sandboxes(struct completion *x)
{
	offer_fields(x, "/v1/sandboxes?limit=100", "sandboxes", id_and_name, state_of, "");
}

// "ID:PATH" or a file of this machine; which path, the guest would have to be asked.
static void offer_places(struct completion *x)
{
	if (strchr(x->word, ':'))
		return;
	offer_fields(x, "/v1/sandboxes?limit=100", "sandboxes", id_and_name, state_of, ":");
	puts(":nospace\n:files");
}

static void offer_snapshots(struct completion *x)
{
	offer_fields(x, "/v1/snapshots", "snapshots", (const char *const[]){"name", NULL},
		(const char *const[]){"parent", NULL}, "");
}

static void offer_templates(struct completion *x)
{
	offer_fields(x, "/v1/templates", "templates", (const char *const[]){"name", NULL},
		(const char *const[]){"kind", NULL}, "");
}

static void offer_keys(struct completion *x)
{
	offer_fields(x, "/v1/keys", "keys", (const char *const[]){"id", NULL},
		(const char *const[]){"name", "prefix", NULL}, "");
}

// --- from the tables

static void offer_states(struct completion *x)
{
	static const char *const states[] = {"pending", "running", "pausing", "paused", "resuming",
		"stopping", "stopped", "error", "unreachable"};
	for (size_t i = 0; i < ARRAY_SIZE(states); i++)
		offer(x, states[i], "state");
}

static void offer_files(struct completion *x)
{
	puts(":files");
}

// What the words of synopses and the arguments of options stand for.
static const struct {
	const char *word;
	void (*offer)(struct completion *x);
} sources[] = {
	{"ID", offer_sandboxes},
	{"SRC", offer_places},
	{"DST", offer_places},
	{"SNAPSHOT", offer_snapshots},
	{"TEMPLATE", offer_templates},
	{"KEY_ID", offer_keys},
	{"STATE", offer_states},
	{"FILE", offer_files},
	{"DIR", offer_files},
};

// arg: "ID...", "kill|pause", "[base]", "STATE[,STATE]", or what has no values that are known.
static void offer_values(struct completion *x, const char *arg)
{
	arg += *arg == '[';
	size_t n = strcspn(arg, "[].");
	const char *comma = strrchr(x->word, ',');
	if (strchr(arg, ',') && comma) { // a list: the last of them is to be completed
		strbuf_add(&x->head, x->word, (size_t)(comma + 1 - x->word));
		x->word = comma + 1;
	}
	for (size_t i = 0; i < ARRAY_SIZE(sources); i++)
		if (strlen(sources[i].word) == n && strncmp(sources[i].word, arg, n) == 0)
			sources[i].offer(x);
	if (n == 0 || arg[strcspn(arg, "ABCDEFGHIJKLMNOPQRSTUVWXYZ")] != '\0')
		return;
	for (const char *p = arg, *end = arg + n; p < end;) { // in small letters: the values
		size_t len = MIN(strcspn(p, "|"), (size_t)(end - p));
		_cleanup_free_ char *value = strndup(p, len);
		offer(x, value, "");
		p += len + 1;
	}
}

static void offer_operand(struct completion *x, size_t nth)
{
	const char *p = x->command->synopsis, *last = p;
	for (size_t i = 0; *p; i++) {
		_cleanup_free_ char *word = strndup(p, strcspn(p, " "));
		if (i == nth && word) {
			offer_values(x, word);
			return;
		}
		last = p;
		p += strcspn(p, " ");
		p += *p == ' ';
	}
	if (strstr(last, "..."))
		offer_values(x, last);
}

static void offer_options(struct completion *x)
{
	for (size_t i = 0; i < x->options.n; i++) {
		_cleanup_free_ char *name = str_printf("--%s", x->options.rows[i].name);
		offer(x, name, x->options.rows[i].help);
	}
}

static const struct cli_option *find_option(const struct completion *x, const char *word)
{
	size_t n = strcspn(word, "=");
	for (size_t i = 0; i < x->options.n; i++)
		if (strlen(x->options.rows[i].name) == n &&
			strncmp(x->options.rows[i].name, word, n) == 0)
			return &x->options.rows[i];
	return NULL;
}

// The option of "--name", "-n" or "-abn" that takes its value from the next word; NULL for others.
static const struct cli_option *wants_value(const struct completion *x, const char *word)
{
	if (str_starts(word, "--")) {
		const struct cli_option *o = find_option(x, word + 2);
		return o && o->arg && !strchr(word, '=') ? o : NULL;
	}
	for (const char *p = word + 1; *p; p++)
		for (size_t i = 0; i < x->options.n; i++)
			if (x->options.rows[i].letter == *p && x->options.rows[i].arg)
				return p[1] ? NULL : &x->options.rows[i];
	return NULL;
}

// The server may be named on the line itself.
static void note_server(struct completion *x, const struct cli_option *o, const char *value)
{
	if (str_eq(o->name, "url"))
		x->c.url = value;
	else if (str_eq(o->name, "api-key"))
		x->c.api_key = value;
	else if (str_eq(o->name, "api-key-file") && !str_eq(value, "-"))
		x->c.api_key_file = value;
}

// Words behind the command's name; the last one is to be completed.
static void complete_command(struct completion *x, int n, char **words)
{
	const struct cli_option *o = NULL; // whose value comes next
	size_t operands = 0;
	bool only_operands = false;
	struct err ignored = {0};
	struct cli c = {.command = x->command, .describe = &x->options};
	char *argv[] = {words[-1], NULL};
	c.argc = 1;
	c.argv = argv;
	x->command->run(&c, &ignored);
	for (int i = 0; i < n - 1; i++) {
		const char *w = words[i], *eq = strchr(w, '=');
		if (o) {
			note_server(x, o, w);
			o = NULL;
		} else if (only_operands || *w != '-' || !w[1]) {
			operands++;
		} else if (str_eq(w, "--")) {
			only_operands = true;
		} else if (str_starts(w, "--") && eq && find_option(x, w + 2)) {
			note_server(x, find_option(x, w + 2), eq + 1);
		} else {
			o = wants_value(x, w);
		}
	}
	x->word = words[n - 1];
	const char *eq = strchr(x->word, '='), *dashes = strstr(x->command->synopsis, "-- ");
	if (o) {
		offer_values(x, o->arg);
	} else if (!only_operands && str_starts(x->word, "--") && eq) {
		o = find_option(x, x->word + 2);
		strbuf_add(&x->head, x->word, (size_t)(eq + 1 - x->word));
		x->word = eq + 1;
		if (o && o->arg)
			offer_values(x, o->arg);
	} else if (!only_operands && *x->word == '-') {
		offer_options(x);
	} else if (!dashes ||
		   !only_operands) { // behind the -- of exec and run: the guest's command
		offer_operand(x, operands);
	}
}

static bool same_first_word(const char *a, const char *b)
{
	size_t n = strcspn(a, " ");
	return strcspn(b, " ") == n && strncmp(a, b, n) == 0;
}

// Names of commands, each first word once; or of their second word when first is given.
static void offer_commands(struct completion *x, const char *first)
{
	const struct cli_command *commands = x->c.commands;
	for (const struct cli_command *k = commands; k->name; k++) {
		const char *space = strchr(k->name, ' ');
		if (first && space && same_first_word(k->name, first))
			offer(x, space + 1, k->summary);
		if (first)
			continue;
		const struct cli_command *alike = commands;
		while (!same_first_word(alike->name, k->name))
			alike++;
		_cleanup_free_ char *word = strndup(k->name, strcspn(k->name, " "));
		if (alike == k)
			offer(x, word, space ? "" : k->summary);
	}
}

static void complete(struct completion *x, int n, char **words)
{
	int taken = 0;
	x->word = words[n - 1];
	if (n > 1 && str_eq(words[0], "help")) {
		n--;
		words++;
	} else if (n == 1) {
		offer(x, "help", "tell about a command");
		if (*x->word == '-') {
			offer(x, "--help", "list the commands");
			offer(x, "--version", "say which version this is");
		}
	}
	if (n == 1) {
		offer_commands(x, NULL);
		return;
	}
	x->command = cli_find_command(x->c.commands, n, words, &taken);
	if (x->command && taken < n)
		complete_command(x, n - taken, words + taken);
	else if (n == 2)
		offer_commands(x, words[0]);
}

int cmd_completion(struct cli *c, struct err *e)
{
	static char empty[] = "";
	int rc = cli_parse(c, NULL, 1, -1, e);
	if (rc != 0)
		return rc;
	if (str_eq(c->argv[0], "words")) {
		struct completion x = {
			.c = {.commands = c->commands, .url = c->url, .api_key = c->api_key}};
		if (c->argc == 1)
			c->argv[0] = empty;
		complete(&x, c->argc == 1 ? 1 : c->argc - 1, c->argc == 1 ? c->argv : c->argv + 1);
		strbuf_done(&x.head);
		api_close(&x.c);
		return 0;
	}
	// zsh finds a function's file by the function's name.
	_cleanup_free_ char *name =
		str_eq(c->argv[0], "zsh") ? strdup("_stasis") : str_printf("stasis.%s", c->argv[0]);
	for (const struct embed *f = cli_completion; name && f->name && c->argc == 1; f++)
		if (str_eq(f->name, name)) {
			fwrite(f->data, 1, f->len, stdout);
			return 0;
		}
	return err_set(e, ERR_INVALID, "usage: stasis completion bash, zsh or fish");
}
