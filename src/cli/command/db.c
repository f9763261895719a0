// SPDX-License-Identifier: Apache-2.0
// db check, db backup, db restore, db rebuild.
#include <fcntl.h>
#include <string.h>
#include "base/db.h"
#include "base/dbfile.h"
#include "base/file.h"
#include "base/paths.h"
#include "cli/base/local.h"
#include "cli/base/option.h"
#include "cli/base/output.h"
#include "cli/command/all.h"
#include "sandbox/host.h"

extern const struct embed control_migrations[], host_migrations[];

static const struct database {
	const char *name, *file, *lock;
	const struct embed *migrations;
	bool may_be_apart; // in a directory of its own, where the control plane is a process
	bool counts_anew;  // numbers of events that were given are given again after a restore
} databases[] = {
	{"control", "control.db", "control.lock", control_migrations, true, true},
	{"host", "host.db", "lock", host_migrations, false, false},
};

// Where it is: the data directory, or the control plane's own.
static int find_dir(const struct database *d, const char *data_dir, char **ret, struct err *e)
{
	_cleanup_free_ char *here = str_printf("%s/%s", data_dir, d->file);
	_cleanup_free_ char *apart = str_printf("%s" CLI_CONTROL_SUFFIX "/%s", data_dir, d->file);
	if (!here || !apart)
		return err_errno(e, ENOMEM, "%s", data_dir);
	bool is_apart = d->may_be_apart && file_exists(AT_FDCWD, apart);
	if (is_apart && file_exists(AT_FDCWD, here))
		return err_set(e, ERR_CONFLICT,
			"there are %s and %s: move away the one that is out of use", here, apart);
	*ret = str_printf("%s%s", data_dir, is_apart ? CLI_CONTROL_SUFFIX : "");
	return *ret ? 0 : err_errno(e, ENOMEM, "%s", data_dir);
}

static int find(const char *name, const char *data_dir, const struct database **ret, char **ret_dir,
	char **ret_path, struct err *e)
{
	for (size_t i = 0; i < ARRAY_SIZE(databases); i++) {
		if (!str_eq(databases[i].name, name))
			continue;
		*ret = &databases[i];
		int rc = find_dir(*ret, data_dir, ret_dir, e);
		if (rc < 0)
			return rc;
		*ret_path = str_printf("%s/%s", *ret_dir, (*ret)->file);
		return *ret_path ? 0 : err_errno(e, ENOMEM, "%s", data_dir);
	}
	return err_set(e, ERR_INVALID, "no database '%s': there are control and host", name);
}

#define DATA_DIR_OPTION(var)                                                                       \
	{                                                                                          \
		0, "data-dir", "DIR",                                                              \
			"data directory (default: STASIS_DATA, else " PATH_DATA_DEFAULT ")",       \
			OPT_STRING, &(var)                                                         \
	}

int cmd_db_check(struct cli *c, struct err *e)
{
	const char *dir = NULL;
	const struct cli_option options[] = {DATA_DIR_OPTION(dir), {0}};
	size_t n = 0;
	int rc = cli_parse(c, options, 0, 0, e);
	if (rc != 0)
		return rc;
	for (size_t i = 0; i < ARRAY_SIZE(databases); i++) {
		_cleanup_free_ char *where = NULL, *path = NULL;
		_cleanup_strbuf_ struct strbuf problems = {0};
		const struct database *d;
		struct err why = {0};
		unsigned version = 0;
		rc = find(databases[i].name, cli_data_dir(dir), &d, &where, &path, e);
		if (rc < 0)
			return rc;
		if (!file_exists(AT_FDCWD, path))
			continue;
		n++;
		if (dbfile_check(path, d->migrations, &version, &problems, &why) == 0) {
			printf("%s: ok, version %u\n", path, version);
			continue;
		}
		printf("%s: %s\n%s", path, why.text, problems.data ? problems.data : "");
		c->exit_code = err_info(why.code)->exit_code;
	}
	return n ? 0
		 : err_set(e, ERR_NOT_FOUND, "no database in %s: is the volume mounted?",
			   cli_data_dir(dir));
}

