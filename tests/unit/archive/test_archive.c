// SPDX-License-Identifier: Apache-2.0
// Trees through archives, and archives that lie.
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include "../check.h"
#include "archive/pack.h"
#include "archive/tar_write.h"
#include "archive/unpack.h"
#include "base/file.h"
#include "base/str.h"

#define LONG                                                                                       \
	"0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567" \
	"89012345678901234567890123456789"

static int top = -1; // of the test: "from" and "to" are in it
static int from, to;

static int setup(void **state)
{
	char path[] = "/tmp/stasis-archive.XXXXXX";
	if (!mkdtemp(path) || chmod(path, 0755) < 0)
		return -1;
	*state = strdup(path);
	top = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (mkdirat(top, "from", 0755) < 0 || mkdirat(top, "to", 0755) < 0)
		return -1;
	from = openat(top, "from", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	to = openat(top, "to", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return *state ? 0 : -1;
}

static int teardown(void **state)
{
	safe_close(from);
	safe_close(to);
	safe_close(top);
	int rc = file_rm_rf(AT_FDCWD, *state);
	free(*state);
	return rc;
}

static void put(int dir, const char *name, const char *text, mode_t mode)
{
	_cleanup_close_ int fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(file_write_full(fd, text, strlen(text)), 0);
	assert_int_equal(fchmod(fd, mode), 0);
}

static void has(int dir, const char *name, const char *text)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	assert_int_equal(file_read(dir, name, 1 << 20, &b), 0);
	assert_string_equal(b.data, text);
}

static mode_t mode_of(int dir, const char *name)
{
	struct stat st;
	assert_int_equal(fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW), 0);
	return st.st_mode;
}

static void leads_to(int dir, const char *name, const char *target)
{
	char text[500] = "";
	assert_true(readlinkat(dir, name, text, sizeof text - 1) > 0);
	assert_string_equal(text, target);
}

static size_t entries(int dir)
{
	size_t n = 0;
	_cleanup_closedir_ DIR *d = fdopendir(openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	assert_non_null(d);
	while (readdir(d))
		n++;
	return n - 2;
}

struct notes {
	unsigned skipped, failed;
	char last[500];
};

static void on_note(void *ctx, enum archive_note what, const char *path, const char *why)
{
	struct notes *n = ctx;
	*(what == ARCHIVE_SKIPPED ? &n->skipped : &n->failed) += 1;
	snprintf(n->last, sizeof n->last, "%s: %s", path, why);
}

static void packed(int dir, const char *path, const char *root, unsigned flags, size_t piece,
	struct strbuf *out)
{
	_cleanup_(pack_freep) struct pack *p = NULL;
	struct err e = {0};
	char buf[65536];
	ssize_t n;
	if (pack_new(dir, path, root, flags, NULL, NULL, &p, &e) < 0)
		fail_msg("%s", e.text);
	while ((n = pack_next(p, buf, piece, &e)) > 0)
		strbuf_add(out, buf, (size_t)n);
	if (n < 0)
		fail_msg("%s", e.text);
}

static int unpacked(const struct strbuf *archive, const char *root, unsigned flags, size_t piece,
	struct notes *notes, struct err *e)
{
	_cleanup_(unpack_freep) struct unpack *u = NULL;
	struct unpack_options o = {.dirfd = to,
		.root = root,
		.flags = flags,
		.note = notes ? on_note : NULL,
		.ctx = notes};
	assert_int_equal(unpack_new(&o, &u, e), 0);
	for (size_t at = 0; at < archive->len; at += piece) {
		int rc = unpack_feed(u, archive->data + at, MIN(piece, archive->len - at), e);
		if (rc < 0)
			return rc;
	}
	return unpack_finish(u, e);
}

static void through(const char *path, const char *root, unsigned pack, unsigned unpack)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	struct err e = {0};
	packed(from, path, path, pack, 65536, &b);
	if (unpacked(&b, root, unpack, b.len, NULL, &e) < 0)
		fail_msg("%s", e.text);
}

// --- trees

