// SPDX-License-Identifier: Apache-2.0
// The command line. A command is a row of the table in cli.c and a function in the file of its
// theme; its options are a table too, from which parsing, --help and the suggestions for misspelt
// ones are made.
#pragma once
#include <jansson.h>
#include "base/err.h"

struct cli;
struct cli_option_set;
struct http_client;

enum cli_group { CLI_SANDBOXES, CLI_SERVER, CLI_MACHINE, CLI_GROUP_MAX };

struct cli_command {
	const char *name;     // "create", or two words: "key create"
	const char *synopsis; // operands, "ID..."; options are added by the help
	const char *summary;  // one line, lower case
	const char *text;     // further help, below the options; NULL: none
	enum cli_group group;
	bool talks; // to a server: takes --url and --api-key
	bool plain; // has no -o json
	// 0: exit with c->exit_code. 1: done (help was printed). Negative: the error is printed.
	int (*run)(struct cli *c, struct err *e);
};

struct cli {
	const struct cli_command *commands; // all there are; the last has no name
	const struct cli_command *command;
	int argc; // operands once the options are parsed; before: all words after the command
	char **argv;
	const char *url, *api_key; // from flags; NULL: api.c looks further
	bool json;
	int exit_code;
	struct http_client *http; // made by api_open
	char *base_url, *key;	  // what api_open settled on
	// Not NULL: cli_parse writes all options of the command there, and does nothing else.
	struct cli_option_set *describe;
};

enum cli_type {
	OPT_FLAG,    // bool
	OPT_STRING,  // const char *, into argv
	OPT_U64,     // uint64_t, min..max
	OPT_SECONDS, // uint64_t: "90", "90s", "5m", "2h", "1d", "none" is 0
	OPT_MIB,     // uint64_t: "512", "512M", "2G"
	OPT_BYTES,   // uint64_t: "20G", "512M"; a bare number is bytes
	OPT_MAP,     // json_t *, made at the first use: K=V, repeated
	OPT_PATCH,   // the same with K-, which is null
};

struct cli_option {
	char letter;	  // 0: none
	const char *name; // NULL ends the table
	const char *arg;  // NULL for flags
	const char *help;
	enum cli_type type;
	void *out;
	uint64_t min, max; // of numbers; max 0: no bound
	bool *present;	   // may be NULL
};

#define CLI_MAX_OPTIONS 32
struct cli_option_set {
	struct cli_option rows[CLI_MAX_OPTIONS];
	size_t n;
};

// What docker, kubectl and shells call it, and what it is here: the words behind "stasis", and
// those of a second command where there are two answers.
struct cli_synonym {
	const char *word, *here, *also;
};

int cli_main(int argc, char **argv);
extern const struct cli_command cli_commands[]; // the last has no name
extern const struct cli_synonym cli_synonyms[]; // the last has no word
// Commands may be of two words; *ret_words says how many were taken. NULL: no such command.
const struct cli_command *cli_find_command(
	const struct cli_command *commands, int argc, char **argv, int *ret_words);
// Parses the options (own ones and the common ones); c->argc and c->argv are the operands then,
// which must be min to max in number (max -1: any). 0, 1 when help was asked for and printed, or
// the options were described.
int cli_parse(struct cli *c, const struct cli_option *options, int min_operands, int max_operands,
	struct err *e);
// One value, from wherever it comes. A string is kept, not copied.
int cli_set_option(const struct cli_option *o, const char *value, struct err *e);
// The data directory: flag, else STASIS_DATA, else the default.
const char *cli_data_dir(const char *flag);
// The data and run directories of a control plane that is a process of its own: the host's, with
// this added.
#define CLI_CONTROL_SUFFIX "-control"

// Values; 0 or -EINVAL, -ERANGE.
int cli_parse_seconds(const char *s, uint64_t *ret);
int cli_parse_bytes(const char *s, uint64_t unit, uint64_t *ret);
// The name most like word, NULL when none is like it. names[i] is read by get(ctx, i), n of them.
const char *cli_suggest(
	const char *word, const char *(*get)(const void *ctx, size_t i), const void *ctx, size_t n);

// create.c, run.c
int cmd_create(struct cli *c, struct err *e);
int cmd_run(struct cli *c, struct err *e);
// sandbox.c
int cmd_ls(struct cli *c, struct err *e);
int cmd_get(struct cli *c, struct err *e);
int cmd_rm(struct cli *c, struct err *e);
int cmd_timeout(struct cli *c, struct err *e);
int cmd_port(struct cli *c, struct err *e);
// set.c
int cmd_set(struct cli *c, struct err *e);
// lifecycle.c
int cmd_pause(struct cli *c, struct err *e);
int cmd_resume(struct cli *c, struct err *e);
int cmd_fork(struct cli *c, struct err *e);
// snapshot.c
int cmd_snapshot_create(struct cli *c, struct err *e);
int cmd_snapshot_ls(struct cli *c, struct err *e);
int cmd_snapshot_get(struct cli *c, struct err *e);
int cmd_snapshot_rm(struct cli *c, struct err *e);
// bench.c
int cmd_bench(struct cli *c, struct err *e);
// exec.c, cp.c
int cmd_exec(struct cli *c, struct err *e);
int cmd_cp(struct cli *c, struct err *e);
// watch.c
int cmd_logs(struct cli *c, struct err *e);
int cmd_wait(struct cli *c, struct err *e);
int cmd_health(struct cli *c, struct err *e);
// events.c
int cmd_events(struct cli *c, struct err *e);
// key.c
int cmd_key_create(struct cli *c, struct err *e);
int cmd_key_ls(struct cli *c, struct err *e);
int cmd_key_rm(struct cli *c, struct err *e);
// reconcile.c
int cmd_reconcile(struct cli *c, struct err *e);
int cmd_operations(struct cli *c, struct err *e);
// db.c
int cmd_db_check(struct cli *c, struct err *e);
int cmd_db_backup(struct cli *c, struct err *e);
int cmd_db_restore(struct cli *c, struct err *e);
// completion.c
int cmd_completion(struct cli *c, struct err *e);
// image.c
int cmd_image_build(struct cli *c, struct err *e);
int cmd_image_ls(struct cli *c, struct err *e);
// setup.c, doctor.c, serve.c
int cmd_setup_volume(struct cli *c, struct err *e);
int cmd_setup_remove(struct cli *c, struct err *e);
int cmd_setup_check(struct cli *c, struct err *e);
int cmd_doctor(struct cli *c, struct err *e);
int cmd_serve(struct cli *c, struct err *e);