int cmd_db_backup(struct cli *c, struct err *e)
{
	_cleanup_free_ char *where = NULL, *path = NULL;
	const struct database *d;
	const char *dir = NULL;
	const struct cli_option options[] = {DATA_DIR_OPTION(dir), {0}};
	int rc = cli_parse(c, options, 2, 2, e);
	if (rc == 0)
		rc = find(c->argv[0], cli_data_dir(dir), &d, &where, &path, e);
	return rc != 0 ? rc : dbfile_backup(path, d->migrations, c->argv[1], e);
}

// Followers with a cursor of the database that was there are told so, instead of missing events.
static int count_anew(const struct database *d, const char *path, struct err *e)
{
	_cleanup_(db_closep) struct db *db = NULL;
	int rc = db_open(path, d->migrations, &db, e);
	return rc == 0 ? DB_LOCKED(db, db_exec(db, e, "UPDATE feed SET epoch = ''", "")) : rc;
}

int cmd_db_restore(struct cli *c, struct err *e)
{
	_cleanup_free_ char *where = NULL, *path = NULL, *lock = NULL;
	_cleanup_close_ int lock_fd = -1;
	const struct database *d;
	const char *dir = NULL;
	const struct cli_option options[] = {DATA_DIR_OPTION(dir), {0}};
	pid_t holder = 0;
	int rc = cli_parse(c, options, 2, 2, e);
	if (rc == 0)
		rc = find(c->argv[0], cli_data_dir(dir), &d, &where, &path, e);
	if (rc != 0)
		return rc;
	if (!(lock = str_printf("%s/%s", where, d->lock)))
		return err_errno(e, ENOMEM, "%s", where);
	rc = file_lock(AT_FDCWD, lock, &lock_fd, &holder);
	if (rc == -EBUSY)
		return err_set(e, ERR_CONFLICT,
			"%s is used by a server (pid %d): stop it first, its sandboxes go on", path,
			(int)holder);
	if (rc < 0)
		return err_errno(e, rc, "%s", lock);
	rc = dbfile_restore(path, d->migrations, c->argv[1], e);
	if (rc == 0 && d->counts_anew)
		rc = count_anew(d, path, e);
	if (rc == 0)
		fprintf(stderr, "stasis: restored; what was there is %s.before-restore\n", path);
	return rc;
}

int cmd_db_rebuild(struct cli *c, struct err *e)
{
	const char *dir = NULL, *run_dir = PATH_RUN_DEFAULT;
	bool forget = false;
	struct host_rebuilt made;
	const struct cli_option options[] = {DATA_DIR_OPTION(dir),
		{0, "run-dir", "DIR",
			"run directory of the server's host (default: " PATH_RUN_DEFAULT ")",
			OPT_STRING, &run_dir},
		{0, "forget", NULL,
			"begin with an empty table: all that is there is kept as unknown", OPT_FLAG,
			&forget},
		{0}};
	int rc = cli_parse(c, options, 1, 1, e);
	if (rc != 0)
		return rc;
	if (!str_eq(c->argv[0], "host"))
		return err_set(e, ERR_INVALID,
			"only host.db can be made anew, not '%s': control.db has what is nowhere "
			"else",
			c->argv[0]);
	rc = host_rebuild(cli_data_dir(dir), run_dir, forget, &made, e);
	if (rc == 0) {
		fputs(made.text.data ? made.text.data : "", stdout);
		fprintf(stderr,
			"stasis: host.db was made anew: sandboxes %u (paused: %u), snapshots %u, "
			"kept as unknown %u; what was there is %s/host.db.before-rebuild\n",
			made.sandboxes, made.paused, made.snapshots, made.unknown,
			cli_data_dir(dir));
	}
	strbuf_done(&made.text);
	return rc;
}