static void make_tree(void)
{
	assert_int_equal(mkdirat(from, "t", 0755), 0);
	assert_int_equal(mkdirat(from, "t/closed", 0755), 0);
	assert_int_equal(mkdirat(from, "t/empty", 0700), 0);
	assert_int_equal(mkdirat(from, "t/" LONG, 0755), 0);
	put(from, "t/closed/f", "in a directory that is read-only\n", 0600);
	put(from, "t/" LONG "/" LONG, "long", 0644);
	put(from, "t/nothing", "", 0666);
	put(from, "t/two\nlines\033[31m", "odd", 0751);
	assert_int_equal(fchmodat(from, "t/closed", 0555, 0), 0);
	assert_int_equal(symlinkat("closed/f", from, "t/link"), 0);
	assert_int_equal(symlinkat("/nowhere/" LONG, from, "t/" LONG ".link"), 0);
	assert_int_equal(linkat(from, "t/closed/f", from, "t/other", 0), 0);
}

static void check_tree(const char *root)
{
	struct stat a, b;
	_cleanup_close_ int t = openat(to, root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(t >= 0);
	assert_int_equal(entries(t), 8);
	has(t, "closed/f", "in a directory that is read-only\n");
	has(t, LONG "/" LONG, "long");
	has(t, "nothing", "");
	has(t, "two\nlines\033[31m", "odd");
	assert_int_equal(mode_of(t, "closed"), S_IFDIR | 0555);
	assert_int_equal(mode_of(t, "empty"), S_IFDIR | 0700);
	assert_int_equal(mode_of(t, "nothing"), S_IFREG | 0666);
	assert_int_equal(mode_of(t, "two\nlines\033[31m"), S_IFREG | 0751);
	leads_to(t, "link", "closed/f");
	leads_to(t, LONG ".link", "/nowhere/" LONG);
	assert_int_equal(fstatat(t, "closed/f", &a, 0), 0);
	assert_int_equal(fstatat(t, "other", &b, 0), 0);
	assert_int_equal(a.st_ino, b.st_ino);
}

static void a_tree_in_pieces_of_any_size(void **state)
{
	static const size_t pieces[] = {1, 7, 511, 512, 513, 65536};
	make_tree();
	for (size_t i = 0; i < ARRAY_SIZE(pieces); i++) {
		_cleanup_strbuf_ struct strbuf b = {0};
		struct err e = {0};
		packed(from, "t", "t", 0, pieces[i], &b);
		if (unpacked(&b, NULL, 0, pieces[i], NULL, &e) < 0)
			fail_msg("%s", e.text);
		check_tree("t");
		// Again, onto what is there, by another name, and as the directory itself.
		assert_int_equal(unpacked(&b, "t", 0, pieces[i], NULL, &e), 0);
		check_tree("t");
		assert_int_equal(unpacked(&b, "u", 0, pieces[i], NULL, &e), 0);
		check_tree("u");
		assert_int_equal(file_rm_rf(to, "t"), 0);
		assert_int_equal(file_rm_rf(to, "u"), 0);
		assert_int_equal(unpacked(&b, "", 0, pieces[i], NULL, &e), 0);
		check_tree(".");
		assert_int_equal(file_rm_rf(top, "to"), 0);
		assert_int_equal(mkdirat(top, "to", 0755), 0);
		safe_close(to);
		to = openat(top, "to", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	}
}

static void holes_stay_holes(void **state)
{
	struct stat st;
	_cleanup_close_ int fd = openat(from, "f", O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	assert_int_equal(ftruncate(fd, 3ll << 40), 0);
	for (unsigned i = 0; i < 50; i++)
		assert_int_equal(pwrite(fd, &i, sizeof i, (off_t)i << 35), sizeof i);
	assert_int_equal(fstat(fd, &st), 0);
	if (st.st_blocks > 100000)
		skip();
	_cleanup_strbuf_ struct strbuf b = {0};
	struct err e = {0};
	packed(from, "f", "f", 0, 4096, &b);
	assert_true(b.len < 1 << 20);
	assert_int_equal(unpacked(&b, NULL, 0, 1000, NULL, &e), 0);
	_cleanup_close_ int got = openat(to, "f", O_RDONLY | O_CLOEXEC);
	assert_int_equal(fstat(got, &st), 0);
	assert_int_equal(st.st_size, 3ll << 40);
	assert_true(st.st_blocks < 100000);
	for (unsigned i = 0, v = 0; i < 50; i++) {
		assert_int_equal(pread(got, &v, sizeof v, (off_t)i << 35), sizeof v);
		assert_int_equal(v, i);
	}
	assert_int_equal(ftruncate(fd, 0), 0);
	assert_int_equal(ftruncate(fd, 1 << 30), 0);
	through("f", "all hole", 0, 0);
	assert_int_equal(fstatat(to, "all hole", &st, 0), 0);
	assert_int_equal(st.st_size, 1 << 30);
	assert_true(st.st_blocks < 1000);
}

static void times_and_attributes_where_asked(void **state)
{
	struct stat st;
	char value[20] = "";
	static const struct timespec times[] = {
		{1234567890, 123456789}, {-100, 250000000}, {-5, 0}, {0, 1}};
	put(from, "f", "x", 04755);
	_cleanup_close_ int fd = openat(from, "f", O_RDONLY | O_CLOEXEC);
	bool xattrs = fsetxattr(fd, "user.a", "with \0 in it", 12, 0) == 0;
	for (size_t i = 0; i < ARRAY_SIZE(times); i++) {
		const struct timespec t[2] = {times[i], times[i]};
		assert_int_equal(futimens(fd, t), 0);
		through("f", NULL, PACK_EXACT, UNPACK_TIMES | UNPACK_XATTRS);
		assert_int_equal(fstatat(to, "f", &st, 0), 0);
		assert_int_equal(st.st_mtim.tv_sec, times[i].tv_sec);
		assert_int_equal(st.st_mtim.tv_nsec, times[i].tv_nsec);
	}
	assert_int_equal(st.st_mode & 07777, 0755);
	_cleanup_close_ int got = openat(to, "f", O_RDONLY | O_CLOEXEC);
	if (xattrs) {
		assert_int_equal(fgetxattr(got, "user.a", value, sizeof value), 12);
		assert_memory_equal(value, "with \0 in it", 12);
	}
	through("f", NULL, PACK_EXACT, UNPACK_SET_ID);
	assert_int_equal(mode_of(to, "f") & 07777, 04755);
	through("f", "plain", 0, 0);
	assert_int_equal(mode_of(to, "plain") & 07777, 0755);
	assert_int_equal(fstatat(to, "plain", &st, 0), 0);
	assert_true(st.st_mtim.tv_sec > 1234567890);
}

static void many_attributes_are_bounded(void **state)
{
	static char value[65536]; // the largest: four fill the limit to its last byte
	struct notes notes = {0};
	struct err e = {0};
	char name[20];
	// Ext4 has a block for all of them; tmpfs (Linux 6.6) and XFS take that many.
	static const char *const places[] = {"/tmp", "/dev/shm", "/var/tmp"};
	char path[40] = "";
	int fd = -1;
	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		snprintf(path, sizeof path, "%s/stasis-xattr.XXXXXX", places[i]);
		fd = mkostemp(path, O_CLOEXEC);
		int n = 0;
		for (; n < 12; n++) {
			snprintf(name, sizeof name, "user.a%d", n);
			memset(value, 'a' + n, sizeof value);
			if (fd < 0 || fsetxattr(fd, name, value, sizeof value, 0) < 0)
				break;
		}
		if (n == 12)
			break;
		unlink(path);
		fd = safe_close(fd);
	}
	if (fd < 0) {
		print_message("SKIPPED: no file system here takes 12 attributes of 64 KiB\n");
		skip();
	}
	for (int more = 0; more < 3; more++) {
		_cleanup_strbuf_ struct strbuf b = {0};
		if (more == 1) // values of no length, too: 64 and more of them
			for (int n = 0; n < 80; n++) {
				snprintf(name, sizeof name, "user.e%d", n);
				fsetxattr(fd, name, "", 0, 0);
			}
		if (more == 2)
			for (int n = 0; n < 12; n += 2) {
				snprintf(name, sizeof name, "user.a%d", n);
				assert_int_equal(fsetxattr(fd, name, value, 60001, 0), 0);
			}
		memset(&notes, 0, sizeof notes);
		packed(AT_FDCWD, path, "f", PACK_EXACT, 4096, &b);
		assert_int_equal(unpacked(&b, NULL, UNPACK_XATTRS, 4096, &notes, &e), 0);
		assert_int_equal(notes.skipped, 1);
		assert_string_equal(notes.last, "f: " ARCHIVE_XATTRS_LEFT_OUT);
		assert_true(b.len < (256 << 10) + 20000);
	}
	unlink(path);
	safe_close(fd);
}

// As of a guest: a header of 1 MiB of attributes, several before one file, names of any length.
static void attributes_of_a_stranger_are_bounded(void **state)
{
	static char big[1000000], name[400] = "user.";
	_cleanup_strbuf_ struct strbuf b = {0};
	struct notes notes = {0};
	struct err e = {0};
	memset(big, 'x', sizeof big);
	memset(name + 5, 'n', 300);
	const struct archive_xattr lists[][5] = {
		{{"user.big", big, 262145}},
		{{"user.a", big, 262144}, {"user.b", "x", 1}},
		{{"user.a", big, 200000}, {"user.b", big, 200000}, {"user.c", big, 200000},
			{"user.d", big, 200000}},
		{{name, "x", 1}},
		{{"user.small", "x", 1}},
	};
	for (size_t i = 0; i < ARRAY_SIZE(lists); i++) {
		struct archive_entry entry = {.type = ARCHIVE_FILE, .path = "f", .mode = 0644};
		entry.xattrs = lists[i];
		while (entry.n_xattrs < 5 && lists[i][entry.n_xattrs].name)
			entry.n_xattrs++;
		b.len = 0;
		memset(&notes, 0, sizeof notes);
		tar_add_header(&b, &entry, true);
		tar_add_end(&b);
		assert_int_equal(unpacked(&b, NULL, UNPACK_XATTRS, 4096, &notes, &e), 0);
		assert_int_equal(notes.skipped, i + 1 < ARRAY_SIZE(lists));
		_cleanup_close_ int fd = openat(to, "f", O_RDONLY | O_CLOEXEC);
		assert_true(fgetxattr(fd, "user.big", big, sizeof big) < 0);
	}
}

static void what_is_left_out_is_told(void **state)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	struct notes notes = {0};
	struct err e = {0};
	assert_int_equal(mkdirat(from, "t", 0755), 0);
	assert_int_equal(mkfifoat(from, "t/pipe", 0600), 0);
	packed(from, "t", "t", 0, 100, &b);
	assert_int_equal(unpacked(&b, NULL, 0, 100, &notes, &e), 0);
	assert_int_equal(notes.skipped, 1);
	assert_string_equal(notes.last, "t/pipe: a pipe");
	if (geteuid() != 0)
		return;
	put(from, "t/closed", "x", 0);
	put(from, "t/open", "x", 0644);
	b.len = 0;
	assert_int_equal(seteuid(65534), 0);
	packed(from, "t", "t", 0, 100, &b);
	assert_int_equal(seteuid(0), 0);
	assert_int_equal(unpacked(&b, NULL, 0, 100, &notes, &e), 0);
	assert_int_equal(notes.failed, 1);
	has(to, "t/open", "x");
	assert_false(file_exists(to, "t/closed"));
}

static void links_are_followed_where_asked(void **state)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	struct notes notes = {0};
	struct err e = {0};
	assert_int_equal(mkdirat(from, "t", 0755), 0);
	put(from, "real", "x", 0644);
	assert_int_equal(symlinkat("../real", from, "t/link"), 0);
	assert_int_equal(symlinkat("..", from, "t/up"), 0);
	assert_int_equal(symlinkat("none", from, "t/dangling"), 0);
	assert_int_equal(symlinkat("t", from, "dir"), 0);
	packed(from, "dir", "t", PACK_FOLLOW, 1000, &b);
	assert_int_equal(unpacked(&b, NULL, 0, 1000, &notes, &e), 0);
	assert_int_equal(mode_of(to, "t/link"), S_IFREG | 0644);
	assert_int_equal(mode_of(to, "t/up/real"), S_IFREG | 0644);
	assert_int_equal(notes.failed, 0);
	through("dir", "link", 0, 0);
	leads_to(to, "link", "t");
	b.len = 0;
	packed(from, "dir", "t", PACK_FOLLOW_ROOT, 1000, &b);
	assert_int_equal(unpacked(&b, "u", 0, 1000, NULL, &e), 0);
	leads_to(to, "u/link", "../real");
}

