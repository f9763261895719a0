// SPDX-License-Identifier: Apache-2.0
// What a command is, and what it is given.
#pragma once
#include <jansson.h>
#include "base/err.h"
#include "base/request_id.h"

struct alive;
struct cli;
struct cli_option_set;
struct http_client;

#define CLI_URL_DEFAULT "http://127.0.0.1:7070"
#define CLI_TIMEOUT_SEC 30

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
	const char *api_key_file;  // from a flag; "-": standard input
	uint64_t timeout;	   // --client-timeout, seconds; 0: none
	bool has_timeout;	   // it was given
	bool json;
	int exit_code;
	struct http_client *http;	  // made by api_open
	struct alive *alive;		  // the server; as http
	char *base_url, *key;		  // what api_open settled on
	char request_id[REQUEST_ID_SIZE]; // of the last call that a server refused; "": none
	json_t *refusal; // the body of the last call that failed; NULL: it was no JSON
	// Not NULL: cli_parse writes all options of the command there, and does nothing else.
	struct cli_option_set *describe;
};

// Commands may be of two words; *ret_words says how many were taken. NULL: no such command.
const struct cli_command *cli_find_command(
	const struct cli_command *commands, int argc, char **argv, int *ret_words);
