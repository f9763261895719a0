// SPDX-License-Identifier: Apache-2.0
// Running a command in a sandbox, for exec and run.
#pragma once
#include "cli/base/option.h"

struct exec_options {
	const char *user, *cwd; // NULL: the agent's default
	bool interactive, tty;
	uint64_t timeout; // seconds; 0: none, 60 with -o json
	json_t *env;	  // may be NULL; owned by the caller
};

// Rows of a command's options.
// clang-format off
#define EXEC_OPTIONS(o) \
	{'i', "interactive", NULL, "send standard input", OPT_FLAG, &(o).interactive}, \
	{'t', "tty", NULL, "give the program a terminal", OPT_FLAG, &(o).tty}, \
	{'u', "user", "USER", "run as (default: user)", OPT_STRING, &(o).user}, \
	{'w', "workdir", "DIR", "run in (default: the user's home)", OPT_STRING, &(o).cwd}
// clang-format on

// Refuses what does not go together, before anything is done.
int exec_check(const struct cli *c, const struct exec_options *o, struct err *e);
// Runs command (NULL-terminated, not empty) in the sandbox of that id or name and passes its input
// and output. 0: c->exit_code is the command's, or 128 and the signal that we, or it, got.
int exec_command(
	struct cli *c, const char *id, char *const *command, struct exec_options *o, struct err *e);