// --- lengths

static void files_without_a_true_size(void **state)
{
	static const char *const paths[] = {"/proc/self/mounts", "/proc/kallsyms",
		"/sys/kernel/mm/transparent_hugepage/enabled", "/sys/class/net/lo/mtu"};
	for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
		_cleanup_strbuf_ struct strbuf want = {0}, got = {0}, b = {0};
		struct err e = {0};
		if (file_read(AT_FDCWD, paths[i], 64 << 20, &want) < 0)
			continue;
		packed(AT_FDCWD, paths[i], "f", 0, 5000, &b);
		assert_int_equal(unpacked(&b, NULL, 0, 5000, NULL, &e), 0);
		assert_int_equal(file_read(to, "f", 64 << 20, &got), 0);
		assert_int_equal(got.len, want.len);
	}
}

static void a_file_that_changes_while_it_is_read(void **state)
{
	static const off_t sizes[] = {0, 100000, 300000, 2000000};
	_cleanup_close_ int fd = openat(from, "f", O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		_cleanup_(pack_freep) struct pack *p = NULL;
		struct err e = {0};
		char buf[1000];
		ssize_t n = 1;
		uint64_t total = 0;
		assert_int_equal(ftruncate(fd, 0), 0);
		for (int k = 0; k < 1000; k++)
			assert_int_equal(pwrite(fd, buf, sizeof buf, k * 1000), sizeof buf);
		assert_int_equal(pack_new(from, "f", "f", 0, NULL, NULL, &p, &e), 0);
		for (bool changed = false; n > 0; total += (uint64_t)MAX(n, 0)) {
			n = pack_next(p, buf, sizeof buf, &e);
			if (!changed && total > 150000)
				changed = ftruncate(fd, sizes[i]) == 0;
		}
		if (sizes[i] < 1000000) {
			assert_true(n < 0);
			assert_non_null(strstr(e.text, "f ended early"));
		} else {
			assert_int_equal(n, 0);
			assert_int_equal(pack_bytes(p), 1000000);
		}
	}
}

