// SPDX-License-Identifier: Apache-2.0
#include "snapshot/store.h"
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>
#include "base/fault.h"
#include "base/file.h"
#include "base/json.h"
#include "snapshot/format.h"
#include "snapshot/layer.h"

#define MAX_JSON 65536u

static const char *const kind_names[SNAPSHOT_KIND_MAX] = {"pause", "checkpoint", "template"};

const char *snapshot_kind_name(enum snapshot_kind k)
{
	return (unsigned)k < SNAPSHOT_KIND_MAX ? kind_names[k] : "unknown";
}

// --- snapshot.json

// Sorted keys, no blanks: one text for one content, so that it can carry its own checksum.
static char *canonical(json_t *j)
{
	return json_dumps(j, JSON_COMPACT | JSON_SORT_KEYS);
}

static json_t *xxh3_json(uint64_t v)
{
	char text[17];
	snprintf(text, sizeof text, "%016" PRIx64, v);
	return json_string(text);
}

static int seal(json_t *j, struct strbuf *out)
{
	_cleanup_free_ char *text = canonical(j);
	if (!text ||
		json_object_set_new(j, "checksum", xxh3_json(format_xxh3(text, strlen(text)))) < 0)
		return -ENOMEM;
	_cleanup_free_ char *sealed = canonical(j);
	if (!sealed)
		return -ENOMEM;
	strbuf_adds(out, sealed);
	strbuf_addc(out, '\n');
	return strbuf_check(out);
}

int snapshot_encode(const struct snapshot_info *s, struct strbuf *out)
{
	_cleanup_json_ json_t *j = json_pack("{s:i, s:s, s:s, s:s, s:{s:s, s:s, s:s, s:s}, s:s, "
					     "s:i, s:I, s:{s:I, s:I}, s:{s:I, s:o}, s:s, s:{s:I}}",
		"format_version", (int)SNAPSHOT_FORMAT_VERSION, "id", s->id, "parent", s->parent,
		"kind", snapshot_kind_name(s->kind), "vmm", "name", s->vmm_name, "version",
		s->vmm_version, "sha256", s->vmm_sha256, "state_format", s->vmm_state, "kernel_id",
		s->kernel_id, "vcpus", (int)s->vcpus, "memory_bytes", (json_int_t)s->memory_bytes,
		"clock", "tsc_khz", (json_int_t)s->tsc_khz, "created_ns", (json_int_t)s->created_ns,
		"vmstate", "size", (json_int_t)s->vmstate_size, "xxh3", xxh3_json(s->vmstate_xxh3),
		"image", s->image, "disk", "size", (json_int_t)s->disk_size);
	return j ? seal(j, out) : -EINVAL;
}

static int copy_text(char *out, size_t size, const char *text, const char *name, struct err *e)
{
	if (str_format(out, size, "%s", text) < 0)
		return err_set(e, ERR_INTERNAL, "%s is too long", name);
	return 0;
}

static int parse_xxh3(const char *text, uint64_t *ret, struct err *e)
{
	if (strlen(text) != 16 || strspn(text, "0123456789abcdef") != 16)
		return err_set(e, ERR_INTERNAL, "bad checksum '%.32s'", text);
	*ret = strtoull(text, NULL, 16);
	return 0;
}

// The file must be exactly what this program would write, and its checksum right.
static int check_seal(json_t *j, const char *text, size_t len, struct err *e)
{
	_cleanup_strbuf_ struct strbuf again = {0};
	_cleanup_json_ json_t *plain = json_copy(j);
	if (!plain || json_object_del(plain, "checksum") < 0)
		return err_set(e, ERR_INTERNAL, "has no checksum");
	if (seal(plain, &again) < 0)
		return err_errno(e, ENOMEM, "snapshot");
	if (again.len != len || memcmp(again.data, text, len) != 0)
		return err_set(e, ERR_INTERNAL, "checksum does not match");
	return 0;
}

static int check_texts(const struct snapshot_info *s, struct err *e)
{
	if (!id_is_uuid(s->id) || !id_is_uuid(s->image) || (*s->parent && !id_is_uuid(s->parent)))
		return err_set(e, ERR_INTERNAL, "id, image and parent must be UUIDs");
	if (strlen(s->vmm_sha256) != 64 || strspn(s->vmm_sha256, "0123456789abcdef") != 64)
		return err_set(e, ERR_INTERNAL, "vmm.sha256 must be 64 hexadecimal digits");
	if (s->memory_bytes % SNAPSHOT_BLOCK)
		return err_set(
			e, ERR_INTERNAL, "memory_bytes is not a multiple of %u", SNAPSHOT_BLOCK);
	return 0;
}

