// SPDX-License-Identifier: Apache-2.0
// Finding the command, help, and the way from a command's result to the exit code.
#include "cli/cli.h"
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>
#include "base/str.h"
#include "cli/base/api.h"
#include "cli/base/option.h"
#include "cli/base/output.h"
#include "cli/commands.h"

static const char *command_name(const void *ctx, size_t i)
{
	return ((const struct cli_command *)ctx)[i].name;
}

static void print_overview(FILE *out)
{
	static const char *const titles[CLI_GROUP_MAX] = {
		[CLI_SANDBOXES] = "Sandboxes",
		[CLI_SERVER] = "Server",
		[CLI_MACHINE] = "This machine",
	};
	fputs("Usage: stasis COMMAND [options]\n\nMicroVM sandboxes on your own machine.\n", out);
	for (int g = 0; g < CLI_GROUP_MAX; g++) {
		fprintf(out, "\n%s:\n", titles[g]);
		for (const struct cli_command *k = cli_commands; k->name; k++)
			if (k->group == (enum cli_group)g)
				fprintf(out, "  %-18s %s\n", k->name, k->summary);
	}
	fputs("\n'stasis COMMAND --help' tells all about one of them; 'stasis --version' which one "
	      "this is.\n",
		out);
}

static void say_unknown(const char *word, const char *here, const char *also)
{
	fprintf(stderr, "stasis: unknown command '%s'", word);
	if (here)
		fprintf(stderr, ": did you mean 'stasis %s'", here);
	if (here && also)
		fprintf(stderr, " or 'stasis %s'", also);
	fputs(here ? "?\n" : "; see 'stasis help'\n", stderr);
}

static int unknown_command(int argc, char **argv)
{
	bool first = true;
	size_t n = strlen(argv[0]), n_commands = 0;
	for (const struct cli_command *k = cli_commands; k->name; k++) {
		n_commands++;
		if (strncmp(k->name, argv[0], n) != 0 || k->name[n] != ' ')
			continue;
		if (first && argc > 1 && argv[1][0] != '-')
			fprintf(stderr, "stasis: unknown command '%s %s'\n", argv[0], argv[1]);
		if (first)
			fprintf(stderr, "stasis: '%s' is one of:\n", argv[0]);
		fprintf(stderr, "  stasis %-18s %s\n", k->name, k->summary);
		first = false;
	}
	if (!first)
		return err_info(ERR_INVALID)->exit_code;
	for (const struct cli_synonym *s = cli_synonyms; s->word; s++)
		if (strcmp(s->word, argv[0]) == 0) {
			say_unknown(argv[0], s->here, s->also);
			return err_info(ERR_INVALID)->exit_code;
		}
	say_unknown(argv[0], cli_suggest(argv[0], command_name, cli_commands, n_commands), NULL);
	return err_info(ERR_INVALID)->exit_code;
}

// Standard streams that are closed at the start would become whatever is opened first. One that is
// only read makes writing to a closed output the error that it is.
static void fill_standard_streams(void)
{
	for (int fd = 0; fd <= STDERR_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0)
			(void)!open("/dev/null", fd == STDERR_FILENO ? O_WRONLY : O_RDONLY);
}

int cli_main(int argc, char **argv)
{
	fill_standard_streams();
	static char help_flag[] = "--help";
	struct cli c = {.commands = cli_commands};
	struct err e = {0};
	if (argc < 2) {
		print_overview(stderr);
		return err_info(ERR_INVALID)->exit_code;
	}
	argc--;
	argv++;
	if (strcmp(argv[0], "--version") == 0 || strcmp(argv[0], "version") == 0) {
		puts("stasis " STASIS_VERSION);
		return output_flush() < 0;
	}
	bool help = strcmp(argv[0], "help") == 0;
	if ((help && argc == 1) || strcmp(argv[0], "--help") == 0 || strcmp(argv[0], "-h") == 0) {
		print_overview(stdout);
		return output_flush() < 0;
	}
	if (help) {
		argc--;
		argv++;
	}
	int words = 0;
	c.command = cli_find_command(cli_commands, argc, argv, &words);
	if (!c.command)
		return unknown_command(argc, argv);
	char *asked[] = {argv[0], help_flag, NULL};
	c.argc = help ? 2 : argc - words + 1;
	c.argv = help ? asked : argv + words - 1; // the last word of the name stands for argv[0]

	int rc = c.command->run(&c, &e);
	if (rc == 0 && (rc = output_flush()) < 0)
		err_errno(&e, rc, "standard output");
	api_close(&c);
	if (rc >= 0)
		return rc > 0 ? output_flush() < 0 : c.exit_code;
	output_complain("%s", err_text(&e, rc));
	int code =
		err_is_set(&e) ? err_exit_code(&e) : err_info(err_code_from_errno(rc))->exit_code;
	if (code != 128 + SIGINT) // nobody searches for that
		output_request_id(c.request_id);
	return code;
}
