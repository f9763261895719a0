// SPDX-License-Identifier: Apache-2.0
//
// How a diff becomes a layer (layer_ingest). The diff alone tells apart "written, and zero" (data)
// from "not written" (hole), and punching out the zeros destroys just that. So:
//
//	1. read the diff's data extents, compute the sums, fsync the diff. A block that the parent
//	   has as well is none of the layer's: what VMMs write is often more than what changed
//	2. <id>.sum.tmp, fsync, rename to <id>.sum	from here on the .sum file is the truth
//	3. fsync layers/ when there is something to punch, then punch what is no data of the layer
//	   and fsync that: what a layer does not hold reads as zeros
//	4. rename the diff to <id>, fsync layers/	published
//
// A repeated call finds <id>.sum and goes on from there; what the diff's extents hold besides is
// punched out.
#include "snapshot/ingest.h"
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include "base/fault.h"
#include "base/file.h"
#include "snapshot/format.h"
#include "snapshot/parent.h"
#include "snapshot/sums.h"

#define CHUNK (256u * 1024u) // read at once: stays in the processor's second cache

struct scan {
	int fd;	  // of the diff, for its extents
	int from; // where its bytes are read
	const char *diff;
	struct parent *parent;
	uint64_t same_blocks; // written, and the parent has the same
	uint64_t same_data;   // of those: not zeros
	struct content *content;
};

static int add_extent(struct scan *s, uint64_t from, uint64_t to, uint8_t *buf)
{
	for (uint64_t at = from; at < to;) {
		size_t len = (size_t)MIN(to - at, (uint64_t)CHUNK);
		int r = layer_read_at(s->from, buf, len, at);
		for (size_t i = 0; r == 0 && i < len; i += SNAPSHOT_BLOCK) {
			uint64_t block = (at + i) / SNAPSHOT_BLOCK;
			uint64_t sum =
				layer_block_is_zero(buf + i) ? LAYER_SUM_ZERO : layer_sum(buf + i);
			if (!parent_has(s->parent, block, buf + i, sum)) {
				r = content_add(s->content, block, sum);
				continue;
			}
			s->same_blocks++;
			s->same_data += sum != LAYER_SUM_ZERO;
		}
		if (r < 0)
			return r;
		at += len;
	}
	return 0;
}

static int scan_diff(struct scan *s, struct err *e)
{
	struct stat st;
	struct statvfs vfs;
	if (fstat(s->fd, &st) < 0 || fstatvfs(s->fd, &vfs) < 0)
		return err_errno(e, errno, "%s", s->diff);
	// With larger blocks the file system would fill up what the VMM left out with zeros.
	if (vfs.f_bsize > SNAPSHOT_BLOCK)
		return err_set(e, ERR_UNIMPLEMENTED,
			"%s: the file system has blocks of %lu bytes; snapshots need %u or less",
			s->diff, vfs.f_bsize, SNAPSHOT_BLOCK);
	_cleanup_free_ uint8_t *buf = malloc(CHUNK);
	if (!buf)
		return err_errno(e, ENOMEM, "%s", s->diff);
	uint64_t at = 0, end = 0;
	int r;
	// The disk writes while the sums are computed.
	sync_file_range(s->fd, 0, 0, SYNC_FILE_RANGE_WRITE);
	for (; (r = layer_next_extent(s->fd, s->content->size, &at, &end)) > 0; at = end) {
		r = add_extent(s, at, end, buf);
		if (r < 0)
			break;
	}
	if (r < 0)
		return err_errno(e, r, "%s", s->diff);
	// A file system that does not know holes calls all of the file data: all that the guest did
	// not write would become zeros.
	uint64_t blocks = s->content->data_blocks + s->content->zero_blocks + s->same_blocks;
	if (blocks * SNAPSHOT_BLOCK > (uint64_t)st.st_blocks * 512)
		return err_set(e, ERR_UNIMPLEMENTED,
			"%s: the file system does not tell holes from data (%" PRIu64
			" bytes of data in %" PRIu64 " of blocks)",
			s->diff, blocks * SNAPSHOT_BLOCK, (uint64_t)st.st_blocks * 512);
	return fsync(s->fd) < 0 ? err_errno(e, errno, "%s", s->diff) : 0;
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

// Zeros where a file system cannot punch: what is no data of a layer reads as zeros.
static int punch(int fd, uint64_t from, uint64_t to)
{
	static const uint8_t zeros[CHUNK];
	int r = 0;
	if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)from,
		    (off_t)(to - from)) == 0)
		return 0;
	for (uint64_t len; r == 0 && from < to; from += len) {
		len = MIN(to - from, (uint64_t)CHUNK);
		r = layer_write_at(fd, zeros, len, from);
	}
	return r;
}

