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
#include "snapshot/layer.h"
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include "base/clock.h"
#include "base/fault.h"
#include "base/file.h"
#include "snapshot/format.h"

#define MAGIC "STASLSUM"
#define VERSION 1u
#define HEAD_SIZE 4096u		// so that the sums lie on whole pages
#define HEAD_SUMMED 56u		// bytes of the head that its checksum covers
#define CHUNK (256u * 1024u)	// read at once: stays in the processor's second cache
#define CLONE_MIN (16u * 1024u) // a chain of 30: half the time of 64 KiB, a tenth of the writing

struct layer_name {
	char data[UUID_SIZE + 4], data_tmp[UUID_SIZE + 4];
	char sums[UUID_SIZE + 4], sums_tmp[UUID_SIZE + 8];
};

static struct layer_name names_of(const char *id)
{
	struct layer_name n;
	snprintf(n.data, sizeof n.data, "%.36s", id);
	snprintf(n.data_tmp, sizeof n.data_tmp, "%.36s.tmp", id);
	snprintf(n.sums, sizeof n.sums, "%.36s.sum", id);
	snprintf(n.sums_tmp, sizeof n.sums_tmp, "%.36s.sum.tmp", id);
	return n;
}

uint32_t layer_sum(const void *block)
{
	uint32_t s = (uint32_t)format_xxh3(block, SNAPSHOT_BLOCK);
	return s <= LAYER_SUM_ZERO ? s + 2 : s;
}

bool layer_block_is_zero(const void *block)
{
	const char *p = block;
	uint64_t first;
	memcpy(&first, p, sizeof first);
	return first == 0 && memcmp(p, p + sizeof first, SNAPSHOT_BLOCK - sizeof first) == 0;
}

// --- what a layer holds, while it is made

struct content {
	uint64_t size;
	uint32_t *sums; // one per block
	struct header_range *ranges;
	size_t n, cap;
	uint64_t data_blocks, zero_blocks;
};

static void content_done(struct content *c)
{
	free(c->sums);
	free(c->ranges);
}

static int content_init(struct content *c, uint64_t size)
{
	*c = (struct content){.size = size};
	// A gigabyte of memory has a megabyte of sums; the kernel gives only the pages touched.
	c->sums = calloc(size / SNAPSHOT_BLOCK, sizeof *c->sums);
	return c->sums ? 0 : -ENOMEM;
}

// Blocks are added in ascending order.
static int content_add(struct content *c, uint64_t block, uint32_t sum)
{
	bool zero = sum == LAYER_SUM_ZERO;
	c->sums[block] = htole32(sum);
	*(zero ? &c->zero_blocks : &c->data_blocks) += 1;
	struct header_range *last = c->n ? &c->ranges[c->n - 1] : NULL;
	if (last && last->zero == zero && last->offset + last->length == block * SNAPSHOT_BLOCK) {
		last->length += SNAPSHOT_BLOCK;
		return 0;
	}
	if (c->n == c->cap) {
		size_t cap = c->cap ? c->cap * 2 : 256;
		struct header_range *p = reallocarray(c->ranges, cap, sizeof *p);
		if (!p)
			return -ENOMEM;
		c->ranges = p;
		c->cap = cap;
	}
	c->ranges[c->n++] = (struct header_range){block * SNAPSHOT_BLOCK, SNAPSHOT_BLOCK, zero};
	return 0;
}

// --- the .sum file

static uint64_t sums_file_size(uint64_t size)
{
	return HEAD_SIZE + size / SNAPSHOT_BLOCK * sizeof(uint32_t);
}

