// SPDX-License-Identifier: Apache-2.0
#include "snapshot/verify.h"
#include <fcntl.h>
#include <inttypes.h>
#include <sys/file.h>
#include <sys/stat.h>
#include "base/clock.h"
#include "base/file.h"
#include "snapshot/sums.h"

#define CHUNK (256u * 1024u) // read at once: stays in the processor's second cache

int layer_check_block(const struct layer *l, uint64_t block, const void *data, uint64_t stored,
	uint64_t *ret_sum, struct err *e)
{
	if (stored <= LAYER_SUM_ZERO)
		return err_set(e, ERR_INTERNAL, "layers/%s: has no block at offset %" PRIu64, l->id,
			block * SNAPSHOT_BLOCK);
	uint64_t sum = layer_sum(data);
	if (!layer_sum_fits(l, stored, sum))
		return err_set(e, ERR_INTERNAL,
			"layers/%s: block at offset %" PRIu64 " does not match its checksum", l->id,
			block * SNAPSHOT_BLOCK);
	if (ret_sum)
		*ret_sum = sum;
	return 0;
}

static int verify_range(const struct layer *l, const uint64_t *sums, uint64_t from, uint64_t to,
	uint8_t *buf, struct err *e)
{
	for (uint64_t at = from; at < to;) {
		size_t len = (size_t)MIN(to - at, (uint64_t)CHUNK);
		int r = layer_read_at(l->data_fd, buf, len, at);
		if (r < 0)
			return err_errno(e, r, "layers/%s", l->id);
		for (size_t i = 0; i < len; i += SNAPSHOT_BLOCK) {
			uint64_t block = (at + i) / SNAPSHOT_BLOCK;
			uint64_t sum = sums[block];
			if (sum <= LAYER_SUM_ZERO && !layer_block_is_zero(buf + i))
				return err_set(e, ERR_INTERNAL,
					"layers/%s: foreign data at offset %" PRIu64, l->id,
					block * SNAPSHOT_BLOCK);
			if (sum > LAYER_SUM_ZERO &&
				(r = layer_check_block(l, block, buf + i, sum, NULL, e)) < 0)
				return r;
		}
		at += len;
	}
	return 0;
}

int layer_verify(const struct layer *l, struct err *e)
{
	uint64_t at = 0, end = 0, checked = 0;
	_cleanup_free_ uint64_t *sums = NULL;
	_cleanup_free_ uint8_t *buf = malloc(CHUNK);
	if (!buf)
		return err_errno(e, ENOMEM, "layer %s", l->id);
	int r = sums_read_all(l, &sums, e);
	if (r < 0)
		return r;
	while ((r = layer_next_extent(l->data_fd, l->size, &at, &end)) >= 0) {
		// Holes are read as well where a sum says that there should be data.
		uint64_t hole_end = r > 0 ? at : l->size;
		for (uint64_t o = checked; o < hole_end; o += SNAPSHOT_BLOCK) {
			if (sums[o / SNAPSHOT_BLOCK] <= LAYER_SUM_ZERO)
				continue;
			int bad = verify_range(l, sums, o, o + SNAPSHOT_BLOCK, buf, e);
			if (bad < 0)
				return bad;
		}
		if (r == 0)
			return 0;
		r = verify_range(l, sums, at, end, buf, e);
		if (r < 0)
			return r;
		checked = at = end;
	}
	return err_errno(e, r, "layers/%s", l->id);
}

// What a record says: this boot, and the two files as they are now. The change time tells of any
// write, also by a VMM that still holds the file it once wrote as its diff.
static int describe_files(int layers_fd, const char *id, char *out, size_t size)
{
	struct layer_name name = layer_names(id);
	struct stat d, s;
	char boot[37];
	clock_boot_id(boot);
	if (fstatat(layers_fd, name.data, &d, AT_SYMLINK_NOFOLLOW) < 0 ||
		fstatat(layers_fd, name.sums, &s, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	return str_format(out, size, "%s %ju %ju %jd.%09ld %ju %jd.%09ld\n", boot,
		(uintmax_t)d.st_dev, (uintmax_t)d.st_ino, (intmax_t)d.st_ctim.tv_sec,
		d.st_ctim.tv_nsec, (uintmax_t)s.st_ino, (intmax_t)s.st_ctim.tv_sec,
		s.st_ctim.tv_nsec);
}

static bool is_known(const char *path, const char *now)
{
	_cleanup_strbuf_ struct strbuf known = {0};
	return file_read(AT_FDCWD, path, 256, &known) == 0 && str_eq(known.data, now);
}

// A lock of the layer's record, held as long as the descriptor. Without one each verifies for
// itself.
static int lock_record(const char *record_dir, const char *id)
{
	char path[512];
	if (file_mkdir_p(AT_FDCWD, record_dir, 0700) < 0 ||
		str_format(path, sizeof path, "%s/%s.lock", record_dir, id) < 0)
		return -1;
	_cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	return fd >= 0 && RETRY_EINTR(flock(fd, LOCK_EX)) == 0 ? TAKE_FD(fd) : -1;
}

int layer_verify_once(
	int layers_fd, const char *id, uint64_t size, const char *record_dir, struct err *e)
{
	char now[256], path[512];
	_cleanup_(layer_close) struct layer l = {.data_fd = -1, .sums_fd = -1};
	if (!id_is_uuid(id))
		return err_set(e, ERR_INVALID, "layer id is not a UUID");
	int r = layer_open(layers_fd, id, size, &l, e);
	if (r < 0)
		return r;
	r = describe_files(layers_fd, id, now, sizeof now); // before they are read
	if (r == 0)
		r = str_format(path, sizeof path, "%s/%s", record_dir, id);
	if (r < 0)
		return err_errno(e, r, "layers/%s", id);
	if (is_known(path, now))
		return 0;
	// One reads the layer, the others wait for what it finds.
	_cleanup_close_ int lock = lock_record(record_dir, id);
	if (lock >= 0 && is_known(path, now))
		return 0;
	r = layer_verify(&l, e);
	if (r == 0)
		file_write_atomic(AT_FDCWD, path, now, strlen(now), 0600);
	return r;
}
