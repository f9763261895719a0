// SPDX-License-Identifier: Apache-2.0
#include "disk/image.h"
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/id.h"
#include "base/json.h"
#include "base/str.h"
#include "disk/disk.h"

#define MAX_JSON 65536
#define MAX_VCPUS 32
#define MAX_MEMORY_MB (1u << 20)
#define MAX_DISK_MB (1u << 24)

static bool is_sha256(const char *s)
{
	return strlen(s) == SHA256_HEX_SIZE - 1 && strspn(s, "0123456789abcdef") == strlen(s);
}

int image_parse_template(const char *text, size_t len, struct image_info *ret, struct err *e)
{
	struct image_info i = {0};
	_cleanup_json_ json_t *json = NULL;
	const char *name = "", *kind = "", *kernel = "", *rootfs = "", *sha256 = "", *created = "";
	uint64_t format = 0, vcpus = 0, when;
	const struct json_field version[] = {
		{"format", JF_U64, &format, .required = true, .min = 1, .max = UINT32_MAX},
	};
	const struct json_field fields[] = {
		{"format", JF_U64, &format},
		{"name", JF_STRING, &name, .required = true},
		{"kind", JF_STRING, &kind, .required = true},
		{"kernel", JF_STRING, &kernel, .required = true},
		{"vcpus", JF_U64, &vcpus, .required = true, .min = 1, .max = MAX_VCPUS},
		{"memory_mb", JF_U64, &i.memory_mb, .required = true, .min = 1,
			.max = MAX_MEMORY_MB},
		{"min_memory_mb", JF_U64, &i.min_memory_mb, .required = true, .min = 1,
			.max = MAX_MEMORY_MB},
		{"disk_mb", JF_U64, &i.disk_mb, .required = true, .min = 1, .max = MAX_DISK_MB},
		{"rootfs", JF_STRING, &rootfs, .required = true, .max = 80},
		{"rootfs_sha256", JF_STRING, &sha256, .required = true},
		{"rootfs_bytes", JF_U64, &i.rootfs_bytes, .required = true, .min = 4096},
		{"created_at", JF_STRING, &created, .required = true,
			.max = sizeof i.created_at - 1},
	};
	int rc = json_parse_object(text, len, &json, e);
	if (rc == 0) // first, for another format may have other fields
		rc = json_read_fields(json, version, ARRAY_SIZE(version), true, e);
	if (rc == 0 && format > IMAGE_FORMAT_VERSION)
		return err_set(e, ERR_INVALID,
			"format: %" PRIu64 " was made by a newer Stasis (this one knows %d)",
			format, IMAGE_FORMAT_VERSION);
	if (rc == 0)
		rc = json_read_fields(json, fields, ARRAY_SIZE(fields), false, e);
	if (rc < 0)
		return rc;
	if (!id_is_name(name))
		return err_set(e, ERR_INVALID, "name: cannot be one");
	if (!str_eq(kind, "base"))
		return err_set(e, ERR_INVALID, "kind: '%.40s' is unknown", kind);
	if (!is_sha256(kernel))
		return err_set(e, ERR_INVALID, "kernel: must be 64 hexadecimal digits");
	if (!is_sha256(sha256))
		return err_set(e, ERR_INVALID, "rootfs_sha256: must be 64 hexadecimal digits");
	if (!id_is_name(rootfs))
		return err_set(e, ERR_INVALID, "rootfs: must be a file beside template.json");
	if (i.memory_mb < i.min_memory_mb)
		return err_set(e, ERR_INVALID, "memory_mb: below min_memory_mb");
	if (i.rootfs_bytes > i.disk_mb << 20)
		return err_set(e, ERR_INVALID, "disk_mb: below the size of the root file system");
	if (clock_parse_rfc3339(created, &when) < 0)
		return err_set(e, ERR_INVALID, "created_at: must be a time (RFC 3339)");
	i.vcpus = (unsigned)vcpus;
	snprintf(i.name, sizeof i.name, "%s", name);
	snprintf(i.kernel_id, sizeof i.kernel_id, "%s", kernel);
	snprintf(i.rootfs_sha256, sizeof i.rootfs_sha256, "%s", sha256);
	snprintf(i.created_at, sizeof i.created_at, "%s", created);
	snprintf(i.rootfs, sizeof i.rootfs, "templates/%s/%s", name, rootfs);
	*ret = i;
	return 0;
}

