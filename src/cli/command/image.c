// SPDX-License-Identifier: Apache-2.0
// image build, image ls.
#include <signal.h>
#include <string.h>
#include "base/json.h"
#include "base/paths.h"
#include "base/str.h"
#include "cli/base/api.h"
#include "cli/base/local.h"
#include "cli/command/all.h"
#include "cli/command/list.h"
#include "disk/image_build.h"
#include "hostagent/hostagent.h"

static volatile sig_atomic_t cancel;

static void on_signal(int sig)
{
	cancel = 1;
}

struct build {
	bool terminal;
	char last[200];
};

// A terminal gets one line that is redrawn, everything else a line for each step.
static void on_progress(void *ctx, unsigned percent, const char *text)
{
	struct build *b = ctx;
	bool same = strncmp(b->last, text, sizeof b->last - 1) == 0;
	snprintf(b->last, sizeof b->last, "%s", text);
	if (b->terminal)
		fprintf(stderr, "\r\033[K%3u %%  %s", percent, text);
	else if (!same)
		fprintf(stderr, "%3u %%  %s\n", percent, text);
}

// The image is good without it: its sandboxes boot then.
static int freeze(struct build *b, const char *dir, const char *name, struct err *e)
{
	struct err why = {0};
	on_progress(b, 99, "freeze: booting it once, so that sandboxes need not");
	int rc = hostagent_freeze_local(dir, name, &why);
	if (b->terminal)
		fputs("\r\033[K", stderr);
	if (rc < 0 && why.code == ERR_CONFLICT) {
		printf("template %s: the running server freezes it now\n", name);
		return 0;
	}
	if (rc < 0 && e)
		*e = why;
	if (rc < 0)
		return err_prefix(e, rc,
			"the image is built, but its first boot failed (sandboxes boot it anew)");
	printf("template %s: frozen; a create is a restore now\n", name);
	return 0;
}

int cmd_image_build(struct cli *c, struct err *e)
{
	const char *dir = NULL;
	bool force = false, no_freeze = false;
	struct image_info image;
	struct build b = {.terminal = isatty(STDERR_FILENO) == 1};
	const struct cli_option options[] = {
		{0, "data-dir", "DIR",
			"data directory (default: STASIS_DATA, else " PATH_DATA_DEFAULT ")",
			OPT_STRING, &dir},
		{'f', "force", NULL, "build anew, with today's packages", OPT_FLAG, &force},
		{0, "no-freeze", NULL, "leave the first boot to the server", OPT_FLAG, &no_freeze},
		{0},
	};
	int rc = cli_parse(c, options, 0, 1, e);
	if (rc != 0)
		return rc;
	if (c->argc == 1 && strcmp(c->argv[0], "base") != 0)
		return err_set(
			e, ERR_INVALID, "'%s': only the template base is built here", c->argv[0]);
	dir = cli_data_dir(dir);
	if ((rc = local_mount_volume(dir, e)) < 0)
		return rc;
	static const int caught[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
	struct sigaction act = {.sa_handler = on_signal}, ignore = {.sa_handler = SIG_IGN};
	for (size_t i = 0; i < ARRAY_SIZE(caught); i++)
		sigaction(caught[i], &act, NULL);
	// Who reads the progress may go; what is under way must not.
	sigaction(SIGPIPE, &ignore, NULL);
	rc = image_build(
		&(struct image_build_config){
			.data_dir = dir,
			.name = "base",
			.force = force,
			.progress = on_progress,
			.progress_ctx = &b,
			.cancel = &cancel,
		},
		&image, e);
	if (b.terminal && b.last[0])
		fputs("\r\033[K", stderr);
	if (rc < 0)
		return rc;
	char size[24];
	human_size(image.rootfs_bytes, size);
	printf("template %s: Linux %s, root file system of %s\n", image.name, image.kernel_release,
		size);
	output_flush();
	return no_freeze || cancel ? 0 : freeze(&b, dir, image.name, e);
}

static void add_row(struct table *table, const json_t *t)
{
	const char *name = json_string_value(json_object_get(t, "name"));
	const char *kind = json_string_value(json_object_get(t, "kind"));
	char memory[24], disk[24], size[24], created[32];
	human_size((uint64_t)json_integer_value(json_object_get(t, "memory_mb")) << 20, memory);
	human_size((uint64_t)json_integer_value(json_object_get(t, "disk_mb")) << 20, disk);
	human_size((uint64_t)json_integer_value(json_object_get(t, "size_bytes")), size);
	human_when(json_object_get(t, "created_at"), created);
	table_cell(table, "%s", name ? name : "-");
	table_cell(table, "%s", kind ? kind : "-");
	table_cell(table, "%s", json_is_true(json_object_get(t, "frozen")) ? "yes" : "no");
	table_cell(table, "%lld", (long long)json_integer_value(json_object_get(t, "vcpus")));
	table_cell(table, "%s", memory);
	table_cell(table, "%s", disk);
	table_cell(table, "%s", size);
	table_cell(table, "%s", created);
}

static const struct list_kind listed = {.array = "templates",
	.name = "name",
	.titles = (const char *const[]){"NAME", "KIND", "FROZEN", "VCPUS", "MEMORY", "DISK", "SIZE",
		"CREATED", NULL},
	.row = add_row};

int cmd_image_ls(struct cli *c, struct err *e)
{
	struct list how = {0};
	_cleanup_json_ json_t *answer = NULL;
	const struct cli_option options[] = {LIST_OPTIONS(how, "names"), {0}};
	int rc = cli_parse(c, options, 0, 0, e);
	if (rc == 0)
		rc = list_check(c, &how, e);
	if (rc == 0)
		rc = api_call(c, "GET", "/v1/templates", NULL, &answer, e);
	return rc != 0 ? rc : list_print(c, &how, &listed, answer, e);
}