// --- archives that lie

static void add(struct strbuf *b, enum archive_type type, const char *path, const char *link,
	const char *content)
{
	tar_add_header(b,
		&(struct archive_entry){.type = type,
			.path = path,
			.link = link,
			.mode = 0644,
			.size = content ? strlen(content) : 0},
		false);
	if (content) {
		strbuf_adds(b, content);
		tar_add_padding(b, strlen(content));
	}
}

// Beside "to", for whatever tries to get out.
static void set_bait(void)
{
	assert_int_equal(mkdirat(top, "bait", 0755), 0);
	put(top, "bait/secret", "safe", 0600);
}

static void bait_is_untouched(void)
{
	struct stat st;
	_cleanup_close_ int bait = openat(top, "bait", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(entries(bait), 1);
	has(bait, "secret", "safe");
	assert_int_equal(fstatat(bait, "secret", &st, 0), 0);
	assert_int_equal(st.st_nlink, 1);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(entries(top), 3);
}

static void refused(struct strbuf *b, const char *root)
{
	struct err e = {0};
	tar_add_end(b);
	int rc = unpacked(b, root, UNPACK_FOLLOW_ROOT | UNPACK_SET_ID, b->len, NULL, &e);
	if (rc >= 0)
		fail_msg("taken");
	assert_true(err_is_set(&e));
	bait_is_untouched();
	b->len = 0;
}

static void names_cannot_leave_the_directory(void **state)
{
	static const char *const bad[] = {"../bait/x", "/tmp/x", "a/../../bait/x", "..", "", "/",
		"a/..", "./../bait/x", "a//../x", "//x", LONG LONG LONG};
	_cleanup_strbuf_ struct strbuf b = {0};
	set_bait();
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		add(&b, ARCHIVE_FILE, bad[i], NULL, "bad");
		refused(&b, NULL);
		add(&b, ARCHIVE_DIRECTORY, bad[i], NULL, NULL);
		refused(&b, NULL);
		add(&b, ARCHIVE_FILE, "good", NULL, "x");
		add(&b, ARCHIVE_HARD_LINK, "link", bad[i], NULL);
		refused(&b, NULL);
	}
	for (int i = 0; i < 100000; i++)
		add(&b, ARCHIVE_FILE, "", NULL, NULL);
	refused(&b, NULL);
	// "." names the directory: no file.
	add(&b, ARCHIVE_FILE, ".", NULL, "x");
	refused(&b, NULL);
}