static int check_file(int dir, const char *path, uint64_t size, struct err *e)
{
	struct stat st;
	if (fstatat(dir, path, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return err_errno(e, errno, "%s", path);
	if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != size)
		return err_set(
			e, ERR_INTERNAL, "%s: is not a file of %" PRIu64 " bytes", path, size);
	return 0;
}

int image_read_json(int dir, const char *path, json_t **ret, struct err *e)
{
	_cleanup_strbuf_ struct strbuf text = {0};
	int rc = file_read(dir, path, MAX_JSON, &text);
	if (rc < 0)
		return err_errno(e, rc, "%s", path);
	rc = json_parse_object(text.data, strlen(text.data), ret, e);
	return err_prefix(e, rc, "%s", path);
}

int image_load_kernel(int dir, const char *id, struct image_info *i, struct err *e)
{
	char path[128];
	_cleanup_json_ json_t *json = NULL;
	const char *release = "", *boot_args = "";
	uint64_t vmlinux_bytes = 0, initrd_bytes = 0;
	const struct json_field fields[] = {
		{"release", JF_STRING, &release, .required = true,
			.max = sizeof i->kernel_release - 1},
		{"boot_args", JF_STRING, &boot_args, .required = true,
			.max = sizeof i->boot_args - 1},
		{"vmlinux_bytes", JF_U64, &vmlinux_bytes, .required = true},
		{"initrd_bytes", JF_U64, &initrd_bytes, .required = true},
	};
	snprintf(i->kernel_id, sizeof i->kernel_id, "%s", id);
	snprintf(i->vmlinux, sizeof i->vmlinux, "kernels/%s/vmlinux", id);
	snprintf(i->initrd, sizeof i->initrd, "kernels/%s/initrd", id);
	snprintf(path, sizeof path, "kernels/%s/config.json", id);
	int rc = image_read_json(dir, path, &json, e);
	if (rc < 0)
		return rc;
	rc = json_read_fields(json, fields, ARRAY_SIZE(fields), true, e);
	if (rc < 0)
		return err_prefix(e, rc, "%s", path);
	snprintf(i->kernel_release, sizeof i->kernel_release, "%s", release);
	snprintf(i->boot_args, sizeof i->boot_args, "%s", boot_args);
	rc = check_file(dir, i->vmlinux, vmlinux_bytes, e);
	return rc < 0 ? rc : check_file(dir, i->initrd, initrd_bytes, e);
}

static int load(int dir, const char *name, struct image_info *ret, struct err *e)
{
	char path[128];
	struct image_info i;
	_cleanup_strbuf_ struct strbuf text = {0};
	if (!id_is_name(name))
		return err_set(e, ERR_INVALID, "template '%.80s': cannot be a name", name);
	snprintf(path, sizeof path, "templates/%s/template.json", name);
	int rc = file_read(dir, path, MAX_JSON, &text);
	if (rc == -ENOENT)
		return err_set(e, ERR_NOT_FOUND,
			"no template '%s' (make the first with `stasis image build base`)", name);
	if (rc < 0)
		return err_errno(e, rc, "%s", path);
	struct err why = {0};
	rc = image_parse_template(text.data, strlen(text.data), &i, &why);
	if (rc == 0 && !str_eq(i.name, name))
		rc = err_set(&why, ERR_INTERNAL, "name: is that of another template");
	if (rc < 0)
		err_prefix(&why, rc, "template.json");
	if (rc == 0)
		rc = check_file(dir, i.rootfs, i.rootfs_bytes, &why);
	if (rc == 0) {
		char id[SHA256_HEX_SIZE];
		memcpy(id, i.kernel_id, sizeof id);
		rc = image_load_kernel(dir, id, &i, &why);
	}
	if (rc < 0)
		return err_set(e, ERR_INTERNAL,
			"template '%s' is damaged: %.700s (mend it with `stasis image build %s`)",
			name, err_text(&why, rc), name);
	*ret = i;
	return 0;
}

static int open_data_dir(const char *data_dir, struct err *e)
{
	int fd = open(data_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? err_errno(e, errno, "data directory %s", data_dir) : fd;
}

int image_load(const char *data_dir, const char *name, struct image_info *ret, struct err *e)
{
	_cleanup_close_ int dir = open_data_dir(data_dir, e);
	return dir < 0 ? dir : load(dir, name, ret, e);
}

static DIR *open_subdir(int dir, const char *path)
{
	int fd = openat(dir, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	if (!d)
		safe_close(fd);
	return d;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct image_info *)a)->name, ((const struct image_info *)b)->name);
}

