// SPDX-License-Identifier: Apache-2.0
// One row is added in a transaction of SQLite's, whose locks keep a running server and this program
// apart: neither reads half of what the other writes. Of a database that is not there, or of
// another version than this program's, nothing is touched.
#include "cli/command/key_offline.h"
#include <fcntl.h>
#include <string.h>
#include "base/db.h"
#include "base/dbfile.h"
#include "base/embed.h"
#include "base/file.h"
#include "base/str.h"
#include "cli/base/local.h"
#include "control/state/keys.h"

extern const struct embed control_migrations[];

static int find_database(const char *data_dir, char **ret, struct err *e)
{
	const char *dir = cli_data_dir(data_dir);
	_cleanup_free_ char *here = str_printf("%s/control.db", dir);
	_cleanup_free_ char *apart = str_printf("%s" CLI_CONTROL_SUFFIX "/control.db", dir);
	if (!here || !apart)
		return err_errno(e, ENOMEM, "control.db");
	if (file_exists(AT_FDCWD, here) && file_exists(AT_FDCWD, apart))
		return err_set(e, ERR_CONFLICT,
			"there are %s and %s: move away the one that is out of use", here, apart);
	if (!file_exists(AT_FDCWD, here) && !file_exists(AT_FDCWD, apart))
		return err_set(e, ERR_NOT_FOUND,
			"no %s: is the volume mounted, and are you root? A server that has none "
			"makes a key at its start",
			here);
	*ret = file_exists(AT_FDCWD, apart) ? TAKE_PTR(apart) : TAKE_PTR(here);
	return 0;
}

static int check_name(const char *name, struct err *e)
{
	for (const char *p = name; p == name || *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			return err_set(e, ERR_INVALID,
				"name: must not be empty or hold control characters");
	return strlen(name) <= 64 && str_is_utf8(name, strlen(name))
		       ? 0
		       : err_set(e, ERR_INVALID, "name: must be UTF-8 of at most 64 bytes");
}

int key_create_offline(const char *data_dir, const char *name, json_t **ret, struct err *e)
{
	_cleanup_free_ char *path = NULL;
	_cleanup_(db_closep) struct db *db = NULL;
	_cleanup_(keys_freep) struct keys *keys = NULL;
	struct key_info info = {.scope = KEY_ADMIN};
	char key[API_KEY_SIZE];
	unsigned version = 0;
	_cleanup_strbuf_ struct strbuf problems = {0};
	int rc = check_name(name, e);
	if (rc == 0)
		rc = find_database(data_dir, &path, e);
	// An older one would be brought forward below a server that runs.
	if (rc == 0)
		rc = dbfile_check(path, control_migrations, &version, &problems, e);
	size_t newest = 0;
	while (control_migrations[newest].name)
		newest++;
	if (rc == 0 && version != newest)
		rc = err_set(e, ERR_CONFLICT,
			"%s is of version %u, this program's is %zu: start this version's server "
			"once, or use the program of that version",
			path, version, newest);
	if (rc == 0)
		rc = db_open(path, control_migrations, &db, e);
	if (rc == 0)
		rc = keys_load(db, &keys, e);
	if (rc < 0)
		return rc;
	snprintf(info.name, sizeof info.name, "%s", name);
	keys_generate(key);
	rc = keys_add(keys, key, &info, e);
	if (rc == 0)
		*ret = json_pack("{s:s, s:s, s:s}", "id", info.id, "name", info.name, "key", key);
	explicit_bzero(key, sizeof key);
	return rc < 0 || *ret ? rc : err_errno(e, ENOMEM, "key");
}