static void links_lead_nowhere(void **state)
{
	static const char *const targets[] = {"../bait", "/", "/tmp", ".", "..", "self/.."};
	_cleanup_strbuf_ struct strbuf b = {0};
	set_bait();
	for (size_t i = 0; i < ARRAY_SIZE(targets); i++) {
		add(&b, ARCHIVE_SYMLINK, "out", targets[i], NULL);
		add(&b, ARCHIVE_FILE, "out/secret", NULL, "bad");
		refused(&b, NULL);
		add(&b, ARCHIVE_SYMLINK, "d/out", targets[i], NULL);
		add(&b, ARCHIVE_DIRECTORY, "d/out/new", NULL, NULL);
		refused(&b, NULL);
		add(&b, ARCHIVE_SYMLINK, "d/out", targets[i], NULL);
		add(&b, ARCHIVE_SYMLINK, "d/out/x", "y", NULL);
		refused(&b, NULL);
		add(&b, ARCHIVE_SYMLINK, "out", targets[i], NULL);
		add(&b, ARCHIVE_HARD_LINK, "mine", "out/secret", NULL);
		refused(&b, NULL);
		add(&b, ARCHIVE_SYMLINK, "out", targets[i], NULL);
		add(&b, ARCHIVE_DIRECTORY, "out", NULL, NULL);
		refused(&b, NULL);
	}
	// A file takes the place of a link, it does not go through it.
	struct err e = {0};
	add(&b, ARCHIVE_SYMLINK, "d/s", "../../bait/secret", NULL);
	add(&b, ARCHIVE_FILE, "d/s", NULL, "mine");
	add(&b, ARCHIVE_SYMLINK, "s", "../bait/secret", NULL);
	add(&b, ARCHIVE_FILE, "s", NULL, "mine");
	add(&b, ARCHIVE_SYMLINK, "h", "../bait/secret", NULL);
	tar_add_end(&b);
	assert_int_equal(unpacked(&b, NULL, UNPACK_FOLLOW_ROOT, 512, NULL, &e), 0);
	bait_is_untouched();
	has(to, "d/s", "mine");
	has(to, "s", "mine");
	b.len = 0;
	add(&b, ARCHIVE_FILE, "good", NULL, "x");
	add(&b, ARCHIVE_HARD_LINK, "mine", "h", NULL);
	refused(&b, NULL);
}

