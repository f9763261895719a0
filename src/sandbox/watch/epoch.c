// SPDX-License-Identifier: Apache-2.0
// The marker is written after the database, so it may be behind it, and never ahead of it.
#include "sandbox/watch/epoch.h"
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include "base/log.h"
#include "sandbox/table/store.h"

#define WAYS_OUT                                                                                   \
	"'stasis db rebuild host' makes it anew from what is on the disk; with --forget it "       \
	"begins "                                                                                  \
	"empty, and all of that is kept as unknown"

// 1, 0, or -errno: whether the directory has anything in it.
static int dir_has_any(int data_fd, const char *path)
{
	int fd = openat(data_fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	_cleanup_closedir_ DIR *d = fdopendir(fd);
	if (!d) {
		safe_close(fd);
		return -ENOMEM;
	}
	errno = 0;
	for (struct dirent *de; (de = readdir(d));)
		if (de->d_name[0] != '.')
			return 1;
	return -errno;
}

static int volume_has_any(struct host *h, struct err *e)
{
	static const char *const dirs[] = {"sandboxes", "snapshots"};
	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++) {
		int rc = dir_has_any(h->data_fd, dirs[i]);
		if (rc != 0)
			return rc < 0 ? err_errno(e, rc, "%s/%s", h->data_dir, dirs[i]) : 1;
	}
	return 0;
}

int epoch_check_there(struct host *h, struct err *e)
{
	struct stat st;
	bool none = fstatat(h->data_fd, "host.db", &st, 0) < 0;
	if (none && errno != ENOENT)
		return err_errno(e, errno, "%s/host.db", h->data_dir);
	if (!none && st.st_size > 0)
		return 0;
	int rc = volume_has_any(h, e);
	if (rc <= 0)
		return rc;
	return err_set(e, ERR_CONFLICT,
		"%s has sandboxes or snapshots and no host.db that tells of them: put it back, "
		"or: " WAYS_OUT,
		h->data_dir);
}

int epoch_check(struct host *h, struct err *e)
{
	const struct volume_info *v = &h->volume;
	bool other = v->journal[0] && !str_eq(v->journal, h->journal_id);
	bool behind = !other && h->epoch < v->epoch;
	int rc = other || behind ? volume_has_any(h, e) : 0;
	if (rc < 0)
		return rc;
	if (rc && other)
		return err_set(e, ERR_CONFLICT,
			"%s/host.db is not the database of this volume: put that one back, "
			"or: " WAYS_OUT,
			h->data_dir);
	if (rc)
		return err_set(e, ERR_CONFLICT,
			"%s/host.db is older than its volume (epoch %" PRIu64 ", the volume has "
			"%" PRIu64 "): what was done since is not in it. Put the newer one back, "
			"or: " WAYS_OUT,
			h->data_dir, h->epoch, v->epoch);
	// Of a database that was made anew the epoch goes on above the marker's.
	h->epoch = MAX(h->epoch, v->epoch);
	h->epoch_counts = true;
	return 0;
}

bool epoch_follow(struct host *h)
{
	struct err e = {0};
	uint64_t epoch = h->epoch;
	if (h->volume.epoch == epoch && str_eq(h->volume.journal, h->journal_id))
		return true;
	if (volume_set_epoch(h->data_fd, &h->volume, epoch, h->journal_id, &e) == 0)
		return true;
	log_warn("the volume's marker is behind host.db error=%s", e.text);
	return false;
}

void epoch_raise(struct host *h)
{
	struct err e = {0};
	if (!h->epoch_counts)
		return;
	if (store_raise_epoch(h, &e) < 0)
		log_warn("epoch not raised error=%s", e.text);
	else
		epoch_follow(h);
}
