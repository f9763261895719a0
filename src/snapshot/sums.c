// SPDX-License-Identifier: Apache-2.0
#include "snapshot/sums.h"
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>
#include "base/file.h"
#include "snapshot/format.h"

#define MAGIC "STASLSUM"
#define VERSION 2u
#define HEAD_SIZE LAYER_SUMS_HEAD
#define PER_PAGE (SNAPSHOT_BLOCK / sizeof(uint64_t)) // entries

// Bytes of the head that its checksum, which follows them, covers.
static size_t head_summed(unsigned version)
{
	return version == 1 ? 56 : 64;
}

struct layer_name layer_names(const char *id)
{
	struct layer_name n;
	snprintf(n.data, sizeof n.data, "%.36s", id);
	snprintf(n.data_tmp, sizeof n.data_tmp, "%.36s.tmp", id);
	snprintf(n.sums, sizeof n.sums, "%.36s.sum", id);
	snprintf(n.sums_tmp, sizeof n.sums_tmp, "%.36s.sum.tmp", id);
	return n;
}

uint64_t layer_sum(const void *block)
{
	uint64_t s = format_xxh3(block, SNAPSHOT_BLOCK);
	return s <= LAYER_SUM_ZERO ? s + 2 : s;
}

bool layer_sum_fits(const struct layer *l, uint64_t stored, uint64_t sum)
{
	if (l->entry == sizeof(uint64_t))
		return stored == sum;
	uint32_t low = (uint32_t)sum;
	// layer_sum moves the 64 bits away from 0 and 1; version 1 did so with the lower 32. Where
	// the whole sum was 0 or 1, both gave 2 and 3.
	return stored == (low <= LAYER_SUM_ZERO ? low + 2 : low);
}

uint64_t layer_first_unfit(
	const struct layer *l, uint64_t offset, const uint8_t *data, uint64_t len)
{
	uint64_t at = 0;
	while (at < len &&
		layer_sum_fits(l, layer_entry(l, l->sums, (offset + at) / SNAPSHOT_BLOCK),
			layer_sum(data + at)))
		at += SNAPSHOT_BLOCK;
	return offset + at;
}

bool layer_block_is_zero(const void *block)
{
	const char *p = block;
	uint64_t first;
	memcpy(&first, p, sizeof first);
	return first == 0 && memcmp(p, p + sizeof first, SNAPSHOT_BLOCK - sizeof first) == 0;
}

// --- what a layer holds, while it is made

void content_done(struct content *c)
{
	free(c->sums);
	free(c->ranges);
}

int content_init(struct content *c, uint64_t size)
{
	*c = (struct content){.size = size};
	// A gigabyte of memory has two megabytes of sums; the kernel gives only the pages touched.
	c->sums = calloc(size / SNAPSHOT_BLOCK, sizeof *c->sums);
	return c->sums ? 0 : -ENOMEM;
}

