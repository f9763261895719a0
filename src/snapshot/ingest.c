// SPDX-License-Identifier: Apache-2.0
//
// How a diff becomes a layer (layer_ingest). The diff alone tells apart "written, and zero" (data)
// from "not written" (hole), and punching out the zeros destroys just that. So:
//
//	1. read the diff's data extents, compute the sums, fsync the diff
//	2. <id>.sum.tmp, fsync, rename to <id>.sum	from here on the .sum file is the truth
//	3. fsync layers/ when there is something to punch, then punch
//	4. rename the diff to <id>, fsync layers/	published
//
// A repeated call finds <id>.sum and goes on from there without looking at the diff's extents.
#include "snapshot/ingest.h"
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include "base/fault.h"
#include "base/file.h"
#include "snapshot/format.h"
#include "snapshot/sums.h"

#define CHUNK (256u * 1024u) // read at once: stays in the processor's second cache

static int add_extent(int fd, uint64_t from, uint64_t to, uint8_t *buf, struct content *c)
{
	for (uint64_t at = from; at < to;) {
		size_t len = (size_t)MIN(to - at, (uint64_t)CHUNK);
		int r = layer_read_at(fd, buf, len, at);
		for (size_t i = 0; r == 0 && i < len; i += SNAPSHOT_BLOCK)
			r = content_add(c, (at + i) / SNAPSHOT_BLOCK,
				layer_block_is_zero(buf + i) ? LAYER_SUM_ZERO : layer_sum(buf + i));
		if (r < 0)
			return r;
		at += len;
	}
	return 0;
}

static int scan_diff(int fd, int from, const char *diff, struct content *c, struct err *e)
{
	struct stat st;
	struct statvfs vfs;
	if (fstat(fd, &st) < 0 || fstatvfs(fd, &vfs) < 0)
		return err_errno(e, errno, "%s", diff);
	// With larger blocks the file system would fill up what the VMM left out with zeros.
	if (vfs.f_bsize > SNAPSHOT_BLOCK)
		return err_set(e, ERR_UNIMPLEMENTED,
			"%s: the file system has blocks of %lu bytes; snapshots need %u or less",
			diff, vfs.f_bsize, SNAPSHOT_BLOCK);
	_cleanup_free_ uint8_t *buf = malloc(CHUNK);
	if (!buf)
		return err_errno(e, ENOMEM, "%s", diff);
	uint64_t at = 0, end = 0;
	int r;
	// The disk writes while the sums are computed.
	sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE);
	for (; (r = layer_next_extent(fd, c->size, &at, &end)) > 0; at = end) {
		r = add_extent(from, at, end, buf, c);
		if (r < 0)
			break;
	}
	if (r < 0)
		return err_errno(e, r, "%s", diff);
	// A file system that does not know holes calls all of the file data: all that the guest did
	// not write would become zeros.
	if ((c->data_blocks + c->zero_blocks) * SNAPSHOT_BLOCK > (uint64_t)st.st_blocks * 512)
		return err_set(e, ERR_UNIMPLEMENTED,
			"%s: the file system does not tell holes from data (%" PRIu64
			" bytes of data in %" PRIu64 " of blocks)",
			diff, (c->data_blocks + c->zero_blocks) * SNAPSHOT_BLOCK,
			(uint64_t)st.st_blocks * 512);
	return fsync(fd) < 0 ? err_errno(e, errno, "%s", diff) : 0;
}

static int recall_content(const struct layer *l, struct content *c, struct err *e)
{
	_cleanup_free_ uint64_t *sums = NULL;
	int r = sums_read_all(l, &sums, e);
	if (r < 0)
		return r;
	r = content_init(c, l->size);
	for (uint64_t i = 0; r == 0 && i < l->size / SNAPSHOT_BLOCK; i++)
		if (sums[i] != LAYER_SUM_ABSENT)
			r = content_add(c, i, sums[i]);
	return r < 0 ? err_errno(e, r, "layer %s", l->id) : 0;
}

// To save room only: where it does not work, the zeros stay.
static void punch_zeros(int fd, const struct content *c)
{
	for (size_t i = 0; i < c->n; i++)
		if (c->ranges[i].zero &&
			fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				(off_t)c->ranges[i].offset, (off_t)c->ranges[i].length) < 0)
			return;
}