static int read_object(json_t *j, struct snapshot_info *s, struct err *e)
{
	uint64_t version = 0, vcpus = 0;
	const char *id = "", *parent = "", *kind = "", *kernel = "", *image = "", *checksum = "";
	json_t *vmm = NULL, *clock = NULL, *vmstate = NULL, *disk = NULL;
	const struct json_field fields[] = {
		{"format_version", JF_U64, &version, true, 1, UINT32_MAX},
		{"id", JF_STRING, &id, true},
		{"parent", JF_STRING, &parent, true},
		{"kind", JF_STRING, &kind, true},
		{"vmm", JF_OBJECT, &vmm, true},
		{"kernel_id", JF_STRING, &kernel, true},
		{"vcpus", JF_U64, &vcpus, true, 1, 256},
		{"memory_bytes", JF_U64, &s->memory_bytes, true, SNAPSHOT_BLOCK, HEADER_MAX_SIZE},
		{"clock", JF_OBJECT, &clock, true},
		{"vmstate", JF_OBJECT, &vmstate, true},
		{"image", JF_STRING, &image, true},
		{"disk", JF_OBJECT, &disk, true},
		{"checksum", JF_STRING, &checksum, true},
	};
	// First the version alone, so that a newer file is called newer and not damaged.
	int r = json_read_fields(j, fields, 1, true, e);
	if (r == 0 && version != SNAPSHOT_FORMAT_VERSION)
		r = err_set(e, ERR_INTERNAL,
			"format version %" PRIu64 "; this program knows version %u", version,
			SNAPSHOT_FORMAT_VERSION);
	if (r == 0)
		r = json_read_fields(j, fields, ARRAY_SIZE(fields), false, e);
	if (r < 0)
		return r;
	s->vcpus = (uint32_t)vcpus;
	s->kind = SNAPSHOT_KIND_MAX;
	for (int i = 0; i < SNAPSHOT_KIND_MAX; i++)
		if (str_eq(kind, kind_names[i]))
			s->kind = (enum snapshot_kind)i;
	if (s->kind == SNAPSHOT_KIND_MAX)
		return err_set(e, ERR_INTERNAL, "unknown kind '%.32s'", kind);

	const char *name = "", *vmm_version = "", *sha256 = "", *state = "";
	const char *vmstate_sum = "";
	const struct json_field vmm_fields[] = {
		{"name", JF_STRING, &name, true},
		{"version", JF_STRING, &vmm_version, true},
		{"sha256", JF_STRING, &sha256, true},
		{"state_format", JF_STRING, &state, true},
	};
	const struct json_field clock_fields[] = {
		{"tsc_khz", JF_U64, &s->tsc_khz, true, 0, 1000000000},
		{"created_ns", JF_U64, &s->created_ns, true},
	};
	const struct json_field vmstate_fields[] = {
		{"size", JF_U64, &s->vmstate_size, true, 0, SNAPSHOT_MAX_VMSTATE},
		{"xxh3", JF_STRING, &vmstate_sum, true},
	};
	const struct json_field disk_fields[] = {{"size", JF_U64, &s->disk_size, true}};
	const struct {
		json_t *object;
		const struct json_field *fields;
		size_t n;
		const char *name;
	} parts[] = {
		{vmm, vmm_fields, ARRAY_SIZE(vmm_fields), "vmm"},
		{clock, clock_fields, ARRAY_SIZE(clock_fields), "clock"},
		{vmstate, vmstate_fields, ARRAY_SIZE(vmstate_fields), "vmstate"},
		{disk, disk_fields, ARRAY_SIZE(disk_fields), "disk"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
		r = json_read_fields(parts[i].object, parts[i].fields, parts[i].n, false, e);
		if (r < 0)
			return err_prefix(e, r, "%s", parts[i].name);
	}
	const struct {
		char *out;
		size_t size;
		const char *text, *name;
	} texts[] = {
		{s->id, sizeof s->id, id, "id"},
		{s->parent, sizeof s->parent, parent, "parent"},
		{s->image, sizeof s->image, image, "image"},
		{s->kernel_id, sizeof s->kernel_id, kernel, "kernel_id"},
		{s->vmm_name, sizeof s->vmm_name, name, "vmm.name"},
		{s->vmm_version, sizeof s->vmm_version, vmm_version, "vmm.version"},
		{s->vmm_sha256, sizeof s->vmm_sha256, sha256, "vmm.sha256"},
		{s->vmm_state, sizeof s->vmm_state, state, "vmm.state_format"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
		if ((r = copy_text(texts[i].out, texts[i].size, texts[i].text, texts[i].name, e)) <
			0)
			return r;
	r = parse_xxh3(vmstate_sum, &s->vmstate_xxh3, e);
	return r == 0 ? check_texts(s, e) : r;
}

int snapshot_decode(const char *text, size_t len, struct snapshot_info *ret, struct err *e)
{
	_cleanup_json_ json_t *j = NULL;
	struct snapshot_info s = {0};
	int r = json_parse_object(text, len, &j, e);
	if (r == 0)
		r = read_object(j, &s, e);
	if (r == 0)
		r = check_seal(j, text, len, e);
	if (r < 0) {
		// Not the caller's request but a damaged file.
		if (e)
			e->code = ERR_INTERNAL;
		return -EIO;
	}
	*ret = s;
	return 0;
}

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

struct move {
	const char *from; // NULL: nothing to move
	struct path to;
	bool done;
};

static int write_files(int data_fd, struct snapshot_info *info, const struct header *h, int dirfd,
	struct move *moves, size_t n, struct err *e)
{
	_cleanup_strbuf_ struct strbuf json = {0};
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
	struct path json_path = path_of(info->id, "snapshot.json");
	r = snapshot_encode(info, &json);
	if (r == 0)
		r = file_write_atomic(data_fd, json_path.text, json.data, json.len, 0644);
	return r < 0 ? err_errno(e, r, "%s", json_path.text) : 0;
}

int snapshot_write(int data_fd, struct snapshot_info *info, const struct header *h,
	const struct snapshot_files *files, struct err *e)
{
	if (info->memory_bytes != h->size)
		return err_set(e, ERR_INVALID,
			"snapshot of %" PRIu64 " bytes with a header of %" PRIu64,
			info->memory_bytes, h->size);
	memcpy(info->image, h->image, UUID_SIZE);
	int r = check_texts(info, e);
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

static int check_layer(int layers_fd, const char *id, uint64_t size, struct err *e)
{
	struct layer l;
	int r = layer_open(layers_fd, id, size, &l, e);
	if (r == 0)
		layer_close(&l);
	return r;
}

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

int snapshot_read(int data_fd, const char *id, struct snapshot_info *ret,
	struct header **ret_header, struct err *e)
{
	if (!id_is_uuid(id))
		return err_set(e, ERR_INVALID, "snapshot id is not a UUID");
	struct path json = path_of(id, "snapshot.json"), header = path_of(id, "memory.hdr");
	_cleanup_strbuf_ struct strbuf b = {0};
	_cleanup_(header_freep) struct header *h = NULL;
	struct snapshot_info s;
	int r = file_read(data_fd, json.text, MAX_JSON, &b);
	if (r < 0)
		return err_errno(e, r, "%s", json.text);
	r = snapshot_decode(b.data, b.len, &s, e);
	if (r < 0)
		return err_prefix(e, r, "%s", json.text);
	if (!str_eq(s.id, id))
		return err_set(e, ERR_INTERNAL, "%s: belongs to snapshot %s", json.text, s.id);
	r = header_read(data_fd, header.text, &h, e);
	if (r < 0)
		return r;
	if (!str_eq(h->image, s.image) || h->size != s.memory_bytes)
		return err_set(e, ERR_INTERNAL, "%s: belongs to another snapshot (image %s)",
			header.text, h->image);
	r = check_files(data_fd, &s, e);
	if (r < 0)
		return r;
	_cleanup_close_ int layers_fd = open_layers(data_fd, e);
	if (layers_fd < 0)
		return layers_fd;
	for (uint32_t i = 0; i < h->n_layers; i++)
		if ((r = check_layer(layers_fd, h->layers[i], h->size, e)) < 0)
			return err_prefix(e, r, "snapshot %s", id);
	*ret = s;
	if (ret_header)
		*ret_header = TAKE_PTR(h);
	return 0;
}

// --- changing

int snapshot_replace_header(int data_fd, const char *id, const struct header *h, struct err *e)
{
	struct snapshot_info s;
	int r = snapshot_read(data_fd, id, &s, NULL, e);
	if (r < 0)
		return r;
	if (s.memory_bytes != h->size || !str_eq(s.image, h->image))
		return err_set(e, ERR_INVALID, "snapshot %s: header of another image", id);
	return header_write(data_fd, path_of(id, "memory.hdr").text, h, e);
}

int snapshot_set_working_set(
	int data_fd, const char *id, int dirfd, const char *path, struct err *e)
{
	uint64_t size;
	struct path to = path_of(id, "working_set");
	int r = settle(dirfd, path, true, &size, NULL, e);
	if (r < 0)
		return r;
	if (renameat(dirfd, path, data_fd, to.text) < 0)
		return err_errno(e, errno, "moving %s to %s", path, to.text);
	return 0;
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
		int r = f(ctx, de->d_name, file_exists(data_fd, json.text));
		if (r != 0)
			return r;
	}
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
