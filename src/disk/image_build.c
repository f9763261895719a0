// SPDX-License-Identifier: Apache-2.0
// How this works: each of the three pieces (kernel, initramfs, root file system) is made by a
// script into <cache>/.tmp-<uuid>/out, flushed, and renamed to a name that holds the hash of all
// that went into it: the scripts themselves, for the other two the kernel with its modules, and for
// the initramfs the programs. A
// piece under its name is complete. The cache's lock covers building and installing; .tmp-* of a
// killed build are removed by the next one that gets it. Installing copies by reflink where it can.
#include "disk/image_build.h"
#include "disk/space.h"
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include "base/clock.h"
#include "base/fault.h"
#include "base/file.h"
#include "base/id.h"
#include "base/json.h"
#include "base/paths.h"
#include "base/proc.h"
#include "base/str.h"
#include "disk/disk.h"

#define TMP_PREFIX ".tmp-"
#define PIECES_KEPT 3 // of each kind; older ones are removed
#define POLL_MS 100   // how soon a request to cancel is seen
#define STOP_GRACE_MS 15000
#define MAX_SAID 65536
#define MAX_LINE 4096

// What a base template offers. The kernel itself takes about 60 MiB, unpacked initramfs included.
#define BASE_VCPUS 1
#define BASE_MEMORY_MB 512
#define BASE_MIN_MEMORY_MB 128

struct build {
	const struct image_build_config *c;
	const char *name;
	const char *cache_path;
	int cache;				    // directory
	char *scripts, *init, *envd;		    // paths
	char kernel[128], initrd[128], rootfs[128]; // names of the pieces
	unsigned from, to; // part of the progress the current step stands for
	const char *step;
};

static void build_done(struct build *b)
{
	safe_close(b->cache);
	free(b->scripts);
	free(b->init);
	free(b->envd);
}

static void report(const struct build *b, unsigned percent, const char *text)
{
	if (!b->c->progress)
		return;
	_cleanup_free_ char *line = str_printf("%s: %s", b->step, text);
	percent = MIN(percent, 100u);
	b->c->progress(b->c->progress_ctx, b->from + (b->to - b->from) * percent / 100,
		line ? line : b->step);
}

static void step_begin(struct build *b, const char *step, unsigned from, unsigned to)
{
	b->step = step;
	b->from = from;
	b->to = to;
}

static int check_cancel(const struct build *b, struct err *e)
{
	if (b->c->cancel && *b->c->cancel)
		return err_set(e, ERR_CANCELED, "building the image was cancelled");
	return 0;
}

// --- running a script

// One line of a script: "progress PERCENT TEXT", or something for the error message.
static void script_line(const struct build *b, char *line, struct strbuf *said)
{
	uint64_t percent;
	if (str_starts(line, "progress ")) {
		char *number = line + strlen("progress "), *text = strchr(number, ' ');
		if (text)
			*text++ = '\0';
		if (str_to_u64(number, 100, &percent) == 0) {
			report(b, (unsigned)percent, text ? text : "");
			return;
		}
	}
	if (said->len < MAX_SAID)
		strbuf_addf(said, "%s\n", line);
}

static void script_output(const struct build *b, struct strbuf *pending, struct strbuf *said)
{
	char *newline;
	while (pending->len && (newline = memchr(pending->data, '\n', pending->len))) {
		*newline = '\0';
		script_line(b, pending->data, said);
		strbuf_consume(pending, (size_t)(newline + 1 - pending->data));
	}
	if (pending->len > MAX_LINE)
		strbuf_consume(pending, pending->len);
}

