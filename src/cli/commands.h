// SPDX-License-Identifier: Apache-2.0
// The table of commands: a row of it, and a function in the file of its theme, are a command.
#pragma once
#include "cli/base/command.h"

// What docker, kubectl and shells call it, and what it is here: the words behind "stasis", and
// those of a second command where there are two answers.
struct cli_synonym {
	const char *word, *here, *also;
};

extern const struct cli_command cli_commands[]; // the last has no name
extern const struct cli_synonym cli_synonyms[]; // the last has no word
