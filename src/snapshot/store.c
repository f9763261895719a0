// SPDX-License-Identifier: Apache-2.0
#include "snapshot/store.h"
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>
#include "base/fault.h"
#include "base/file.h"
#include "snapshot/format.h"
#include "snapshot/layer.h"

#define MAX_JSON 65536u

// --- paths

struct path {
	char text[sizeof "snapshots/" + UUID_SIZE + 32];
};

static struct path path_of(const char *id, const char *file)
{
	struct path p;
	snprintf(p.text, sizeof p.text, "snapshots/%.36s/%s", id, file);
	return p;
}

static int open_layers(int data_fd, struct err *e)
{
	int fd = openat(data_fd, "layers", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? err_errno(e, errno, "layers") : fd;
}

// --- writing

// Makes the file's content durable and gives its size; with sum also its checksum. What a jail made
// (shown) becomes root's and can be shown to other jails; a disk stays as the running VM needs it.
static int settle(int dirfd, const char *path, bool shown, uint64_t *ret_size, uint64_t *ret_xxh3,
	struct err *e)
{
	_cleanup_close_ int fd =
		openat(dirfd, path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	struct stat st;
	if (fd < 0 && errno == ELOOP)
		return err_set(e, ERR_INTERNAL, "%s: a symbolic link", path);
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_errno(e, errno, "%s", path);
	if (!S_ISREG(st.st_mode) || st.st_nlink != 1)
		return err_set(e, ERR_INTERNAL, "%s: not a regular file with one name", path);
	if (ret_xxh3 && (uint64_t)st.st_size > SNAPSHOT_MAX_VMSTATE)
		return err_set(
			e, ERR_INTERNAL, "%s: larger than %llu bytes", path, SNAPSHOT_MAX_VMSTATE);
	if ((shown && geteuid() == 0 && fchown(fd, 0, 0) < 0) || (shown && fchmod(fd, 0444) < 0) ||
		fsync(fd) < 0)
		return err_errno(e, errno, "%s", path);
	*ret_size = (uint64_t)st.st_size;
	if (!ret_xxh3)
		return 0;
	_cleanup_free_ void *buf = malloc(MAX((size_t)st.st_size, (size_t)1));
	if (!buf)
		return err_errno(e, ENOMEM, "%s", path);
	ssize_t n = file_read_full(fd, buf, (size_t)st.st_size);
	if (n != st.st_size)
		return err_errno(e, n < 0 ? (int)n : EIO, "%s", path);
	*ret_xxh3 = format_xxh3(buf, (size_t)n);
	return 0;
}

static int write_json(int data_fd, const struct snapshot_info *info, struct err *e)
{
	_cleanup_strbuf_ struct strbuf json = {0};
	struct path path = path_of(info->id, "snapshot.json");
	int r = snapshot_encode(info, &json);
	if (r == 0)
		r = file_write_atomic(data_fd, path.text, json.data, json.len, 0644);
	return r < 0 ? err_errno(e, r, "%s", path.text) : 0;
}

// Of the header, and of the sums of its layers.
static int fill_digests(
	int data_fd, struct snapshot_info *info, const struct header *h, struct err *e)
{
	_cleanup_close_ int layers_fd = open_layers(data_fd, e);
	if (layers_fd < 0)
		return layers_fd;
	int r = layers_digest(h, layers_fd, &info->sums_xxh3, e);
	return r == 0 ? header_digest(h, &info->header_xxh3) : r;
}

struct move {
	const char *from; // NULL: nothing to move
	struct path to;
	bool done;
};

static int write_files(int data_fd, struct snapshot_info *info, const struct header *h, int dirfd,
	struct move *moves, size_t n, struct err *e)
{
	for (size_t i = 0; i < n; i++) {
		if (!moves[i].from)
			continue;
		if (renameat(dirfd, moves[i].from, data_fd, moves[i].to.text) < 0)
			return err_errno(
				e, errno, "moving %s to %s", moves[i].from, moves[i].to.text);
		moves[i].done = true;
	}
	int r = fault_hit("snapshot.after_files", e);
	if (r < 0)
		return r;
	// Each write syncs the directory too: this one with all the files moved into it.
	r = header_write(data_fd, path_of(info->id, "memory.hdr").text, h, e);
	if (r == 0)
		r = fault_hit("snapshot.after_header", e);
	if (r < 0)
		return r;
	return write_json(data_fd, info, e);
}

int snapshot_write(int data_fd, struct snapshot_info *info, const struct header *h,
	const struct snapshot_files *files, struct err *e)
{
	if (info->memory_bytes != h->size)
		return err_set(e, ERR_INVALID,
			"snapshot of %" PRIu64 " bytes with a header of %" PRIu64,
			info->memory_bytes, h->size);
	memcpy(info->image, h->image, UUID_SIZE);
	info->format = SNAPSHOT_FORMAT_VERSION;
	int r = snapshot_check(info, e);
	if (r == 0)
		r = fill_digests(data_fd, info, h, e);
	if (r < 0)
		return r;
	uint64_t ignored;
	info->disk_size = 0;
	r = settle(files->dirfd, files->vmstate, true, &info->vmstate_size, &info->vmstate_xxh3, e);
	if (r == 0 && files->disk)
		r = settle(files->dirfd, files->disk, false, &info->disk_size, NULL, e);
	if (r == 0 && files->working_set)
		r = settle(files->dirfd, files->working_set, true, &ignored, NULL, e);
	if (r < 0)
		return r;
	struct path dir = path_of(info->id, "");
	if (mkdirat(data_fd, dir.text, 0700) < 0)
		return err_errno(e, errno, "%s", dir.text);
	struct move moves[] = {
		{files->vmstate, path_of(info->id, "vmstate")},
		{files->disk, path_of(info->id, "disk.img")},
		{files->working_set, path_of(info->id, "working_set")},
	};
	r = file_fsync_dir(data_fd, "snapshots");
	if (r < 0)
		r = err_errno(e, r, "snapshots");
	else
		r = write_files(data_fd, info, h, files->dirfd, moves, ARRAY_SIZE(moves), e);
	if (r == 0)
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(moves); i++)
		if (moves[i].done)
			renameat(data_fd, moves[i].to.text, files->dirfd, moves[i].from);
	file_rm_rf(data_fd, dir.text);
	return r;
}

// --- reading

static int check_files(int data_fd, const struct snapshot_info *s, struct err *e)
{
	struct path vmstate = path_of(s->id, "vmstate"), disk = path_of(s->id, "disk.img");
	_cleanup_strbuf_ struct strbuf b = {0};
	int r = file_read(data_fd, vmstate.text, SNAPSHOT_MAX_VMSTATE, &b);
	if (r < 0)
		return err_errno(e, r, "%s", vmstate.text);
	if (b.len != s->vmstate_size)
		return err_set(e, ERR_INTERNAL,
			"%s: truncated or extended: %zu bytes instead of %" PRIu64, vmstate.text,
			b.len, s->vmstate_size);
	if (format_xxh3(b.data, b.len) != s->vmstate_xxh3)
		return err_set(e, ERR_INTERNAL, "%s: checksum does not match", vmstate.text);
	if (!s->disk_size)
		return 0;
	struct stat st;
	if (fstatat(data_fd, disk.text, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return err_errno(e, errno, "%s", disk.text);
	if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != s->disk_size)
		return err_set(e, ERR_INTERNAL,
			"%s: truncated or extended: %" PRIu64 " bytes instead of %" PRIu64,
			disk.text, (uint64_t)st.st_size, s->disk_size);
	return 0;
}

int snapshot_read_info(int data_fd, const char *id, struct snapshot_info *ret, struct err *e)
{
	struct path json = path_of(id, "snapshot.json");
	_cleanup_strbuf_ struct strbuf b = {0};
	int r = file_read(data_fd, json.text, MAX_JSON, &b);
	if (r < 0)
		return err_errno(e, r, "%s", json.text);
	r = snapshot_decode(b.data, b.len, ret, e);
	if (r < 0)
		return err_prefix(e, r, "%s", json.text);
	if (!str_eq(ret->id, id))
		return err_set(e, ERR_INTERNAL, "%s: belongs to snapshot %s", json.text, ret->id);
	return 0;
}

static bool header_fits(const struct snapshot_info *s, const struct header *h)
{
	uint64_t digest = 0;
	return str_eq(h->image, s->image) && h->size == s->memory_bytes &&
	       (!s->header_xxh3 || (header_digest(h, &digest) == 0 && digest == s->header_xxh3));
}

// snapshot.json and the header of the same time: another thread may replace both between the two.
static int read_both(int data_fd, const char *id, struct snapshot_info *ret, struct header **ret_h,
	struct err *e)
{
	struct path path = path_of(id, "memory.hdr");
	for (int tries = 0; tries < 5; tries++) {
		_cleanup_(header_freep) struct header *h = NULL;
		int r = snapshot_read_info(data_fd, id, ret, e);
		if (r == 0)
			r = header_read(data_fd, path.text, &h, e);
		if (r < 0)
			return r;
		if (header_fits(ret, h)) {
			*ret_h = TAKE_PTR(h);
			return 0;
		}
	}
	return err_set(e, ERR_INTERNAL, "%s: belongs to another snapshot", path.text);
}

int snapshot_read(int data_fd, const char *id, struct snapshot_info *ret,
	struct header **ret_header, struct err *e)
{
	_cleanup_(header_freep) struct header *h = NULL;
	struct snapshot_info s;
	uint64_t sums = 0;
	if (!id_is_uuid(id))
		return err_set(e, ERR_INVALID, "snapshot id is not a UUID");
	int r = read_both(data_fd, id, &s, &h, e);
	if (r == 0)
		r = check_files(data_fd, &s, e);
	if (r < 0)
		return r;
	_cleanup_close_ int layers_fd = open_layers(data_fd, e);
	if (layers_fd < 0)
		return layers_fd;
	r = layers_digest(h, layers_fd, &sums, e);
	if (r < 0)
		return err_prefix(e, r, "snapshot %s", id);
	if (s.sums_xxh3 && sums != s.sums_xxh3)
		return err_set(e, ERR_INTERNAL, "snapshot %s: its layers have other sums", id);
	*ret = s;
	if (ret_header)
		*ret_header = TAKE_PTR(h);
	return 0;
}

// --- changing

// Cut short at any point it leaves a snapshot that can be read: while the header is replaced, the
// digests say nothing.
int snapshot_replace_header(int data_fd, const char *id, const struct header *h, struct err *e)
{
	struct snapshot_info s;
	int r = snapshot_read(data_fd, id, &s, NULL, e);
	if (r < 0)
		return r;
	if (s.memory_bytes != h->size || !str_eq(s.image, h->image))
		return err_set(e, ERR_INVALID, "snapshot %s: header of another image", id);
	bool digests = s.format > 1;
	s.header_xxh3 = s.sums_xxh3 = 0;
	r = digests ? write_json(data_fd, &s, e) : 0;
	if (r == 0)
		r = header_write(data_fd, path_of(id, "memory.hdr").text, h, e);
	if (r == 0 && digests)
		r = fill_digests(data_fd, &s, h, e);
	return r == 0 && digests ? write_json(data_fd, &s, e) : r;
}

int snapshot_list(int data_fd, snapshot_list_fn f, void *ctx, struct err *e)
{
	int fd = openat(data_fd, "snapshots", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return err_errno(e, errno, "snapshots");
	_cleanup_closedir_ DIR *d = fdopendir(fd);
	if (!d) {
		safe_close(fd);
		return err_errno(e, ENOMEM, "snapshots");
	}
	for (;;) {
		errno = 0;
		struct dirent *de = readdir(d);
		if (!de)
			return errno ? err_errno(e, errno, "snapshots") : 0;
		if (!id_is_uuid(de->d_name))
			continue;
		struct path json = path_of(de->d_name, "snapshot.json");
		int there = file_there(data_fd, json.text);
		int r = there < 0 ? err_errno(e, there, "%s", json.text)
				  : f(ctx, de->d_name, there);
		if (r != 0)
			return r;
	}
}

int snapshot_mark_resumed(int data_fd, const char *id, struct err *e)
{
	struct path dir = path_of(id, ""), mark = path_of(id, "resumed");
	_cleanup_close_ int fd =
		openat(data_fd, mark.text, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0444);
	if (fd < 0 || fsync(fd) < 0)
		return err_errno(e, errno, "%s", mark.text);
	int r = file_fsync_dir(data_fd, dir.text);
	return r < 0 ? err_errno(e, r, "%s", dir.text) : 0;
}

int snapshot_was_resumed(int data_fd, const char *id)
{
	struct path mark = path_of(id, "resumed");
	return file_there(data_fd, mark.text);
}

int snapshot_delete(int data_fd, const char *id, struct err *e)
{
	if (!id_is_uuid(id))
		return err_set(e, ERR_INVALID, "snapshot id is not a UUID");
	struct path dir = path_of(id, ""), json = path_of(id, "snapshot.json");
	if (unlinkat(data_fd, json.text, 0) == 0) {
		int r = file_fsync_dir(data_fd, dir.text);
		if (r < 0)
			return err_errno(e, r, "%s", dir.text);
	} else if (errno != ENOENT) {
		return err_errno(e, errno, "%s", json.text);
	}
	dir.text[strlen(dir.text) - 1] = '\0'; // without the slash at its end
	int r = file_rm_rf(data_fd, dir.text);
	return r < 0 ? err_errno(e, r, "%s", dir.text) : 0;
}