int image_list(const char *data_dir, struct image_info **ret, size_t *ret_n, size_t *ret_damaged,
	struct err *e)
{
	_cleanup_free_ struct image_info *list = NULL;
	size_t n = 0, cap = 0, damaged = 0;
	_cleanup_close_ int dir = open_data_dir(data_dir, e);
	if (dir < 0)
		return dir;
	_cleanup_closedir_ DIR *d = open_subdir(dir, "templates");
	if (!d && errno != ENOENT)
		return err_errno(e, errno, "%s/templates", data_dir);
	for (struct dirent *de; d && (de = readdir(d));) {
		if (!id_is_name(de->d_name))
			continue;
		if (n == cap) {
			cap = cap ? 2 * cap : 8;
			struct image_info *more = reallocarray(list, cap, sizeof *list);
			if (!more)
				return err_errno(e, ENOMEM, "list templates");
			list = more;
		}
		struct err why = {0};
		if (load(dir, de->d_name, &list[n], &why) == 0)
			n++;
		else if (why.code != ERR_NOT_FOUND) // that is one whose first build was interrupted
			damaged++;
	}
	if (n)
		qsort(list, n, sizeof *list, by_name);
	*ret = TAKE_PTR(list);
	*ret_n = n;
	*ret_damaged = damaged;
	return 0;
}

// --- collection

int image_lock(int data_fd, struct err *e)
{
	int rc = file_mkdir_p(data_fd, "templates", 0755);
	if (rc < 0)
		return err_errno(e, rc, "make templates");
	_cleanup_close_ int fd =
		openat(data_fd, "templates/.lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || RETRY_EINTR(flock(fd, LOCK_EX)) < 0)
		return err_errno(e, errno, "lock templates");
	return TAKE_FD(fd);
}

int image_sweep(int dir, const char *path, bool (*keep)(void *ctx, const char *name), void *ctx,
	struct err *e)
{
	_cleanup_closedir_ DIR *d = open_subdir(dir, path);
	if (!d)
		return errno == ENOENT ? 0 : err_errno(e, errno, "%s", path);
	for (struct dirent *de; (de = readdir(d));) {
		if (str_eq(de->d_name, ".") || str_eq(de->d_name, "..") || keep(ctx, de->d_name))
			continue;
		int rc = file_rm_rf(dirfd(d), de->d_name);
		if (rc < 0)
			return err_errno(e, rc, "remove %s/%s", path, de->d_name);
	}
	return 0;
}

struct kernels {
	const struct image_info *templates;
	size_t n;
	bool (*used)(void *ctx, const char *kernel_id);
	void *ctx;
};

static bool keep_kernel(void *ctx, const char *name)
{
	const struct kernels *k = ctx;
	for (size_t i = 0; i < k->n; i++)
		if (str_eq(k->templates[i].kernel_id, name))
			return true;
	return is_sha256(name) && k->used && k->used(k->ctx, name);
}

int image_collect(const char *data_dir, bool (*used)(void *ctx, const char *kernel_id), void *ctx,
	struct err *e)
{
	_cleanup_free_ struct image_info *list = NULL;
	size_t n, damaged;
	_cleanup_close_ int dir = open_data_dir(data_dir, e);
	if (dir < 0)
		return dir;
	_cleanup_close_ int lock = image_lock(dir, e);
	if (lock < 0)
		return lock;
	int rc = image_list(data_dir, &list, &n, &damaged, e);
	if (rc < 0)
		return rc;
	if (damaged) // what it names cannot be known
		return err_set(
			e, ERR_CONFLICT, "%zu damaged templates: nothing was collected", damaged);
	struct kernels k = {list, n, used, ctx};
	return image_sweep(dir, "kernels", keep_kernel, &k, e);
}
