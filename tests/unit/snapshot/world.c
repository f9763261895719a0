// SPDX-License-Identifier: Apache-2.0
#include "world.h"
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include "base/file.h"
#include "snapshot/layer.h"
#include "snapshot/merge.h"
#include "check.h"

static int make_dir(const char *base, const char *name)
{
	char path[512];
	snprintf(path, sizeof path, "%s/%s", base, name);
	assert_int_equal(mkdir(path, 0700), 0);
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

void world_init(struct world *w)
{
	*w = (struct world){0};
	const char *base = getenv("STASIS_TEST_DIR");
	snprintf(w->dir, sizeof w->dir, "%s/stasis-snapshot-XXXXXX", base ? base : "/dev/shm");
	assert_non_null(mkdtemp(w->dir));
	w->data_fd = make_dir(w->dir, "data");
	w->layers_fd = make_dir(w->dir, "data/layers");
	close(make_dir(w->dir, "data/snapshots"));
	w->work_fd = make_dir(w->dir, "work");
}

void world_done(struct world *w)
{
	close(w->data_fd);
	close(w->layers_fd);
	close(w->work_fd);
	free(w->image);
	assert_int_equal(file_rm_rf(AT_FDCWD, w->dir), 0);
}

void world_write_diff(
	struct world *w, const char *name, const uint8_t *memory, const bool *dirty, uint64_t size)
{
	_cleanup_close_ int fd =
		openat(w->work_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	for (uint64_t at = 0; at < size; at += SNAPSHOT_BLOCK)
		if (dirty[at / SNAPSHOT_BLOCK])
			assert_int_equal(
				pwrite(fd, memory + at, SNAPSHOT_BLOCK, (off_t)at), SNAPSHOT_BLOCK);
}

void world_expect(struct world *w, const struct header *h, const uint8_t *memory)
{
	struct err e = {0};
	_cleanup_close_ int fd =
		openat(w->work_fd, "image", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	// One buffer for all of the test: fresh memory costs more than all that is compared here.
	if (w->image_size < h->size) {
		w->image = realloc(w->image, h->size);
		assert_non_null(w->image);
		w->image_size = h->size;
	}
	const uint8_t *image = w->image;
	if (layer_materialise(h, w->layers_fd, fd, &e) < 0)
		fail_msg("materialise: %s", e.text);
	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	assert_int_equal(file_read_full(fd, w->image, h->size), h->size);
	for (uint64_t at = 0; at < h->size; at += SNAPSHOT_BLOCK)
		if (memcmp(image + at, memory + at, SNAPSHOT_BLOCK) != 0)
			fail_msg("block at offset %llu differs", (unsigned long long)at);
}

int world_count_files(int dirfd, const char *path)
{
	int fd = openat(dirfd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), n = 0;
	assert_true(fd >= 0);
	_cleanup_closedir_ DIR *d = fdopendir(fd);
	for (struct dirent *de; (de = readdir(d));)
		n += de->d_name[0] != '.';
	return n;
}

uint64_t world_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15;
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

void run_ok(int r, const struct err *e)
{
	if (r < 0)
		fail_msg("%s", err_text(e, r));
}

void expect_reason(int r, const struct err *e, const char *what, const char *reason)
{
	assert_true(r < 0);
	if (!strstr(e->text, what) || !strstr(e->text, reason))
		fail_msg("expected '%s' and '%s' in: %s", what, reason, e->text);
}
