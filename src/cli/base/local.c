// SPDX-License-Identifier: Apache-2.0
#include "cli/base/local.h"
#include <fcntl.h>
#include <string.h>
#include "base/file.h"
#include "base/paths.h"
#include "base/str.h"
#include "disk/disk.h"

const char *cli_data_dir(const char *flag)
{
	const char *env = getenv("STASIS_DATA");
	return flag ? flag : env && *env ? env : PATH_DATA_DEFAULT;
}

int local_volume_image(const char *data_dir, char **ret, struct err *e)
{
	size_t n = strlen(data_dir);
	while (n > 1 && data_dir[n - 1] == '/')
		n--;
	*ret = str_printf("%.*s.img", (int)n, data_dir);
	return *ret ? 0 : err_errno(e, ENOMEM, "%s", data_dir);
}

int local_mount_volume(const char *data_dir, struct err *e)
{
	_cleanup_free_ char *image = NULL;
	int rc = local_volume_image(data_dir, &image, e);
	if (rc < 0 || !file_exists(AT_FDCWD, image))
		return rc;
	return volume_mount(image, data_dir, e);
}