static int write_at(int fd, const void *data, size_t len, uint64_t offset)
{
	const char *p = data;
	while (len) {
		ssize_t n = RETRY_EINTR(pwrite(fd, p, len, (off_t)offset));
		if (n < 0)
			return -errno;
		p += n;
		offset += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

// 0, or -ENODATA where the file ends early.
static int read_at(int fd, void *data, size_t len, uint64_t offset)
{
	char *p = data;
	while (len) {
		ssize_t n = RETRY_EINTR(pread(fd, p, len, (off_t)offset));
		if (n <= 0)
			return n < 0 ? -errno : -ENODATA;
		p += n;
		offset += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

// Only the pages that hold an entry of a range are written; the others stay holes.
static int write_sum_pages(int fd, const struct content *c)
{
	const uint64_t per_page = SNAPSHOT_BLOCK / sizeof(uint32_t), end = c->size / SNAPSHOT_BLOCK;
	for (size_t i = 0; i < c->n;) {
		uint64_t from = c->ranges[i].offset / SNAPSHOT_BLOCK / per_page * per_page,
			 to = from;
		// As many ranges as touch pages without a gap go out in one write.
		do {
			uint64_t last =
				(c->ranges[i].offset + c->ranges[i].length) / SNAPSHOT_BLOCK - 1;
			to = (last / per_page + 1) * per_page;
		} while (++i < c->n && c->ranges[i].offset / SNAPSHOT_BLOCK < to + per_page);
		to = MIN(to, end);
		int r = write_at(fd, c->sums + from, (to - from) * sizeof *c->sums,
			HEAD_SIZE + from * sizeof *c->sums);
		if (r < 0)
			return r;
	}
	return 0;
}

static int write_sums(int layers_fd, const struct layer_name *name, const char *id,
	const struct content *c, struct err *e)
{
	_cleanup_close_ int fd = openat(layers_fd, name->sums_tmp,
		O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0444);
	if (fd < 0)
		return err_errno(e, errno, "layers/%s", name->sums_tmp);
	uint8_t head[HEAD_SUMMED + 8];
	memcpy(head, MAGIC, 8);
	put_le32(head + 8, VERSION);
	put_le32(head + 12, SNAPSHOT_BLOCK);
	put_le64(head + 16, c->size);
	put_le64(head + 24, c->data_blocks);
	put_le64(head + 32, c->zero_blocks);
	format_put_uuid(head + 40, id);
	put_le64(head + HEAD_SUMMED, format_xxh3(head, HEAD_SUMMED));
	int r = ftruncate(fd, (off_t)sums_file_size(c->size)) < 0 || fchmod(fd, 0444) < 0 ? -errno
											  : 0;
	if (r == 0)
		r = write_at(fd, head, sizeof head, 0);
	if (r == 0)
		r = write_sum_pages(fd, c);
	if (r == 0 && fsync(fd) < 0)
		r = -errno;
	if (r == 0 && renameat(layers_fd, name->sums_tmp, layers_fd, name->sums) < 0)
		r = -errno;
	if (r < 0) {
		unlinkat(layers_fd, name->sums_tmp, 0);
		return err_errno(e, r, "layers/%s", name->sums);
	}
	return 0;
}

static int open_sums(int layers_fd, const char *id, uint64_t size, struct layer *l, struct err *e)
{
	struct layer_name name = names_of(id);
	_cleanup_close_ int fd = openat(layers_fd, name.sums, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return err_errno(e, errno, "layers/%s", name.sums);
	struct stat st;
	uint8_t head[HEAD_SIZE];
	if (fstat(fd, &st) < 0)
		return err_errno(e, errno, "layers/%s", name.sums);
	int r = S_ISREG(st.st_mode) ? read_at(fd, head, sizeof head, 0) : -ENODATA;
	if (r == -ENODATA)
		return err_set(e, ERR_INTERNAL, "layers/%s: truncated", name.sums);
	if (r < 0)
		return err_errno(e, r, "layers/%s", name.sums);
	if (memcmp(head, MAGIC, 8) != 0)
		return err_set(e, ERR_INTERNAL, "layers/%s: not a file of block sums (wrong magic)",
			name.sums);
	if (get_le32(head + 8) != VERSION)
		return err_set(e, ERR_INTERNAL,
			"layers/%s: format version %u; this program knows version %u", name.sums,
			get_le32(head + 8), VERSION);
	if (get_le64(head + HEAD_SUMMED) != format_xxh3(head, HEAD_SUMMED))
		return err_set(e, ERR_INTERNAL, "layers/%s: checksum does not match", name.sums);
	for (size_t i = HEAD_SUMMED + 8; i < HEAD_SIZE; i++)
		if (head[i])
			return err_set(e, ERR_INTERNAL, "layers/%s: reserved bytes are not zero",
				name.sums);
	char own[UUID_SIZE];
	format_get_uuid(head + 40, own);
	if (!str_eq(own, id))
		return err_set(
			e, ERR_INTERNAL, "layers/%s: holds the sums of layer %s", name.sums, own);
	if (get_le32(head + 12) != SNAPSHOT_BLOCK || get_le64(head + 16) != size)
		return err_set(e, ERR_INTERNAL,
			"layers/%s: is for %" PRIu64 " bytes of memory instead of %" PRIu64,
			name.sums, get_le64(head + 16), size);
	if ((uint64_t)st.st_size != sums_file_size(size))
		return err_set(e, ERR_INTERNAL,
			"layers/%s: truncated or extended: %" PRIu64 " bytes instead of %" PRIu64,
			name.sums, (uint64_t)st.st_size, sums_file_size(size));
	memcpy(l->id, id, UUID_SIZE);
	l->size = size;
	l->data_blocks = get_le64(head + 24);
	l->zero_blocks = get_le64(head + 32);
	l->sums_fd = TAKE_FD(fd);
	return 0;
}

static int read_sums(const struct layer *l, uint64_t block, size_t n, uint32_t *sums, struct err *e)
{
	int r = read_at(l->sums_fd, sums, n * sizeof *sums, HEAD_SIZE + block * sizeof *sums);
	return r < 0 ? err_errno(e, r, "layers/%s.sum", l->id) : 0;
}

// --- ingest

static int add_extent(int fd, uint64_t from, uint64_t to, uint8_t *buf, struct content *c)
{
	for (uint64_t at = from; at < to;) {
		size_t len = (size_t)MIN(to - at, (uint64_t)CHUNK);
		int r = read_at(fd, buf, len, at);
		for (size_t i = 0; r == 0 && i < len; i += SNAPSHOT_BLOCK)
			r = content_add(c, (at + i) / SNAPSHOT_BLOCK,
				layer_block_is_zero(buf + i) ? LAYER_SUM_ZERO : layer_sum(buf + i));
		if (r < 0)
			return r;
		at += len;
	}
	return 0;
}

// The next data extent at or after *at, widened to whole blocks: 1, 0 at the end, or -errno.
static int next_extent(int fd, uint64_t size, uint64_t *at, uint64_t *ret_end)
{
	off_t data = lseek(fd, (off_t)*at, SEEK_DATA);
	if (data < 0)
		return errno == ENXIO ? 0 : -errno;
	off_t hole = lseek(fd, data, SEEK_HOLE);
	if (hole < 0)
		return -errno;
	uint64_t mask = SNAPSHOT_BLOCK - 1;
	*at = MAX(*at, (uint64_t)data & ~mask);
	*ret_end = MIN(((uint64_t)hole + mask) & ~mask, size);
	return *at < size ? 1 : 0;
}

static int scan_diff(int fd, const char *diff, struct content *c, struct err *e)
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
	for (; (r = next_extent(fd, c->size, &at, &end)) > 0; at = end) {
		r = add_extent(fd, at, end, buf, c);
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
	uint64_t n = l->size / SNAPSHOT_BLOCK;
	int r = content_init(c, l->size);
	_cleanup_free_ uint32_t *sums = calloc(n, sizeof *sums);
	if (r < 0 || !sums)
		return err_errno(e, ENOMEM, "layer %s", l->id);
	r = read_sums(l, 0, n, sums, e);
	if (r < 0)
		return r;
	for (uint64_t i = 0; i < n; i++)
		if (sums[i] != LAYER_SUM_ABSENT && (r = content_add(c, i, le32toh(sums[i]))) < 0)
			return err_errno(e, r, "layer %s", l->id);
	if (c->data_blocks != l->data_blocks || c->zero_blocks != l->zero_blocks)
		return err_set(e, ERR_INTERNAL,
			"layers/%s.sum: damaged (%" PRIu64 " blocks instead of %" PRIu64 ")", l->id,
			c->data_blocks + c->zero_blocks, l->data_blocks + l->zero_blocks);
	return 0;
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
	if (!id_is_uuid(id))
		return err_set(e, ERR_INVALID, "layer id is not a UUID");
	struct layer_name name = names_of(id);
	_cleanup_(layer_close) struct layer l = {.data_fd = -1, .sums_fd = -1};
	_cleanup_(content_done) struct content c = {0};
	bool published = file_exists(layers_fd, name.data);
	_cleanup_close_ int fd = -1;
	int r;
	if (!published) {
		fd = open_diff(dirfd, diff, layers_fd, parent->size, e);
		if (fd < 0)
			return fd;
	}
	if (published || file_exists(layers_fd, name.sums)) {
		r = open_sums(layers_fd, id, parent->size, &l, e);
		if (r == 0)
			r = recall_content(&l, &c, e);
	} else {
		r = content_init(&c, parent->size);
		r = r < 0 ? err_errno(e, r, "%s", diff) : scan_diff(fd, diff, &c, e);
		if (r == 0)
			r = write_sums(layers_fd, &name, id, &c, e);
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

// --- reading

int layer_open(int layers_fd, const char *id, uint64_t size, struct layer *ret, struct err *e)
{
	if (!id_is_uuid(id))
		return err_set(e, ERR_INVALID, "layer id is not a UUID");
	_cleanup_(layer_close) struct layer l = {.data_fd = -1, .sums_fd = -1};
	struct stat st;
	l.data_fd = openat(layers_fd, id, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (l.data_fd < 0 || fstat(l.data_fd, &st) < 0)
		return err_errno(e, errno, "layers/%s", id);
	if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != size)
		return err_set(e, ERR_INTERNAL,
			"layers/%s: truncated or extended: %" PRIu64 " bytes instead of %" PRIu64,
			id, (uint64_t)st.st_size, size);
	int r = open_sums(layers_fd, id, size, &l, e);
	if (r < 0)
		return r;
	*ret = l;
	l = (struct layer){.data_fd = -1, .sums_fd = -1};
	return 0;
}

void layer_close(struct layer *l)
{
	if (l->size == 0)
		return; // never opened
	if (l->data)
		munmap((void *)l->data, l->size);
	if (l->sums)
		munmap((uint8_t *)l->sums - HEAD_SIZE, sums_file_size(l->size));
	safe_close(l->data_fd);
	safe_close(l->sums_fd);
	*l = (struct layer){.data_fd = -1, .sums_fd = -1};
}

int layer_map(struct layer *l, struct err *e)
{
	void *data = mmap(NULL, l->size, PROT_READ, MAP_SHARED, l->data_fd, 0);
	if (data == MAP_FAILED)
		return err_errno(e, errno, "layers/%s: mmap", l->id);
	void *sums = mmap(NULL, sums_file_size(l->size), PROT_READ, MAP_SHARED, l->sums_fd, 0);
	if (sums == MAP_FAILED) {
		int r = err_errno(e, errno, "layers/%s.sum: mmap", l->id);
		munmap(data, l->size);
		return r;
	}
	l->data = data;
	l->sums = (const uint32_t *)((uint8_t *)sums + HEAD_SIZE);
	l->data_fd = safe_close(l->data_fd);
	l->sums_fd = safe_close(l->sums_fd);
	return 0;
}

static int check_block(
	const struct layer *l, uint64_t block, const void *data, uint32_t sum, struct err *e)
{
	if (sum <= LAYER_SUM_ZERO)
		return err_set(e, ERR_INTERNAL, "layers/%s: has no block at offset %" PRIu64, l->id,
			block * SNAPSHOT_BLOCK);
	if (layer_sum(data) != sum)
		return err_set(e, ERR_INTERNAL,
			"layers/%s: block at offset %" PRIu64 " does not match its checksum", l->id,
			block * SNAPSHOT_BLOCK);
	return 0;
}

// One chunk; the sums go to *sums.
static int read_chunk(const struct layer *l, uint64_t offset, size_t len, uint8_t *buf,
	uint32_t *sums, struct err *e)
{
	int r = read_at(l->data_fd, buf, len, offset);
	if (r < 0)
		return err_errno(e, r, "layers/%s", l->id);
	r = read_sums(l, offset / SNAPSHOT_BLOCK, len / SNAPSHOT_BLOCK, sums, e);
	for (size_t i = 0; r == 0 && i < len; i += SNAPSHOT_BLOCK)
		r = check_block(l, (offset + i) / SNAPSHOT_BLOCK, buf + i,
			le32toh(sums[i / SNAPSHOT_BLOCK]), e);
	return r;
}

int layer_read(const struct layer *l, uint64_t offset, uint64_t len, void *buf, struct err *e)
{
	if (offset % SNAPSHOT_BLOCK || len % SNAPSHOT_BLOCK || offset > l->size ||
		len > l->size - offset)
		return err_set(e, ERR_INVALID, "layers/%s: bad range", l->id);
	uint32_t sums[CHUNK / SNAPSHOT_BLOCK];
	for (uint64_t done = 0; done < len;) {
		size_t n = (size_t)MIN(len - done, (uint64_t)CHUNK);
		int r = read_chunk(l, offset + done, n, (uint8_t *)buf + done, sums, e);
		if (r < 0)
			return r;
		done += n;
	}
	return 0;
}

static int verify_range(const struct layer *l, const uint32_t *sums, uint64_t from, uint64_t to,
	uint8_t *buf, struct err *e)
{
	for (uint64_t at = from; at < to;) {
		size_t len = (size_t)MIN(to - at, (uint64_t)CHUNK);
		int r = read_at(l->data_fd, buf, len, at);
		if (r < 0)
			return err_errno(e, r, "layers/%s", l->id);
		for (size_t i = 0; i < len; i += SNAPSHOT_BLOCK) {
			uint64_t block = (at + i) / SNAPSHOT_BLOCK;
			uint32_t sum = le32toh(sums[block]);
			if (sum <= LAYER_SUM_ZERO && !layer_block_is_zero(buf + i))
				return err_set(e, ERR_INTERNAL,
					"layers/%s: foreign data at offset %" PRIu64, l->id,
					block * SNAPSHOT_BLOCK);
			if (sum > LAYER_SUM_ZERO &&
				(r = check_block(l, block, buf + i, sum, e)) < 0)
				return r;
		}
		at += len;
	}
	return 0;
}

int layer_verify(const struct layer *l, struct err *e)
{
	uint64_t n = l->size / SNAPSHOT_BLOCK, at = 0, end = 0, checked = 0, data_blocks = 0;
	_cleanup_free_ uint32_t *sums = calloc(n, sizeof *sums);
	_cleanup_free_ uint8_t *buf = malloc(CHUNK);
	if (!sums || !buf)
		return err_errno(e, ENOMEM, "layer %s", l->id);
	int r = read_sums(l, 0, n, sums, e);
	if (r < 0)
		return r;
	for (uint64_t i = 0; i < n; i++)
		data_blocks += le32toh(sums[i]) > LAYER_SUM_ZERO;
	if (data_blocks != l->data_blocks)
		return err_set(e, ERR_INTERNAL,
			"layers/%s.sum: damaged (%" PRIu64 " blocks instead of %" PRIu64 ")", l->id,
			data_blocks, l->data_blocks);
	while ((r = next_extent(l->data_fd, l->size, &at, &end)) >= 0) {
		// Holes are read as well where a sum says that there should be data.
		uint64_t hole_end = r > 0 ? at : l->size;
		for (uint64_t o = checked; o < hole_end; o += SNAPSHOT_BLOCK) {
			if (le32toh(sums[o / SNAPSHOT_BLOCK]) <= LAYER_SUM_ZERO)
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
	struct layer_name name = names_of(id);
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

int layer_verify_once(
	int layers_fd, const char *id, uint64_t size, const char *record_dir, struct err *e)
{
	char now[256], path[512];
	_cleanup_strbuf_ struct strbuf known = {0};
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
	if (file_read(AT_FDCWD, path, sizeof now, &known) == 0 && str_eq(known.data, now))
		return 0;
	r = layer_verify(&l, e);
	if (r == 0 && file_mkdir_p(AT_FDCWD, record_dir, 0700) == 0)
		file_write_atomic(AT_FDCWD, path, now, strlen(now), 0600);
	return r;
}

// --- copies of whole images

// Checks the run and brings it into out; *clone is cleared where sharing blocks does not work.
static int copy_run(const struct layer *l, const struct header_map *m, int out_fd, uint8_t *buf,
	bool *clone, struct content *c, struct err *e)
{
	uint32_t sums[CHUNK / SNAPSHOT_BLOCK];
	uint64_t len = (uint64_t)m->blocks * SNAPSHOT_BLOCK;
	bool shared = false;
	if (*clone && len >= CLONE_MIN) {
		struct file_clone_range range = {.src_fd = l->data_fd,
			.src_offset = m->offset,
			.src_length = len,
			.dest_offset = m->offset};
		shared = ioctl(out_fd, FICLONERANGE, &range) == 0;
		*clone = shared;
	}
	for (uint64_t at = m->offset; at < m->offset + len;) {
		size_t n = (size_t)MIN(m->offset + len - at, (uint64_t)CHUNK);
		int r = read_chunk(l, at, n, buf, sums, e);
		if (r < 0)
			return r;
		if (!shared && (r = write_at(out_fd, buf, n, at)) < 0)
			return err_errno(e, r, "copy of layer %s", l->id);
		for (size_t i = 0; c && i < n / SNAPSHOT_BLOCK; i++)
			c->sums[at / SNAPSHOT_BLOCK + i] = sums[i];
		at += n;
	}
	return 0;
}

static int copy_image(
	const struct header *h, int layers_fd, int out_fd, struct content *c, struct err *e)
{
	_cleanup_free_ uint8_t *buf = malloc(CHUNK);
	if (!buf)
		return err_errno(e, ENOMEM, "image");
	if (ftruncate(out_fd, (off_t)h->size) < 0)
		return err_errno(e, errno, "image of %" PRIu64 " bytes", h->size);
	bool clone = true;
	// Layer by layer, so that the length of a chain is not bounded by descriptors.
	for (uint32_t i = 0; i < h->n_layers; i++) {
		_cleanup_(layer_close) struct layer l = {.data_fd = -1, .sums_fd = -1};
		int r = layer_open(layers_fd, h->layers[i], h->size, &l, e);
		for (size_t j = 0; r == 0 && j < h->n_maps; j++)
			if (h->maps[j].layer == i)
				r = copy_run(&l, &h->maps[j], out_fd, buf, &clone, c, e);
		if (r < 0)
			return r;
	}
	return 0;
}

int layer_materialise(const struct header *h, int layers_fd, int out_fd, struct err *e)
{
	return copy_image(h, layers_fd, out_fd, NULL, e);
}

static int merged_header(const struct header *h, const char *id, const struct content *c,
	struct header **ret, struct err *e)
{
	_cleanup_(header_freep) struct header *zero = NULL;
	int r = header_new_zero(h->size, h->image, &zero, e);
	if (r == 0)
		r = header_overlay(zero, h->image, id, c->ranges, c->n, ret, e);
	if (r < 0)
		return r;
	(*ret)->generation = h->generation;
	memcpy((*ret)->base, h->base, UUID_SIZE);
	return 0;
}

static int write_merged(const struct header *h, int layers_fd, const char *id,
	const struct layer_name *name, struct content *c, struct err *e)
{
	_cleanup_close_ int fd = openat(layers_fd, name->data_tmp,
		O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0444);
	if (fd < 0)
		return err_errno(e, errno, "layers/%s", name->data_tmp);
	int r = copy_image(h, layers_fd, fd, c, e);
	if (r == 0 && (fchmod(fd, 0444) < 0 || fsync(fd) < 0)) // whatever the umask
		r = err_errno(e, errno, "layers/%s", name->data_tmp);
	if (r < 0)
		return r;
	r = fault_hit("merge.after_data", e);
	if (r == 0)
		r = write_sums(layers_fd, name, id, c, e);
	if (r == 0)
		r = fault_hit("merge.after_sums", e);
	if (r < 0)
		return r;
	if (renameat(layers_fd, name->data_tmp, layers_fd, name->data) < 0 || fsync(layers_fd) < 0)
		return err_errno(e, errno, "layers/%s", name->data);
	return fault_hit("merge.after_layer", e);
}

int layer_merge(
	const struct header *h, int layers_fd, const char *id, struct header **ret, struct err *e)
{
	if (!id_is_uuid(id))
		return err_set(e, ERR_INVALID, "layer id is not a UUID");
	struct layer_name name = names_of(id);
	_cleanup_(content_done) struct content c = {0};
	if (content_init(&c, h->size) < 0)
		return err_errno(e, ENOMEM, "merge");
	for (size_t i = 0; i < h->n_maps; i++)
		for (uint64_t b = 0; h->maps[i].layer != HEADER_ZERO && b < h->maps[i].blocks; b++)
			if (content_add(&c, h->maps[i].offset / SNAPSHOT_BLOCK + b,
				    LAYER_SUM_ZERO + 1) < 0)
				return err_errno(e, ENOMEM, "merge");
	_cleanup_(header_freep) struct header *merged = NULL;
	int r = merged_header(h, id, &c, &merged, e);
	if (r == 0 && merged->n_layers)
		r = write_merged(h, layers_fd, id, &name, &c, e);
	if (r < 0) {
		unlinkat(layers_fd, name.data_tmp, 0);
		layer_remove(layers_fd, id);
		return err_prefix(e, r, "merge into layer %s", id);
	}
	*ret = TAKE_PTR(merged);
	return 0;
}

int layer_is_flat(const struct header *h, int layers_fd, bool *ret, struct err *e)
{
	*ret = false;
	if (h->n_layers != 1)
		return 0;
	_cleanup_(layer_close) struct layer l = {.data_fd = -1, .sums_fd = -1};
	int r = layer_open(layers_fd, h->layers[0], h->size, &l, e);
	if (r == 0)
		*ret = l.data_blocks * SNAPSHOT_BLOCK == header_data_bytes(h);
	return r;
}

int layer_remove(int layers_fd, const char *id)
{
	struct layer_name name = names_of(id);
	const char *files[] = {name.data, name.data_tmp, name.sums, name.sums_tmp};
	for (size_t i = 0; i < ARRAY_SIZE(files); i++)
		if (unlinkat(layers_fd, files[i], 0) < 0 && errno != ENOENT)
			return -errno;
	return 0;
}