// From the diff, whose descriptor is fd, to layers/<id>. The .sum file is in place.
static int publish_diff(int dirfd, const char *diff, int fd, int layers_fd,
	const struct layer_name *name, const struct content *c, struct err *e)
{
	if (c->zero_blocks) {
		if (fsync(layers_fd) < 0)
			return err_errno(e, errno, "layers");
		punch_zeros(fd, c);
	}
	// Nobody may change a layer; pagers of any sandbox may read the layers they are shown.
	if ((geteuid() == 0 && fchown(fd, 0, 0) < 0) || fchmod(fd, 0444) < 0)
		return err_errno(e, errno, "%s", diff);
	int r = fault_hit("ingest.after_sums", e);
	if (r < 0)
		return r;
	if (renameat2(dirfd, diff, layers_fd, name->data, RENAME_NOREPLACE) < 0)
		return err_errno(e, errno, "moving %s to layers/%s", diff, name->data);
	if (fsync(layers_fd) < 0)
		return err_errno(e, errno, "layers");
	return fault_hit("ingest.after_layer", e);
}

static int open_diff(int dirfd, const char *diff, int layers_fd, uint64_t size, struct err *e)
{
	// What a jailed VMM left there may be anything: a link, a pipe that never opens.
	_cleanup_close_ int fd =
		openat(dirfd, diff, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	struct stat st, dir;
	if (fd < 0 && errno == ELOOP)
		return err_set(e, ERR_INTERNAL, "%s: a symbolic link instead of a diff", diff);
	if (fd < 0 || fstat(fd, &st) < 0 || fstat(layers_fd, &dir) < 0)
		return err_errno(e, errno, "%s", diff);
	if (!S_ISREG(st.st_mode))
		return err_set(e, ERR_INTERNAL, "%s: not a regular file", diff);
	if (st.st_nlink != 1)
		return err_set(e, ERR_INTERNAL, "%s: has %lu names; a diff has one", diff,
			(unsigned long)st.st_nlink);
	if ((uint64_t)st.st_size != size)
		return err_set(e, ERR_INTERNAL,
			"%s: %" PRIu64 " bytes instead of the memory's %" PRIu64, diff,
			(uint64_t)st.st_size, size);
	if (st.st_dev != dir.st_dev)
		return err_errno(e, EXDEV, "%s is not on the file system of layers/", diff);
	return TAKE_FD(fd);
}

int layer_ingest(int dirfd, const char *diff, int layers_fd, const char *id,
	const struct header *parent, const char *image, struct header **ret,
	struct layer_stats *ret_stats, struct err *e)
{
	return layer_ingest_from(dirfd, diff, -1, layers_fd, id, parent, image, ret, ret_stats, e);
}

int layer_ingest_from(int dirfd, const char *diff, int source, int layers_fd, const char *id,
	const struct header *parent, const char *image, struct header **ret,
	struct layer_stats *ret_stats, struct err *e)
{
	if (!id_is_uuid(id))
		return err_set(e, ERR_INVALID, "layer id is not a UUID");
	struct layer_name name = layer_names(id);
	_cleanup_(layer_close) struct layer l = {.data_fd = -1, .sums_fd = -1};
	_cleanup_(content_done) struct content c = {0};
	_cleanup_close_ int fd = -1;
	int r, published = file_there(layers_fd, name.data);
	// Once the zeros of a diff are punched out, its extents must not be read again.
	int begun = published == 0 ? file_there(layers_fd, name.sums) : published;
	if (begun < 0)
		return err_errno(e, begun, "layers/%s", id);
	if (!published) {
		fd = open_diff(dirfd, diff, layers_fd, parent->size, e);
		if (fd < 0)
			return fd;
	}
	if (begun) {
		r = sums_open(layers_fd, id, parent->size, &l, e);
		if (r == 0)
			r = recall_content(&l, &c, e);
	} else {
		r = content_init(&c, parent->size);
		r = r < 0 ? err_errno(e, r, "%s", diff)
			  : scan_diff(fd, source >= 0 ? source : fd, diff, &c, e);
		if (r == 0)
			r = sums_write(layers_fd, &name, id, &c, e);
	}
	// Before anything is moved: a header that cannot be made must leave the diff where it is.
	_cleanup_(header_freep) struct header *child = NULL;
	if (r == 0)
		r = header_overlay(parent, image, id, c.ranges, c.n, &child, e);
	if (r == 0 && !published)
		r = publish_diff(dirfd, diff, fd, layers_fd, &name, &c, e);
	if (r < 0)
		return r;
	if (ret_stats)
		*ret_stats = (struct layer_stats){
			c.data_blocks * SNAPSHOT_BLOCK, c.zero_blocks * SNAPSHOT_BLOCK};
	*ret = TAKE_PTR(child);
	return 0;
}
