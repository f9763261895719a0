// SPDX-License-Identifier: Apache-2.0
#include "fcqemu/state.h"
#include <endian.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>
#include "base/file.h"
#include "fcqemu/body.h"

static const char magic[8] = {'S', 'T', 'A', 'S', 'I', 'S', 'F', 'Q'};
// Of Firecracker's state files, x86 and arm.
#define FIRECRACKER_X86 0x0710198486640000ull
#define FIRECRACKER_ARM 0x07101984AAAA0000ull

struct head {
	char magic[8];
	uint32_t layout, description_length;
	uint64_t stream_length, stream_sum, head_sum;
};
_Static_assert(sizeof(struct head) == STATE_HEAD_SIZE, "no padding");

void state_format(const char *qemu_version, char *out, size_t size)
{
	snprintf(out, size, "fcqemu-%u/qemu-%s", STATE_LAYOUT, qemu_version);
}

void state_done(struct state *s)
{
	config_done(&s->config);
}

struct description {
	char *qemu_version, *accel;
	uint64_t tsc_khz;
	json_t *machine;
};

static const struct body_field fields[] = {
	{"qemu_version", BODY_STRING, .required = true,
		BODY_FIELD(struct description, qemu_version)},
	{"accel", BODY_STRING, .required = true, BODY_FIELD(struct description, accel)},
	{"tsc_khz", BODY_UINT, .required = true, .max = 1000000000,
		BODY_FIELD(struct description, tsc_khz)},
	{"machine", BODY_OBJECT, .required = true, .shape = &config_state_shape,
		BODY_FIELD(struct description, machine)},
};

static const struct body_shape shape = BODY_SHAPE("a description", fields);

int state_encode_description(const struct state *s, struct strbuf *out)
{
	_cleanup_(json_decrefp) json_t *j = json_pack("{s:s, s:s, s:I, s:o}", "qemu_version",
		s->qemu_version, "accel", s->accel, "tsc_khz", (json_int_t)s->tsc_khz, "machine",
		config_state_json(&s->config));
	_cleanup_free_ char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
	if (!text)
		return -ENOMEM;
	strbuf_adds(out, text);
	return strbuf_check(out);
}

static uint64_t head_sum(const struct head *h, const void *description, size_t len)
{
	return XXH3_64bits_withSeed(
		description, len, XXH3_64bits(h, offsetof(struct head, head_sum)));
}

void state_encode_head(const struct strbuf *description, const void *stream, uint64_t stream_length,
	uint8_t out[STATE_HEAD_SIZE])
{
	struct head h = {.layout = htole32(STATE_LAYOUT),
		.description_length = htole32((uint32_t)description->len),
		.stream_length = htole64(stream_length),
		.stream_sum = htole64(XXH3_64bits(stream, stream_length))};
	memcpy(h.magic, magic, sizeof magic);
	h.head_sum = htole64(head_sum(&h, description->data, description->len));
	memcpy(out, &h, sizeof h);
}

static int check_head(const void *data, size_t len, struct head *ret, struct err *e)
{
	struct head h = {0};
	uint64_t first = 0;
	memcpy(&h, data, MIN(len, sizeof h));
	memcpy(&first, data, MIN(len, sizeof first));
	if (le64toh(first) == FIRECRACKER_X86 || le64toh(first) == FIRECRACKER_ARM)
		return err_set(e, ERR_INVALID,
			"this is a state file of Firecracker itself, which fcqemu cannot load");
	if (memcmp(h.magic, magic, MIN(len, sizeof magic)) != 0)
		return err_set(e, ERR_INVALID, "not a state file of fcqemu (wrong magic)");
	if (len < sizeof h)
		return err_set(e, ERR_INVALID, "truncated: %zu bytes, the head alone has %u", len,
			STATE_HEAD_SIZE);
	if (le32toh(h.layout) > STATE_LAYOUT)
		return err_set(e, ERR_INVALID,
			"written by a newer fcqemu (layout %u, this one knows %u)",
			le32toh(h.layout), STATE_LAYOUT);
	if (le32toh(h.layout) != STATE_LAYOUT)
		return err_set(e, ERR_INVALID, "layout %u does not exist", le32toh(h.layout));
	uint64_t description = le32toh(h.description_length), stream = le64toh(h.stream_length);
	if (description > STATE_DESCRIPTION_MAX || stream > STATE_STREAM_MAX)
		return err_set(e, ERR_INVALID, "damaged: lengths beyond all limits in the head");
	uint64_t whole = STATE_HEAD_SIZE + description + stream;
	if (len < whole)
		return err_set(e, ERR_INVALID, "truncated: %zu of %llu bytes", len,
			(unsigned long long)whole);
	if (len > whole)
		return err_set(
			e, ERR_INVALID, "%llu bytes too long", (unsigned long long)(len - whole));
	*ret = h;
	return 0;
}

