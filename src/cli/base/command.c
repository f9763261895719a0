// SPDX-License-Identifier: Apache-2.0
#include "cli/base/command.h"
#include <string.h>

const struct cli_command *cli_find_command(
	const struct cli_command *commands, int argc, char **argv, int *ret_words)
{
	for (const struct cli_command *k = commands; k->name; k++) {
		const char *space = strchr(k->name, ' ');
		size_t n = space ? (size_t)(space - k->name) : strlen(k->name);
		if (strncmp(argv[0], k->name, n) != 0 || argv[0][n] != '\0')
			continue;
		if (space && (argc < 2 || strcmp(argv[1], space + 1) != 0))
			continue;
		*ret_words = space ? 2 : 1;
		return k;
	}
	return NULL;
}