// Runs a script with its temporary files in work, as the leader of a session, so that cancelling
// reaches its children too.
static int run_script(struct build *b, const char *const *argv, struct err *e)
{
	_cleanup_strbuf_ struct strbuf pending = {0}, said = {0};
	_cleanup_close_ int pidfd = -1;
	int p[2], status = 0;
	if (pipe2(p, O_CLOEXEC) < 0)
		return err_errno(e, errno, "pipe");
	_cleanup_close_ int rd = p[0], wr = p[1];
	struct proc_spawn s = {.argv = argv,
		.stdin_fd = -1,
		.stdout_fd = wr,
		.stderr_fd = wr,
		.new_session = true};
	pid_t pid;
	int rc = proc_spawn(&s, &pid, &pidfd, e);
	if (rc < 0)
		return rc;
	wr = safe_close(wr);
	for (;;) {
		char buf[4096];
		struct pollfd pf = {.fd = rd, .events = POLLIN};
		if (check_cancel(b, NULL) < 0)
			break;
		int n = poll(&pf, 1, POLL_MS);
		if (n < 0 && errno != EINTR)
			break;
		if (n <= 0)
			continue;
		ssize_t got = RETRY_EINTR(read(rd, buf, sizeof buf));
		if (got <= 0)
			break;
		strbuf_add(&pending, buf, (size_t)got);
		script_output(b, &pending, &said);
	}
	if (check_cancel(b, e) < 0) {
		kill(-pid, SIGTERM); // not reaped yet: the number is still its own
		if (proc_wait(pidfd, STOP_GRACE_MS, NULL) == -ETIMEDOUT) {
			kill(-pid, SIGKILL);
			proc_wait(pidfd, -1, NULL);
		}
		return -ECANCELED;
	}
	rc = proc_wait(pidfd, -1, &status);
	if (rc < 0)
		return err_errno(e, rc, "wait for %s", b->step);
	if (status == 0)
		return 0;
	char how[64];
	proc_status_text(status, how, sizeof how);
	while (said.len && said.data[said.len - 1] == '\n')
		said.data[--said.len] = '\0';
	const char *tail = said.len > 800 ? said.data + said.len - 800 : said.data;
	return err_set(e, ERR_INTERNAL, "build the %s: %s", b->step, tail ? tail : how);
}

// --- pieces of the cache

static bool is_not_temporary(void *ctx, const char *name)
{
	return !str_starts(name, TMP_PREFIX);
}

static int add_file_hash(struct strbuf *b, const char *dir, const char *name, struct err *e)
{
	char hex[SHA256_HEX_SIZE];
	_cleanup_free_ char *path = dir ? str_printf("%s/%s", dir, name) : strdup(name);
	int rc = path ? hash_sha256_file_hex(AT_FDCWD, path, hex) : -ENOMEM;
	if (rc < 0)
		return err_errno(e, rc, "%s", path ? path : name);
	strbuf_addf(b, "%s\n", hex);
	return 0;
}

// "<kind>-<hash>" over the common script, the piece's own and what was added to input before.
static int piece_name(
	const struct build *b, const char *kind, struct strbuf *input, char out[128], struct err *e)
{
	char script[32], hex[SHA256_HEX_SIZE];
	snprintf(script, sizeof script, "build-%s", kind);
	int rc = add_file_hash(input, b->scripts, "common.sh", e);
	if (rc == 0)
		rc = add_file_hash(input, b->scripts, script, e);
	if (rc < 0)
		return rc;
	if (strbuf_check(input) < 0)
		return err_errno(e, ENOMEM, "hash of the %s", kind);
	hash_sha256_hex(input->data, input->len, hex);
	snprintf(out, 128, "%s-%s", kind, hex);
	return 0;
}

// Makes tmp's "out" the piece. A forced build replaces one; a crash in between only loses it.
static int piece_publish(struct build *b, const char *tmp, const char *piece, struct err *e)
{
	char out[80];
	snprintf(out, sizeof out, "%s/out", tmp);
	if (syncfs(b->cache) < 0)
		return err_errno(e, errno, "write the %s", b->step);
	int rc = fault_hit("image.before_publish", e);
	if (rc < 0)
		return rc;
	rc = file_rm_rf(b->cache, piece);
	if (rc == 0 && renameat(b->cache, out, b->cache, piece) < 0)
		rc = -errno;
	if (rc == 0)
		rc = file_fsync_dir(b->cache, ".");
	return rc < 0 ? err_errno(e, rc, "keep the %s in %s", b->step, b->cache_path) : 0;
}

typedef int (*piece_finish_fn)(struct build *b, int out_dir, struct err *e);