static void one_thing_is_one_thing(void **state)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	struct err e = {0};
	set_bait();
	add(&b, ARCHIVE_FILE, "asked", NULL, "x");
	add(&b, ARCHIVE_FILE, ".bashrc", NULL, "bad");
	refused(&b, "asked");
	add(&b, ARCHIVE_FILE, "asked", NULL, "x");
	add(&b, ARCHIVE_FILE, "asked", NULL, "again");
	refused(&b, "asked");
	add(&b, ARCHIVE_DIRECTORY, "asked", NULL, NULL);
	add(&b, ARCHIVE_FILE, "other/x", NULL, "bad");
	refused(&b, "asked");
	add(&b, ARCHIVE_FILE, "asked", NULL, "x");
	refused(&b, "");
	assert_false(file_exists(to, ".bashrc"));
	assert_false(file_exists(to, "other"));
	add(&b, ARCHIVE_FILE, ".bashrc", NULL, "named by the guest");
	tar_add_end(&b);
	assert_int_equal(unpacked(&b, "mine", 0, 512, NULL, &e), 0);
	has(to, "mine", "named by the guest");
	assert_false(file_exists(to, ".bashrc"));
}

static void devices_and_rights_are_not_taken(void **state)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	struct notes notes = {0};
	struct err e = {0};
	set_bait();
	struct archive_entry entry = {.type = (enum archive_type)'3', .path = "null", .mode = 0666};
	tar_add_header(&b, &entry, false);
	entry = (struct archive_entry){.type = ARCHIVE_OTHER, .path = "pipe", .mode = 0666};
	tar_add_header(&b, &entry, false);
	entry = (struct archive_entry){.type = ARCHIVE_FILE, .path = "su", .mode = 06755};
	tar_add_header(&b, &entry, false);
	entry = (struct archive_entry){.type = ARCHIVE_DIRECTORY, .path = "d", .mode = 07777};
	tar_add_header(&b, &entry, false);
	tar_add_end(&b);
	assert_int_equal(unpacked(&b, NULL, UNPACK_TIMES | UNPACK_XATTRS, 100, &notes, &e), 0);
	assert_int_equal(notes.skipped, 2);
	assert_int_equal(entries(to), 2);
	assert_int_equal(mode_of(to, "su"), S_IFREG | 0755);
	assert_int_equal(mode_of(to, "d"), S_IFDIR | 0777);
}