static int read_description(const char *text, size_t len, struct state *s, struct err *e)
{
	struct description d = {0};
	int rc = body_read(text, len, &shape, &d, e);
	if (rc == 0 &&
		(str_format(s->qemu_version, sizeof s->qemu_version, "%s", d.qemu_version) < 0 ||
			str_format(s->accel, sizeof s->accel, "%s", d.accel) < 0))
		rc = err_set(e, ERR_INVALID, "a name in the description is too long");
	if (rc == 0)
		rc = config_read_state(d.machine, &s->config, e);
	s->tsc_khz = d.tsc_khz;
	body_done(&shape, &d);
	return rc;
}

int state_decode(const void *data, size_t len, struct state *ret, struct err *e)
{
	struct head h;
	int rc = check_head(data, len, &h, e);
	if (rc < 0)
		return rc;
	const char *description = (const char *)data + STATE_HEAD_SIZE;
	size_t n = le32toh(h.description_length);
	if (head_sum(&h, description, n) != le64toh(h.head_sum))
		return err_set(e, ERR_INVALID, "damaged: the description does not match its sum");
	struct state s = {
		.stream_offset = STATE_HEAD_SIZE + n, .stream_length = le64toh(h.stream_length)};
	if (XXH3_64bits(description + n, s.stream_length) != le64toh(h.stream_sum))
		return err_set(e, ERR_INVALID, "damaged: the device state does not match its sum");
	if ((rc = read_description(description, n, &s, e)) < 0)
		return rc;
	*ret = s;
	return 0;
}

static int read_fd(int fd, struct state *ret, struct err *e)
{
	struct stat st;
	if (fstat(fd, &st) < 0)
		return err_errno(e, errno, "fstat");
	if (!S_ISREG(st.st_mode))
		return err_set(e, ERR_INVALID, "not a regular file");
	uint64_t size = (uint64_t)st.st_size;
	if (size > STATE_HEAD_SIZE + STATE_DESCRIPTION_MAX + STATE_STREAM_MAX)
		return err_set(e, ERR_INVALID, "too large for a state file");
	_cleanup_free_ char *data = malloc(size + 1);
	if (!data)
		return err_errno(e, ENOMEM, "read");
	ssize_t n = file_read_full(fd, data, size);
	if (n < 0)
		return err_errno(e, (int)n, "read");
	return state_decode(data, (size_t)n, ret, e);
}

int state_read(const char *path, struct state *ret, int *ret_fd, struct err *e)
{
	struct state s;
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		int errnum = errno;
		err_set(e, ERR_NOT_FOUND, "Failed to open snapshot file: " OS_ERROR,
			OS_ERROR_OF(errnum));
		return -errnum;
	}
	int rc = read_fd(fd, &s, e);
	if (rc < 0)
		return err_prefix(e, rc, "Failed to load snapshot state from file");
	if (ret_fd && lseek(fd, (off_t)s.stream_offset, SEEK_SET) < 0) {
		state_done(&s);
		return err_errno(e, errno, "The state file %.500s", path);
	}
	if (ret_fd)
		*ret_fd = TAKE_FD(fd);
	*ret = s;
	return 0;
}