// Runs images/build-<kind> with args (NULL-terminated, after the output's path) unless the piece is
// there. output is a name below the piece's directory, "." for the directory.
static int piece_make(struct build *b, const char *kind, const char *piece, bool force,
	const char *output, const char *const *args, piece_finish_fn finish, struct err *e)
{
	enum { FIXED = 4, MAX_ARGS = 16 };
	char uuid[UUID_SIZE], tmp[64], out[80];
	const char *argv[MAX_ARGS] = {"env"};
	size_t n = FIXED;
	if (!force && file_exists(b->cache, piece)) {
		utimensat(b->cache, piece, NULL, 0); // used now; only decides what is removed first
		report(b, 100, "cached");
		return 0;
	}
	id_new_uuid(uuid);
	snprintf(tmp, sizeof tmp, TMP_PREFIX "%s", uuid);
	snprintf(out, sizeof out, "%s/out", tmp);
	int rc = file_mkdir_p(b->cache, out, 0755);
	if (rc < 0)
		return err_errno(e, rc, "make %s/%s", b->cache_path, out);
	_cleanup_free_ char *env = str_printf("TMPDIR=%s/%s", b->cache_path, tmp);
	_cleanup_free_ char *script = str_printf("%s/build-%s", b->scripts, kind);
	_cleanup_free_ char *target = str_printf("%s/%s/%s", b->cache_path, out, output);
	argv[1] = env;
	argv[2] = script;
	argv[3] = target;
	for (; args && *args && n < MAX_ARGS - 1; args++)
		argv[n++] = *args;
	rc = env && script && target ? run_script(b, argv, e) : err_errno(e, ENOMEM, "%s", kind);
	if (rc == 0 && finish) {
		_cleanup_close_ int dir = openat(b->cache, out, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		rc = dir < 0 ? err_errno(e, errno, "%s", out) : finish(b, dir, e);
	}
	if (rc == 0)
		rc = piece_publish(b, tmp, piece, e);
	file_rm_rf(b->cache, tmp);
	return rc;
}

// The hash of a root file system takes seconds (holes are hashed too), so it is kept beside it.
static int finish_rootfs(struct build *b, int dir, struct err *e)
{
	char hex[SHA256_HEX_SIZE];
	report(b, 100, "checksum");
	int rc = hash_sha256_file_hex(dir, "rootfs.img", hex);
	if (rc == 0)
		rc = file_write_atomic(dir, "sha256", hex, strlen(hex), 0644);
	return rc < 0 ? err_errno(e, rc, "checksum of the root file system") : 0;
}

static int build_kernel(struct build *b, struct err *e)
{
	_cleanup_strbuf_ struct strbuf input = {0};
	step_begin(b, "kernel", 0, 20);
	int rc = piece_name(b, "kernel", &input, b->kernel, e);
	if (rc == 0)
		rc = piece_make(b, "kernel", b->kernel, b->c->force, ".", NULL, NULL, e);
	return rc < 0 ? rc : check_cancel(b, e);
}

// config.json has the hash of the modules.
static int build_rootfs(struct build *b, const char *kernel_dir, struct err *e)
{
	_cleanup_strbuf_ struct strbuf input = {0};
	_cleanup_free_ char *modules = str_printf("%s/lib/modules", kernel_dir);
	const char *mirror = getenv("STASIS_MIRROR");
	if (!modules)
		return err_errno(e, ENOMEM, "root file system");
	step_begin(b, "root file system", 20, 90);
	strbuf_addf(&input, "mirror %s\n", mirror ? mirror : "");
	int rc = add_file_hash(&input, kernel_dir, "config.json", e);
	if (rc == 0)
		rc = piece_name(b, "rootfs", &input, b->rootfs, e);
	const char *const args[] = {"--modules", modules, NULL};
	if (rc == 0)
		rc = piece_make(
			b, "rootfs", b->rootfs, b->c->force, "rootfs.img", args, finish_rootfs, e);
	return rc < 0 ? rc : check_cancel(b, e);
}

static int build_initrd(struct build *b, const char *kernel_dir, struct err *e)
{
	_cleanup_strbuf_ struct strbuf input = {0};
	_cleanup_free_ char *modules = str_printf("%s/modules", kernel_dir);
	if (!modules)
		return err_errno(e, ENOMEM, "initramfs");
	step_begin(b, "initramfs", 90, 92);
	int rc = add_file_hash(&input, NULL, b->init, e);
	if (rc == 0)
		rc = add_file_hash(&input, NULL, b->envd, e);
	if (rc == 0)
		rc = add_file_hash(&input, kernel_dir, "config.json", e);
	if (rc == 0)
		rc = piece_name(b, "initrd", &input, b->initrd, e);
	const char *const args[] = {
		"--modules", modules, "--init", b->init, "--envd", b->envd, NULL};
	if (rc == 0)
		rc = piece_make(b, "initrd", b->initrd, false, "initrd", args, NULL, e);
	return rc < 0 ? rc : check_cancel(b, e);
}

static int build_pieces(struct build *b, struct err *e)
{
	int rc = build_kernel(b, e);
	if (rc < 0)
		return rc;
	_cleanup_free_ char *kernel_dir = str_printf("%s/%s", b->cache_path, b->kernel);
	if (!kernel_dir)
		return err_errno(e, ENOMEM, "kernel");
	rc = build_rootfs(b, kernel_dir, e);
	return rc < 0 ? rc : build_initrd(b, kernel_dir, e);
}

struct piece_age {
	char name[128];
	struct timespec used;
};

static int newest_first(const void *a, const void *b)
{
	const struct timespec *x = &((const struct piece_age *)a)->used,
			      *y = &((const struct piece_age *)b)->used;
	if (x->tv_sec != y->tv_sec)
		return x->tv_sec > y->tv_sec ? -1 : 1;
	return x->tv_nsec > y->tv_nsec ? -1 : x->tv_nsec < y->tv_nsec;
}

// Removes all but the pieces of that kind used last.
static void prune(const struct build *b, const char *kind)
{
	enum { MAX_SEEN = 256 };
	_cleanup_free_ struct piece_age *seen = calloc(MAX_SEEN, sizeof *seen);
	size_t n = 0;
	int fd = openat(b->cache, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_closedir_ DIR *d = fd < 0 ? NULL : fdopendir(fd);
	if (!d)
		safe_close(fd);
	for (struct dirent *de; d && seen && n < MAX_SEEN && (de = readdir(d));) {
		struct stat st;
		if (!str_starts(de->d_name, kind) || de->d_name[strlen(kind)] != '-' ||
			fstatat(b->cache, de->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
			str_format(seen[n].name, sizeof seen[n].name, "%s", de->d_name) < 0)
			continue;
		seen[n++].used = st.st_mtim;
	}
	if (n > PIECES_KEPT)
		qsort(seen, n, sizeof *seen, newest_first);
	for (size_t i = PIECES_KEPT; i < n; i++)
		file_rm_rf(b->cache, seen[i].name);
}

// --- installing into the data directory

// A durable private copy with that mode.
static int copy_durable(const char *from, int dir, const char *to, mode_t mode, struct err *e)
{
	int rc = disk_clone(dir, from, to, 0, NULL, e);
	if (rc < 0)
		return rc;
	_cleanup_close_ int fd = openat(dir, to, O_RDWR | O_CLOEXEC);
	if (fd < 0 || fchmod(fd, mode) < 0 || fsync(fd) < 0)
		return err_errno(e, errno, "write %s", to);
	return 0;
}

static int file_size(const char *path, uint64_t *ret, struct err *e)
{
	struct stat st;
	if (stat(path, &st) < 0)
		return err_errno(e, errno, "%s", path);
	*ret = (uint64_t)st.st_size;
	return 0;
}

// Fills the directory tmp with the kernel's files.
static int fill_kernel(int tmp, const char *vmlinux, const char *initrd, json_t *config,
	const char *initrd_sha256, struct err *e)
{
	uint64_t vmlinux_bytes = 0, initrd_bytes = 0;
	int rc = copy_durable(vmlinux, tmp, "vmlinux", 0644, e);
	if (rc == 0)
		rc = copy_durable(initrd, tmp, "initrd", 0644, e);
	if (rc == 0)
		rc = file_size(vmlinux, &vmlinux_bytes, e);
	if (rc == 0)
		rc = file_size(initrd, &initrd_bytes, e);
	if (rc < 0)
		return rc;
	if (json_object_set_new(config, "initrd_sha256", json_string(initrd_sha256)) < 0 ||
		json_object_set_new(
			config, "vmlinux_bytes", json_integer((json_int_t)vmlinux_bytes)) < 0 ||
		json_object_set_new(
			config, "initrd_bytes", json_integer((json_int_t)initrd_bytes)) < 0)
		return err_errno(e, ENOMEM, "config.json");
	_cleanup_free_ char *text = json_compact(config);
	rc = text ? file_write_atomic(tmp, "config.json", text, strlen(text), 0644) : -ENOMEM;
	return rc < 0 ? err_errno(e, rc, "write config.json") : 0;
}

static int install_kernel(struct build *b, int data, char ret_id[SHA256_HEX_SIZE], struct err *e)
{
	char initrd_sha256[SHA256_HEX_SIZE], uuid[UUID_SIZE], final[96], tmp[64];
	_cleanup_json_ json_t *config = NULL;
	const char *vmlinux_sha256 = "";
	const struct json_field fields[] = {
		{"vmlinux_sha256", JF_STRING, &vmlinux_sha256, .required = true}};
	_cleanup_free_ char *config_path = str_printf("%s/config.json", b->kernel);
	_cleanup_free_ char *vmlinux = str_printf("%s/%s/vmlinux", b->cache_path, b->kernel);
	_cleanup_free_ char *initrd = str_printf("%s/%s/initrd", b->cache_path, b->initrd);
	if (!config_path || !vmlinux || !initrd)
		return err_errno(e, ENOMEM, "install the kernel");
	int rc = image_read_json(b->cache, config_path, &config, e);
	if (rc == 0)
		rc = json_read_fields(config, fields, ARRAY_SIZE(fields), true, e);
	if (rc < 0)
		return err_prefix(e, rc, "%s", b->cache_path);
	rc = hash_sha256_file_hex(AT_FDCWD, initrd, initrd_sha256);
	if (rc < 0)
		return err_errno(e, rc, "%s", initrd);
	_cleanup_free_ char *both =
		str_printf("vmlinux %s\ninitrd %s\n", vmlinux_sha256, initrd_sha256);
	if (!both)
		return err_errno(e, ENOMEM, "install the kernel");
	hash_sha256_hex(both, strlen(both), ret_id);
	snprintf(final, sizeof final, "kernels/%s", ret_id);
	struct image_info there;
	struct err ignored = {0};
	if (image_load_kernel(data, ret_id, &there, &ignored) == 0)
		return 0;
	rc = file_rm_rf(data, final); // a damaged one, if any
	if (rc < 0)
		return err_errno(e, rc, "remove %s", final);
	id_new_uuid(uuid);
	snprintf(tmp, sizeof tmp, "kernels/" TMP_PREFIX "%s", uuid);
	rc = file_mkdir_p(data, tmp, 0755);
	if (rc < 0)
		return err_errno(e, rc, "make %s", tmp);
	_cleanup_close_ int dir = openat(data, tmp, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	rc = dir < 0 ? err_errno(e, errno, "%s", tmp)
		     : fill_kernel(dir, vmlinux, initrd, config, initrd_sha256, e);
	if (rc == 0 && (fsync(dir) < 0 || renameat(data, tmp, data, final) < 0))
		rc = err_errno(e, errno, "install %s", final);
	if (rc == 0 && (rc = file_fsync_dir(data, "kernels")) < 0)
		err_errno(e, rc, "write kernels");
	if (rc < 0)
		file_rm_rf(data, tmp);
	return rc;
}

// Puts the root file system beside template.json, under a name that holds its hash.
static int install_rootfs(struct build *b, int data, const char *from, const char *name,
	uint64_t bytes, struct err *e)
{
	char dir_path[96], uuid[UUID_SIZE], tmp[64];
	struct stat st;
	snprintf(dir_path, sizeof dir_path, "templates/%s", b->name);
	int rc = file_mkdir_p(data, dir_path, 0755);
	if (rc < 0)
		return err_errno(e, rc, "make %s", dir_path);
	_cleanup_close_ int dir = openat(data, dir_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return err_errno(e, errno, "%s", dir_path);
	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && (uint64_t)st.st_size == bytes)
		return 0;
	id_new_uuid(uuid);
	snprintf(tmp, sizeof tmp, TMP_PREFIX "%s", uuid);
	rc = copy_durable(from, dir, tmp, 0600, e);
	if (rc == 0 && renameat(dir, tmp, dir, name) < 0)
		rc = err_errno(e, errno, "install %s/%s", dir_path, name);
	if (rc == 0 && fsync(dir) < 0)
		rc = err_errno(e, errno, "write %s", dir_path);
	if (rc < 0)
		unlinkat(dir, tmp, 0);
	return rc;
}

static bool keep_template_file(void *ctx, const char *name)
{
	return str_eq(name, "template.json") || str_eq(name, ctx);
}

static int install_template(struct build *b, int data, const char *kernel_id,
	const char *rootfs_sha256, struct image_info *ret, struct err *e)
{
	char rootfs[64], path[128], now[32];
	uint64_t bytes = 0;
	struct err ignored = {0};
	_cleanup_free_ char *from = str_printf("%s/%s/rootfs.img", b->cache_path, b->rootfs);
	int rc = from ? file_size(from, &bytes, e) : err_errno(e, ENOMEM, "template");
	if (rc < 0)
		return rc;
	snprintf(rootfs, sizeof rootfs, "rootfs.%.16s.img", rootfs_sha256);
	rc = install_rootfs(b, data, from, rootfs, bytes, e);
	if (rc == 0)
		rc = fault_hit("image.after_rootfs", e);
	if (rc < 0)
		return rc;
	bool unchanged = image_load(b->c->data_dir, b->name, ret, &ignored) == 0 &&
			 str_eq(ret->kernel_id, kernel_id) &&
			 str_eq(ret->rootfs_sha256, rootfs_sha256);
	if (!unchanged) {
		clock_format_rfc3339(clock_realtime_ns(), now);
		_cleanup_json_ json_t *json = json_pack(
			"{s:i s:s s:s s:s s:i s:i s:i s:I s:s s:s s:I s:s}", "format",
			IMAGE_FORMAT_VERSION, "name", b->name, "kind", "base", "kernel", kernel_id,
			"vcpus", BASE_VCPUS, "memory_mb", BASE_MEMORY_MB, "min_memory_mb",
			BASE_MIN_MEMORY_MB, "disk_mb", (json_int_t)((bytes + (1 << 20) - 1) >> 20),
			"rootfs", rootfs, "rootfs_sha256", rootfs_sha256, "rootfs_bytes",
			(json_int_t)bytes, "created_at", now);
		_cleanup_free_ char *text = json ? json_compact(json) : NULL;
		snprintf(path, sizeof path, "templates/%s/template.json", b->name);
		rc = text ? file_write_atomic(data, path, text, strlen(text), 0644) : -ENOMEM;
		if (rc < 0)
			return err_errno(e, rc, "write %s", path);
		rc = file_fsync_dir(data, "templates");
		if (rc < 0)
			return err_errno(e, rc, "write templates");
		rc = image_load(b->c->data_dir, b->name, ret, e);
		if (rc < 0)
			return rc;
	}
	snprintf(path, sizeof path, "templates/%s", b->name);
	return image_sweep(data, path, keep_template_file, rootfs, e);
}

static int install(struct build *b, struct image_info *ret, struct err *e)
{
	char kernel_id[SHA256_HEX_SIZE];
	_cleanup_free_ char *sha256 = NULL;
	step_begin(b, "install", 92, 100);
	report(b, 0, b->c->data_dir);
	_cleanup_free_ char *sha256_path = str_printf("%s/sha256", b->rootfs);
	int rc = sha256_path ? file_read_line(b->cache, sha256_path, &sha256) : -ENOMEM;
	if (rc < 0 || strlen(sha256) != SHA256_HEX_SIZE - 1)
		return err_errno(
			e, rc < 0 ? rc : EBADMSG, "%s/%s/sha256", b->cache_path, b->rootfs);
	_cleanup_close_ int data = open(b->c->data_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (data < 0)
		return err_errno(e, errno, "%s", b->c->data_dir);
	_cleanup_close_ int lock = image_lock(data, e);
	if (lock < 0)
		return lock;
	rc = image_sweep(data, "kernels", is_not_temporary, NULL, e);
	if (rc == 0)
		rc = install_kernel(b, data, kernel_id, e);
	if (rc == 0)
		rc = fault_hit("image.after_kernel", e);
	if (rc == 0)
		rc = install_template(b, data, kernel_id, sha256, ret, e);
	return rc;
}

// --- the whole

// Waits for another build in the same cache. *ret_fd holds the lock.
static int lock_cache(struct build *b, int *ret_fd, struct err *e)
{
	pid_t holder, told = -1;
	step_begin(b, "waiting", 0, 0);
	for (;;) {
		int rc = file_lock(b->cache, "lock", ret_fd, &holder);
		if (rc == 0)
			return 0;
		if (rc != -EBUSY)
			return err_errno(e, rc, "lock %s", b->cache_path);
		if (holder != told) {
			char text[80];
			snprintf(text, sizeof text, "process %d is building in the same cache",
				(int)holder);
			report(b, 0, text);
			told = holder;
		}
		if (check_cancel(b, e) < 0)
			return -ECANCELED;
		clock_sleep_ns(POLL_MS * NSEC_PER_MSEC);
	}
}

static int find_file(const char *given, const char *name, char **ret, struct err *e)
{
	*ret = given ? realpath(given, NULL) : paths_find(name);
	if (!*ret)
		return err_set(e, ERR_NOT_FOUND, "%s: not found (build and install Stasis first)",
			given ? given : name);
	return 0;
}

// The server's own reserve may be another one (serve --disk-reserve); this is the least that is
// wise.
static int check_room(const char *data_dir, struct err *e)
{
	struct disk_space s;
	_cleanup_close_ int fd = open(data_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || disk_space(fd, &s) < 0)
		return err_errno(e, errno, "%s", data_dir);
	uint64_t reserve = disk_reserve(&s, 0, 0);
	if (s.free >= reserve && s.free_inodes >= disk_inode_reserve(&s))
		return 0;
	return err_set(e, ERR_NO_SPACE,
		"no image is built while the volume is low: %" PRIu64 " MiB are free on %s, and "
		"%" PRIu64 " MiB are kept: 'stasis du' shows what its removal frees",
		s.free >> 20, data_dir, reserve >> 20);
}

int image_build(const struct image_build_config *c, struct image_info *ret, struct err *e)
{
	_cleanup_(build_done) struct build b = {
		.c = c, .name = c->name ? c->name : "base", .cache = -1};
	struct volume_info volume;
	const char *env = getenv("STASIS_CACHE");
	const char *cache = c->cache_dir ? c->cache_dir : env && *env ? env : PATH_CACHE_DEFAULT;
	if (!id_is_name(b.name))
		return err_set(e, ERR_INVALID, "template '%.80s': cannot be a name", b.name);
	int rc = volume_open(c->data_dir, &volume, e);
	if (rc == 0)
		rc = check_room(c->data_dir, e);
	if (rc == 0)
		rc = find_file(c->scripts_dir, "images", &b.scripts, e);
	if (rc == 0)
		rc = find_file(c->init_program, "stasis-init", &b.init, e);
	if (rc == 0)
		rc = find_file(c->envd_program, "envd", &b.envd, e);
	if (rc < 0)
		return rc;
	rc = file_mkdir_p(AT_FDCWD, cache, 0755);
	if (rc < 0)
		return err_errno(e, rc, "make the cache %s", cache);
	_cleanup_free_ char *cache_path = realpath(cache, NULL); // scripts run elsewhere
	if (!cache_path)
		return err_errno(e, errno, "%s", cache);
	b.cache_path = cache_path;
	b.cache = open(cache_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (b.cache < 0)
		return err_errno(e, errno, "open %s", cache_path);
	_cleanup_close_ int lock = -1;
	rc = lock_cache(&b, &lock, e);
	if (rc == 0)
		rc = image_sweep(b.cache, ".", is_not_temporary, NULL, e);
	if (rc == 0)
		rc = build_pieces(&b, e);
	if (rc == 0)
		rc = install(&b, ret, e);
	if (rc < 0)
		return rc;
	prune(&b, "kernel");
	prune(&b, "rootfs");
	prune(&b, "initrd");
	report(&b, 100, "done");
	return 0;
}