// All but the data of the layer: its zeros, and what it does not hold.
static int punch_rest(int fd, const struct content *c)
{
	uint64_t at = 0, end = 0;
	size_t i = 0;
	int r;
	while ((r = layer_next_extent(fd, c->size, &at, &end)) > 0) {
		while (at < end) {
			while (i < c->n && (c->ranges[i].zero ||
						   c->ranges[i].offset + c->ranges[i].length <= at))
				i++;
			uint64_t data = i < c->n ? c->ranges[i].offset : end;
			if (data <= at) {
				at = c->ranges[i].offset + c->ranges[i].length;
				continue;
			}
			if ((r = punch(fd, at, MIN(data, end))) < 0)
				return r;
			at = MIN(data, end);
		}
	}
	return r;
}

// From the diff, whose descriptor is fd, to layers/<id>. The .sum file is in place. rest: the diff
// has more than the data of the layer; rest_data: of that, more than zeros.
static int publish_diff(int dirfd, const char *diff, int fd, int layers_fd,
	const struct layer_name *name, const struct content *c, bool rest, bool rest_data,
	struct err *e)
{
	int r = fault_hit("ingest.before_punch", e);
	if (r < 0)
		return r;
	if (rest && fsync(layers_fd) < 0)
		return err_errno(e, errno, "layers");
	if (rest && (r = punch_rest(fd, c)) < 0)
		return err_errno(e, r, "%s", diff);
	if (rest_data && fsync(fd) < 0)
		return err_errno(e, errno, "%s", diff);
	// Nobody may change a layer; pagers of any sandbox may read the layers they are shown.
	if ((geteuid() == 0 && fchown(fd, 0, 0) < 0) || fchmod(fd, 0444) < 0)
		return err_errno(e, errno, "%s", diff);
	r = fault_hit("ingest.after_sums", e);
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
	_cleanup_(parent_freep) struct parent *below = parent_new(parent, layers_fd);
	struct scan s = {.diff = diff, .parent = below, .content = &c};
	_cleanup_close_ int fd = -1;
	int r, published = file_there(layers_fd, name.data);
	// Once the zeros of a diff are punched out, its extents must not be read again.
	int begun = published == 0 ? file_there(layers_fd, name.sums) : published;
	if (begun < 0)
		return err_errno(e, begun, "layers/%s", id);
	if (!below)
		return err_errno(e, ENOMEM, "%s", diff);
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
		s.fd = fd;
		s.from = source >= 0 ? source : fd;
		r = content_init(&c, parent->size);
		r = r < 0 ? err_errno(e, r, "%s", diff) : scan_diff(&s, e);
		if (r == 0)
			r = sums_write(layers_fd, &name, id, &c, e);
	}
	// Before anything is moved: a header that cannot be made must leave the diff where it is.
	_cleanup_(header_freep) struct header *child = NULL;
	if (r == 0)
		r = header_overlay(parent, image, id, c.ranges, c.n, &child, e);
	if (r == 0 && !published)
		r = publish_diff(dirfd, diff, fd, layers_fd, &name, &c,
			begun || c.zero_blocks || s.same_blocks, begun || s.same_data, e);
	if (r < 0)
		return r;
	if (ret_stats)
		*ret_stats = (struct layer_stats){c.data_blocks * SNAPSHOT_BLOCK,
			c.zero_blocks * SNAPSHOT_BLOCK, s.same_blocks * SNAPSHOT_BLOCK};
	*ret = TAKE_PTR(child);
	return 0;
}