// A sparse file by hand: its size, and the map as text.
static void add_sparse(struct strbuf *b, const char *size, const char *map, const char *content)
{
	_cleanup_strbuf_ struct strbuf r = {0}, plain = {0};
	static const char *const keys[] = {
		"GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=f", NULL};
	_cleanup_free_ char *real = str_printf("GNU.sparse.realsize=%s", size);
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		const char *k = keys[i] ? keys[i] : real;
		strbuf_addf(&r, "%zu %s\n", strlen(k) + 4, k);
	}
	// The header of the records is that of a file, but for its type.
	add(&plain, ARCHIVE_FILE, "x", NULL, r.data);
	unsigned sum = 0;
	plain.data[156] = 'x';
	memset(plain.data + 148, ' ', 8);
	for (size_t i = 0; i < 512; i++)
		sum += (unsigned char)plain.data[i];
	snprintf(plain.data + 148, 8, "%06o", sum);
	strbuf_add(b, plain.data, plain.len);
	char body[4096] = "";
	snprintf(body, sizeof body, "%s", map);
	size_t padded = (strlen(map) + 511) / 512 * 512;
	tar_add_header(b,
		&(struct archive_entry){.type = ARCHIVE_FILE,
			.path = "x",
			.mode = 0644,
			.size = padded + strlen(content)},
		false);
	strbuf_add(b, body, padded);
	strbuf_adds(b, content);
	tar_add_padding(b, padded + strlen(content));
}

static void maps_of_holes_are_checked(void **state)
{
	static const struct {
		const char *size, *map, *content;
	} bad[] = {
		{"10", "1\n0\n20\n", "01234567890123456789"}, // beyond the end
		{"10", "2\n5\n2\n3\n2\n", "0123"},	      // not ascending
		{"10", "2\n0\n5\n4\n2\n", "0123456"},	      // overlapping
		{"10", "1\n0\n5\n", "012"},		      // other sums
		{"10", "1\n0\n2\n", "0123"}, {"10", "99999999999999999999\n", ""},
		{"10", "1048577\n0\n0\n", ""}, {"10", "2\n0\n1\n", ""}, // cut
		{"10", "-1\n0\n1\n", "0"},
		{"10", "1\n9223372036854775807\n9223372036854775807\n", "0"},
		{"10", "1\n\n0\n", ""}, {"10", "x", ""}, {"99999999999999999999", "1\n0\n1\n", "0"},
		{"-1", "1\n0\n1\n", "0"},
		{"9223372036854775807", "1\n0\n1\n", "0"}, // larger than files can be
	};
	_cleanup_strbuf_ struct strbuf b = {0};
	struct err e = {0};
	set_bait();
	put(to, "f", "old", 0644);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		add_sparse(&b, bad[i].size, bad[i].map, bad[i].content);
		// Some file systems take the largest size.
		if (i + 1 == ARRAY_SIZE(bad)) {
			tar_add_end(&b);
			unpacked(&b, NULL, 0, 512, NULL, &e);
			break;
		}
		refused(&b, NULL);
		has(to, "f", "old");
		assert_int_equal(entries(to), 1);
	}
	b.len = 0;
	add_sparse(&b, "10", "2\n2\n1\n9\n1\n", "ab");
	tar_add_end(&b);
	memset(&e, 0, sizeof e);
	assert_int_equal(unpacked(&b, NULL, 0, 1, NULL, &e), 0);
	_cleanup_strbuf_ struct strbuf got = {0};
	assert_int_equal(file_read(to, "f", 100, &got), 0);
	assert_int_equal(got.len, 10);
	assert_memory_equal(got.data, "\0\0a\0\0\0\0\0\0b", 10);
}

