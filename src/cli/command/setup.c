// SPDX-License-Identifier: Apache-2.0
// setup volume, setup grow, setup check, setup remove.
#include <fcntl.h>
#include <string.h>
#include "base/file.h"
#include "base/json.h"
#include "base/paths.h"
#include "base/str.h"
#include "cli/base/local.h"
#include "cli/base/option.h"
#include "cli/base/output.h"
#include "cli/command/all.h"
#include "disk/disk.h"
#include "net/slot.h"

#define DATA_DIR_OPTION(var)                                                                       \
	{                                                                                          \
		0, "data-dir", "DIR",                                                              \
			"data directory (default: STASIS_DATA, else " PATH_DATA_DEFAULT ")",       \
			OPT_STRING, &(var)                                                         \
	}

static void on_progress(void *ctx, const char *what, uint64_t done, uint64_t total)
{
	struct progress *p = ctx;
	p->what = what;
	p->done = done;
	p->total = total;
	p->bytes = total > 0;
	progress_tick(p);
}

static int use_directory(const char *data_dir, struct err *e)
{
	bool reflink = false, holes = false;
	int rc = file_mkdir_p(AT_FDCWD, data_dir, 0700);
	if (rc < 0)
		return err_errno(e, rc, "%s", data_dir);
	_cleanup_close_ int fd = open(data_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return err_errno(e, errno, "%s", data_dir);
	rc = disk_probe(fd, &reflink, &holes, e);
	if (rc < 0)
		return rc;
	if (!reflink)
		return err_set(e, ERR_INVALID,
			"the file system of %s has no reflink: give a size for a volume of our "
			"own, "
			"as in: stasis setup volume --size 20G",
			data_dir);
	rc = volume_init_dir(data_dir, e);
	if (rc == 0)
		printf("%s: in use as it is (reflink works)\n", data_dir);
	return rc;
}

int cmd_setup_volume(struct cli *c, struct err *e)
{
	const char *dir = NULL;
	uint64_t size = 0;
	_cleanup_free_ char *image = NULL;
	const struct cli_option options[] = {
		{0, "size", "SIZE", "allocate so much: 20G", OPT_BYTES, &size, 1ull << 30},
		DATA_DIR_OPTION(dir),
		{0},
	};
	int rc = cli_parse(c, options, 0, 0, e);
	if (rc != 0)
		return rc;
	dir = cli_data_dir(dir);
	struct volume_info info;
	if (volume_open(dir, &info, NULL) == 0)
		return err_set(e, ERR_CONFLICT,
			"%s is set up already (volume %s): stasis setup check", dir, info.uuid);
	if (size == 0)
		return use_directory(dir, e);
	rc = local_volume_image(dir, &image, e);
	if (rc < 0)
		return rc;
	struct progress p;
	progress_start(&p, "making the volume");
	rc = volume_create(image, size, on_progress, &p, e);
	progress_clear(&p);
	if (rc < 0)
		return rc;
	rc = volume_mount(image, dir, e);
	if (rc < 0) {
		volume_remove(image, dir, NULL);
		return rc;
	}
	char text[24];
	human_size(size, text);
	printf("%s: volume of %s in %s\n", dir, text, image);
	return 0;
}

int cmd_setup_grow(struct cli *c, struct err *e)
{
	const char *dir = NULL;
	uint64_t size = 0;
	_cleanup_free_ char *image = NULL;
	const struct cli_option options[] = {
		{0, "size", "SIZE", "of the whole volume then: 40G", OPT_BYTES, &size, 1ull << 30},
		DATA_DIR_OPTION(dir),
		{0},
	};
	int rc = cli_parse(c, options, 0, 0, e);
	if (rc != 0)
		return rc;
	if (size == 0)
		return err_set(
			e, ERR_INVALID, "--size: is needed, as in: stasis setup grow --size 40G");
	dir = cli_data_dir(dir);
	rc = local_volume_image(dir, &image, e);
	if (rc < 0)
		return rc;
	struct progress p;
	progress_start(&p, "growing the volume");
	rc = volume_grow(image, dir, size, on_progress, &p, e);
	progress_clear(&p);
	if (rc < 0)
		return rc;
	char text[24];
	human_size(size, text);
	printf("%s: volume of %s in %s\n", dir, text, image);
	return 0;
}

int cmd_setup_check(struct cli *c, struct err *e)
{
	const char *dir = NULL;
	const struct cli_option options[] = {DATA_DIR_OPTION(dir), {0}};
	struct volume_info info;
	bool reflink = false, holes = false;
	int rc = cli_parse(c, options, 0, 0, e);
	if (rc != 0)
		return rc;
	dir = cli_data_dir(dir);
	rc = volume_open(dir, &info, e);
	if (rc < 0)
		return rc;
	_cleanup_close_ int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	rc = fd < 0 ? err_errno(e, errno, "%s", dir) : disk_probe(fd, &reflink, &holes, e);
	if (rc < 0)
		return rc;
	if (c->json) {
		_cleanup_json_ json_t *j = json_pack("{s:s,s:s,s:i,s:b,s:s,s:b,s:b}", "data_dir",
			dir, "uuid", info.uuid, "format_version", (int)info.format_version, "loop",
			info.loop, "loop_device", info.loop_device, "reflink", reflink, "holes",
			holes);
		return output_json(j);
	}
	printf("%s: volume %s, %s, %s\n", dir, info.uuid,
		info.loop ? info.loop_device : "on the file system of the directory",
		reflink ? "copies share blocks (reflink)" : "no reflink: copies are slow");
	return 0;
}

int cmd_setup_remove(struct cli *c, struct err *e)
{
	const char *dir = NULL, *run_dir = PATH_RUN_DEFAULT;
	bool yes = false;
	_cleanup_free_ char *image = NULL;
	const struct cli_option options[] = {
		{'y', "yes", NULL, "do not ask", OPT_FLAG, &yes},
		DATA_DIR_OPTION(dir),
		{0, "run-dir", "DIR", "the server's run directory (default: " PATH_RUN_DEFAULT ")",
			OPT_STRING, &run_dir},
		{0},
	};
	int rc = cli_parse(c, options, 0, 0, e);
	if (rc != 0)
		return rc;
	dir = cli_data_dir(dir);
	rc = local_volume_image(dir, &image, e);
	if (rc < 0)
		return rc;
	if (!file_exists(AT_FDCWD, image))
		return err_set(e, ERR_NOT_FOUND,
			"there is no %s: only a volume that 'stasis setup volume --size' made is "
			"removed",
			image);
	if (!yes) {
		char answer[8] = "";
		fprintf(stderr, "Delete %s with all sandboxes and images in it? [y/N] ", image);
		if (!isatty(STDIN_FILENO) || !fgets(answer, sizeof answer, stdin) ||
			(answer[0] | 32) != 'y')
			return err_set(e, ERR_CANCELED, "nothing was removed (--yes does not ask)");
	}
	rc = volume_remove(image, dir, e);
	if (rc < 0)
		return rc;
	return slot_cleanup_all(run_dir, e);
}