int content_add(struct content *c, uint64_t block, uint64_t sum)
{
	bool zero = sum == LAYER_SUM_ZERO;
	c->sums[block] = htole64(sum);
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

// --- places in files

int layer_write_at(int fd, const void *data, size_t len, uint64_t offset)
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

int layer_read_at(int fd, void *data, size_t len, uint64_t offset)
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

int layer_next_extent(int fd, uint64_t size, uint64_t *at, uint64_t *ret_end)
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

// --- writing

// Of the pages from the given entries on, each with its number: what is all zeros is left out, so
// that the cost follows what the layer holds.
static void digest_pages(XXH3_state_t *x, const uint64_t *sums, uint64_t from, uint64_t to)
{
	uint8_t number[8];
	for (uint64_t at = from; at < to; at += PER_PAGE) {
		put_le64(number, at / PER_PAGE);
		XXH3_64bits_update(x, number, sizeof number);
		XXH3_64bits_update(x, sums + at, MIN(to - at, PER_PAGE) * sizeof *sums);
	}
}

// Only the pages that hold an entry of a range are written; the others stay holes.
static int write_pages(int fd, const struct content *c, XXH3_state_t *x)
{
	const uint64_t end = c->size / SNAPSHOT_BLOCK;
	for (size_t i = 0; i < c->n;) {
		uint64_t from = c->ranges[i].offset / SNAPSHOT_BLOCK / PER_PAGE * PER_PAGE,
			 to = from;
		// As many ranges as touch pages without a gap go out in one write.
		do {
			uint64_t last =
				(c->ranges[i].offset + c->ranges[i].length) / SNAPSHOT_BLOCK - 1;
			to = (last / PER_PAGE + 1) * PER_PAGE;
		} while (++i < c->n && c->ranges[i].offset / SNAPSHOT_BLOCK < to + PER_PAGE);
		to = MIN(to, end);
		digest_pages(x, c->sums, from, to);
		int r = layer_write_at(fd, c->sums + from, (to - from) * sizeof *c->sums,
			HEAD_SIZE + from * sizeof *c->sums);
		if (r < 0)
			return r;
	}
	return 0;
}

static int write_head(int fd, const char *id, const struct content *c, uint64_t digest)
{
	uint8_t head[64 + 8];
	memcpy(head, MAGIC, 8);
	put_le32(head + 8, VERSION);
	put_le32(head + 12, SNAPSHOT_BLOCK);
	put_le64(head + 16, c->size);
	put_le64(head + 24, c->data_blocks);
	put_le64(head + 32, c->zero_blocks);
	format_put_uuid(head + 40, id);
	put_le64(head + 56, digest);
	put_le64(head + head_summed(VERSION), format_xxh3(head, head_summed(VERSION)));
	return layer_write_at(fd, head, sizeof head, 0);
}

int sums_write(int layers_fd, const struct layer_name *name, const char *id,
	const struct content *c, struct err *e)
{
	_cleanup_close_ int fd = openat(layers_fd, name->sums_tmp,
		O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0444);
	if (fd < 0)
		return err_errno(e, errno, "layers/%s", name->sums_tmp);
	XXH3_state_t *x = XXH3_createState();
	if (!x)
		return err_errno(e, ENOMEM, "layers/%s", name->sums_tmp);
	XXH3_64bits_reset(x);
	const uint64_t size = HEAD_SIZE + c->size / SNAPSHOT_BLOCK * sizeof(uint64_t);
	int r = ftruncate(fd, (off_t)size) < 0 || fchmod(fd, 0444) < 0 ? -errno : 0;
	if (r == 0)
		r = write_pages(fd, c, x);
	if (r == 0)
		r = write_head(fd, id, c, XXH3_64bits_digest(x));
	XXH3_freeState(x);
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

// --- reading

// What stands in the head, for the layer id of a memory of that size.
static int check_head(const uint8_t head[HEAD_SIZE], const char *file, const char *id,
	uint64_t size, struct err *e)
{
	char own[UUID_SIZE];
	if (memcmp(head, MAGIC, 8) != 0)
		return err_set(
			e, ERR_INTERNAL, "layers/%s: not a file of block sums (wrong magic)", file);
	uint32_t version = get_le32(head + 8);
	if (version < 1 || version > VERSION)
		return err_set(e, ERR_INTERNAL,
			"layers/%s: format version %u; this program knows 1 to %u", file, version,
			VERSION);
	size_t summed = head_summed(version);
	if (get_le64(head + summed) != format_xxh3(head, summed))
		return err_set(e, ERR_INTERNAL, "layers/%s: checksum does not match", file);
	for (size_t i = summed + 8; i < HEAD_SIZE; i++)
		if (head[i])
			return err_set(
				e, ERR_INTERNAL, "layers/%s: reserved bytes are not zero", file);
	format_get_uuid(head + 40, own);
	if (!str_eq(own, id))
		return err_set(e, ERR_INTERNAL, "layers/%s: holds the sums of layer %s", file, own);
	if (get_le32(head + 12) != SNAPSHOT_BLOCK || get_le64(head + 16) != size)
		return err_set(e, ERR_INTERNAL,
			"layers/%s: is for %" PRIu64 " bytes of memory instead of %" PRIu64, file,
			get_le64(head + 16), size);
	return 0;
}

int sums_open(int layers_fd, const char *id, uint64_t size, struct layer *l, struct err *e)
{
	struct layer_name name = layer_names(id);
	_cleanup_close_ int fd = openat(layers_fd, name.sums, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	struct stat st;
	uint8_t head[HEAD_SIZE];
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_errno(e, errno, "layers/%s", name.sums);
	int r = S_ISREG(st.st_mode) ? layer_read_at(fd, head, sizeof head, 0) : -ENODATA;
	if (r == -ENODATA)
		return err_set(e, ERR_INTERNAL, "layers/%s: truncated", name.sums);
	if (r < 0)
		return err_errno(e, r, "layers/%s", name.sums);
	r = check_head(head, name.sums, id, size, e);
	if (r < 0)
		return r;
	memcpy(l->id, id, UUID_SIZE);
	l->size = size;
	l->entry = get_le32(head + 8) == 1 ? sizeof(uint32_t) : sizeof(uint64_t);
	l->digest = get_le32(head + 8) == 1 ? 0 : get_le64(head + 56);
	l->data_blocks = get_le64(head + 24);
	l->zero_blocks = get_le64(head + 32);
	if ((uint64_t)st.st_size != sums_file_size(l))
		return err_set(e, ERR_INTERNAL,
			"layers/%s: truncated or extended: %" PRIu64 " bytes instead of %" PRIu64,
			name.sums, (uint64_t)st.st_size, sums_file_size(l));
	l->sums_fd = TAKE_FD(fd);
	return 0;
}

uint64_t sums_file_size(const struct layer *l)
{
	return HEAD_SIZE + l->size / SNAPSHOT_BLOCK * l->entry;
}

int sums_read(const struct layer *l, uint64_t block, size_t n, uint64_t *ret, struct err *e)
{
	int r = layer_read_at(l->sums_fd, ret, n * l->entry, HEAD_SIZE + block * l->entry);
	if (r < 0)
		return err_errno(e, r, "layers/%s.sum", l->id);
	// Widened in place, so from the end.
	for (size_t i = n; i-- > 0;)
		ret[i] = layer_entry(l, ret, i);
	return 0;
}

static bool page_is_zero(const uint64_t *page, size_t n)
{
	while (n && page[n - 1] == 0)
		n--;
	return n == 0;
}

// -ENOMEM.
static int digest_entries(const uint64_t *sums, uint64_t n, uint64_t *ret)
{
	XXH3_state_t *x = XXH3_createState();
	if (!x)
		return -ENOMEM;
	XXH3_64bits_reset(x);
	for (uint64_t at = 0; at < n; at += PER_PAGE)
		if (!page_is_zero(sums + at, MIN(n - at, PER_PAGE)))
			digest_pages(x, sums, at, MIN(at + PER_PAGE, n));
	*ret = XXH3_64bits_digest(x);
	XXH3_freeState(x);
	return 0;
}

int sums_read_all(const struct layer *l, uint64_t **ret, struct err *e)
{
	uint64_t n = l->size / SNAPSHOT_BLOCK, data = 0, zero = 0, digest = l->digest;
	_cleanup_free_ uint64_t *sums = calloc(n, sizeof *sums);
	if (!sums)
		return err_errno(e, ENOMEM, "layer %s", l->id);
	int r = sums_read(l, 0, n, sums, e);
	if (r < 0)
		return r;
	for (uint64_t i = 0; i < n; i++) {
		data += sums[i] > LAYER_SUM_ZERO;
		zero += sums[i] == LAYER_SUM_ZERO;
	}
	if (data != l->data_blocks || zero != l->zero_blocks)
		return err_set(e, ERR_INTERNAL,
			"layers/%s.sum: damaged (%" PRIu64 " blocks instead of %" PRIu64 ")", l->id,
			data + zero, l->data_blocks + l->zero_blocks);
	if (l->entry == sizeof *sums && digest_entries(sums, n, &digest) < 0)
		return err_errno(e, ENOMEM, "layer %s", l->id);
	if (digest != l->digest)
		return err_set(e, ERR_INTERNAL,
			"layers/%s.sum: damaged (the checksum of its entries)", l->id);
	*ret = TAKE_PTR(sums);
	return 0;
}