static void a_cut_archive_leaves_what_was_there(void **state)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	char content[1500];
	memset(content, 'n', sizeof content);
	content[sizeof content - 1] = '\0';
	add(&b, ARCHIVE_FILE, "f", NULL, content);
	tar_add_end(&b);
	put(to, "f", "old", 0644);
	for (size_t cut = 0; cut < b.len; cut++) {
		struct strbuf part = {.data = b.data, .len = cut};
		struct err e = {0};
		assert_true(unpacked(&part, NULL, 0, MAX(cut, (size_t)1), NULL, &e) < 0);
		assert_int_equal(entries(to), 1);
		if (cut < 512 + sizeof content - 1)
			has(to, "f", "old");
		else
			has(to, "f", content);
	}
}

// Whatever an archive becomes by chance, nothing outside changes, and the sanitizers see no fault.
static void random_archives_stay_inside(void **state)
{
	_cleanup_strbuf_ struct strbuf b = {0}, whole = {0};
	unsigned seed = 1;
	set_bait();
	make_tree();
	packed(from, "t", "t", PACK_EXACT, 65536, &whole);
	add_sparse(&b, "10", "2\n2\n1\n9\n1\n", "ab");
	add(&b, ARCHIVE_SYMLINK, "l", "../bait", NULL);
	add(&b, ARCHIVE_HARD_LINK, "h", "f", NULL);
	strbuf_add(&b, whole.data, whole.len);
	// Sums are made right again, so that what is behind them is reached.
	for (int i = 0; i < 500; i++) {
		_cleanup_free_ char *data = malloc(b.len);
		memcpy(data, b.data, b.len);
		for (int k = 0; k < 5; k++) {
			size_t at = (size_t)rand_r(&seed) % b.len;
			data[at] = (char)("/.0127xg\0\n=~"[rand_r(&seed) % 12]);
			char *h = data + at / 512 * 512;
			if (memcmp(h + 257, "ustar", 5) != 0)
				continue;
			unsigned sum = 0;
			memset(h + 148, ' ', 8);
			for (size_t n = 0; n < 512; n++)
				sum += (unsigned char)h[n];
			snprintf(h + 148, 8, "%06o", sum);
		}
		struct strbuf changed = {.data = data, .len = b.len};
		struct err e = {0};
		unpacked(
			&changed, i % 3 ? NULL : "t", UNPACK_TIMES | UNPACK_XATTRS, 4096, NULL, &e);
		if (i % 50 == 0) {
			assert_int_equal(file_rm_rf(top, "to"), 0);
			assert_int_equal(mkdirat(top, "to", 0755), 0);
			safe_close(to);
			to = openat(top, "to", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		}
	}
	bait_is_untouched();
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(a_tree_in_pieces_of_any_size),
		CASE(holes_stay_holes),
		CASE(times_and_attributes_where_asked),
		CASE(many_attributes_are_bounded),
		CASE(attributes_of_a_stranger_are_bounded),
		CASE(what_is_left_out_is_told),
		CASE(links_are_followed_where_asked),
		CASE(files_without_a_true_size),
		CASE(a_file_that_changes_while_it_is_read),
		CASE(names_cannot_leave_the_directory),
		CASE(links_lead_nowhere),
		CASE(one_thing_is_one_thing),
		CASE(devices_and_rights_are_not_taken),
		CASE(maps_of_holes_are_checked),
		CASE(a_cut_archive_leaves_what_was_there),
		CASE(random_archives_stay_inside),
	};
	umask(022);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
