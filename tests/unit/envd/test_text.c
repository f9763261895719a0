// SPDX-License-Identifier: Apache-2.0
// The parts of envd that turn text into text: users, paths, environments, modes, command lines.
#include "../check.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/proc.h"
#include "envd/api/entry.h"
#include "envd/api/ports.h"
#include "envd/process/env.h"
#include "envd/wake/freeze.h"
#include "envd/wake/init.h"
#include "envd/wake/resolv.h"
#include "envd/process/path.h"
#include "envd/wake/resume.h"
#include "envd/process/users.h"

// --- users

static void write_file(const char *path, const char *text)
{
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(file_write_full(fd, text, strlen(text)), 0);
}

struct files {
	char dir[32], passwd[64], group[64];
};

static int make_files(void **state)
{
	struct files *f = calloc(1, sizeof *f);
	snprintf(f->dir, sizeof f->dir, "/tmp/envd-users-XXXXXX");
	if (!mkdtemp(f->dir))
		return -1;
	snprintf(f->passwd, sizeof f->passwd, "%s/passwd", f->dir);
	snprintf(f->group, sizeof f->group, "%s/group", f->dir);
	*state = f;
	return 0;
}

static int remove_files(void **state)
{
	struct files *f = *state;
	file_rm_rf(AT_FDCWD, f->dir);
	free(f);
	return 0;
}

static void test_users_are_found_with_their_groups(void **state)
{
	struct files *f = *state;
	write_file(f->passwd, "root:x:0:0:root:/root:/bin/bash\n"
			      "# comment:x:7:7::/:/bin/sh\n"
			      "+nis:x:8:8::/:/bin/sh\n"
			      "short:x:9\n"
			      "bad:x:minus:9::/:/bin/sh\n"
			      "wide:x:4294967295:9::/:/bin/sh\n"
			      "\n"
			      "user:x:1000:1001:A,B:/home/user:/bin/bash\n"
			      "homeless:x:1002:1002:::/bin/sh\n"
			      "last:x:1003:1003::/home/last:"); // without a line end
	write_file(f->group, "root:x:0:\nusers:x:100:user,other\nuser:x:1001:user\n"
			     "no:x:101:username,xuser\nsudo:x:27:root,user");
	_cleanup_users_ struct users u = {0};
	assert_int_equal(users_load(f->passwd, f->group, &u), 0);
	_cleanup_user_ struct user r = {0}, h = {0}, l = {0};
	assert_int_equal(users_find(&u, "user", &r), 0);
	assert_int_equal(r.uid, 1000);
	assert_int_equal(r.gid, 1001);
	assert_string_equal(r.home, "/home/user");
	assert_int_equal(r.n_groups, 3);
	assert_int_equal(r.groups[0], 1001);
	assert_int_equal(r.groups[1], 100);
	assert_int_equal(r.groups[2], 27);
	assert_int_equal(users_find(&u, "homeless", &h), 0);
	assert_string_equal(h.home, "/");
	assert_int_equal(users_find_uid(&u, 1003, &l), 0);
	assert_string_equal(l.name, "last");
	static const char *const none[] = {
		"", "nobody", "use", "# comment", "+nis", "short", "bad", "wide", "user:x"};
	for (size_t i = 0; i < ARRAY_SIZE(none); i++)
		assert_int_equal(users_find(&u, none[i], &r), -ENOENT);
}

static void test_ids_have_names_or_numbers(void **state)
{
	struct files *f = *state;
	write_file(f->passwd, "root:x:0:0:root:/root:/bin/bash\nuser:x:1000:1000::/h:/s\n");
	write_file(f->group, "wheel:x:0:\n");
	_cleanup_users_ struct users u = {0};
	assert_int_equal(users_load(f->passwd, f->group, &u), 0);
	for (int i = 0; i < 2; i++) {
		assert_string_equal(users_name(&u, 0), "root");
		assert_string_equal(users_name(&u, 1000), "user");
		assert_string_equal(users_name(&u, 4321), "4321");
		assert_string_equal(users_group_name(&u, 0), "wheel");
		assert_string_equal(users_group_name(&u, 1000), "1000");
	}
}

static void test_missing_user_files_are_empty(void **state)
{
	struct files *f = *state;
	_cleanup_users_ struct users u = {0};
	struct user r;
	assert_int_equal(users_load(f->passwd, f->group, &u), 0);
	assert_int_equal(users_find(&u, "root", &r), -ENOENT);
	assert_string_equal(users_name(&u, 0), "0");
}

// --- paths

static void test_paths_are_resolved(void **state)
{
	static const struct {
		const char *path, *preset, *want;
	} t[] = {
		{"", NULL, "/home/user"},
		{"", "", "/home/user"},
		{"", "/code", "/code"},
		{"~", "/code", "/home/user"},
		{"~/", NULL, "/home/user"},
		{"~/a/b", NULL, "/home/user/a/b"},
		{"a.txt", "/code", "/home/user/a.txt"},
		{"./a/../b//c/.", NULL, "/home/user/b/c"},
		{"/", NULL, "/"},
		{"//", NULL, "/"},
		{"/..", NULL, "/"},
		{"/../../etc/passwd", NULL, "/etc/passwd"},
		{"../../../../x", NULL, "/x"},
		{"/a/b/../../..", NULL, "/"},
		{"/tmp/", NULL, "/tmp"},
		{"/a/.../b", NULL, "/a/.../b"},
		{"/a/..b", NULL, "/a/..b"},
		{"a~b", NULL, "/home/user/a~b"},
		{"/~", NULL, "/~"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		char out[PATH_SIZE];
		assert_int_equal(path_resolve(t[i].path, "/home/user", t[i].preset, out, NULL), 0);
		assert_string_equal(out, t[i].want);
	}
}

static void test_bad_paths_are_refused(void **state)
{
	char out[PATH_SIZE], longest[PATH_SIZE + 10];
	struct err e = {0};
	assert_int_equal(path_resolve("~other/x", "/home/user", NULL, out, &e), -EINVAL);
	assert_int_equal(e.code, ERR_INVALID);
	memset(longest, 'a', sizeof longest);
	longest[0] = '/';
	longest[PATH_SIZE - 1] = '\0';
	assert_int_equal(path_resolve(longest, "/", NULL, out, NULL), 0);
	longest[PATH_SIZE - 1] = 'a';
	longest[PATH_SIZE] = '\0';
	assert_int_equal(path_resolve(longest, "/", NULL, out, NULL), -EINVAL);
}

static void test_paths_are_cut(void **state)
{
	char p[] = "/a/b/c";
	assert_string_equal(path_base(p), "c");
	path_cut_last(p);
	assert_string_equal(p, "/a/b");
	path_cut_last(p);
	path_cut_last(p);
	assert_string_equal(p, "/");
	path_cut_last(p);
	assert_string_equal(p, "/");
	assert_string_equal(path_base(p), "/");
}

// --- environment

static void test_later_variables_win(void **state)
{
	_cleanup_json_ json_t *global =
		json_pack("{s:s, s:s, s:s}", "A", "1", "B", "g", "HOME", "/g");
	_cleanup_json_ json_t *request =
		json_pack("{s:s, s:s, s:s}", "B", "r", "E", "", "LONG", "a=b\nc");
	_cleanup_free_ char **env = NULL;
	assert_int_equal(env_build("/bin", "user", "/home/user", global, request, &env, NULL), 0);
	assert_string_equal(env_get(env, "PATH"), "/bin");
	assert_string_equal(env_get(env, "USER"), "user");
	assert_string_equal(env_get(env, "LOGNAME"), "user");
	assert_string_equal(env_get(env, "HOME"), "/g");
	assert_string_equal(env_get(env, "A"), "1");
	assert_string_equal(env_get(env, "B"), "r");
	assert_string_equal(env_get(env, "E"), "");
	assert_string_equal(env_get(env, "LONG"), "a=b\nc");
	assert_null(env_get(env, "LON"));
	for (size_t i = 0; env[i]; i++)
		for (size_t k = i + 1; env[k]; k++)
			assert_true(strncmp(env[i], env[k], strcspn(env[i], "=") + 1) != 0);
}

// UTF-8 unless somebody says otherwise.
static void test_locale(void **state)
{
	_cleanup_free_ char **env = NULL, **asked = NULL;
	assert_int_equal(env_build("/bin", "u", "/", NULL, NULL, &env, NULL), 0);
	assert_true(access("/etc/default/locale", F_OK) == 0 ||
		    access("/etc/locale.conf", F_OK) == 0 ||
		    str_eq(env_get(env, "LANG"), "C.UTF-8"));
	assert_non_null(env_get(env, "LANG"));
	_cleanup_json_ json_t *request = json_pack("{s:s}", "LANG", "tr_TR.UTF-8");
	assert_int_equal(env_build("/bin", "u", "/", NULL, request, &asked, NULL), 0);
	assert_string_equal(env_get(asked, "LANG"), "tr_TR.UTF-8");

	static const char file[] =
		"# LANG=no\nLANG=\"de_DE.UTF-8\"\nLANGUAGE='de:en'\n LC_TIME=x\n"
		"LC_NUMERIC=C.UTF-8 # as it is\r\nPATH=/evil\nLD_PRELOAD=x\nLC_\n"
		"LC_BAD=\xff\nLC_=x\nLANGS=x\nLC_ALL=";
	char path[] = "/tmp/locale-XXXXXX";
	_cleanup_close_ int fd = mkstemp(path);
	assert_int_equal(write(fd, file, sizeof file - 1), sizeof file - 1);
	_cleanup_json_ json_t *all = json_pack("{s:s}", "LANG", "C.UTF-8");
	env_add_locale(all, path);
	_cleanup_json_ json_t *want = json_pack("{s:s, s:s, s:s, s:s}", "LANG", "de_DE.UTF-8",
		"LANGUAGE", "de:en", "LC_NUMERIC", "C.UTF-8", "LC_ALL", "");
	assert_true(json_equal(all, want));
	// Neither waits nor takes what is no such file.
	assert_int_equal(unlink(path), 0);
	static const char *const none[] = {"/no/such", "/dev/zero", "/tmp", "/dev/tty"};
	for (size_t i = 0; i < ARRAY_SIZE(none); i++)
		env_add_locale(all, none[i]);
	assert_int_equal(mkfifo(path, 0600), 0);
	env_add_locale(all, path);
	assert_int_equal(unlink(path), 0);
	assert_true(json_equal(all, want));
}

static void test_bad_variables_are_refused(void **state)
{
	struct err e = {0};
	char **env = NULL;
	static const char *const bad[] = {
		"{\"\":\"x\"}", "{\"a=b\":\"x\"}", "{\"a\":1}", "{\"a\":null}"};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		_cleanup_json_ json_t *request = json_loads(bad[i], 0, NULL);
		assert_int_equal(env_build("/bin", "u", "/", NULL, request, &env, &e), -EINVAL);
		assert_int_equal(e.code, ERR_INVALID);
	}
	assert_null(env);
}

// --- entries and ends

static void test_modes_read_as_go_writes_them(void **state)
{
	static const struct {
		mode_t mode;
		const char *want;
	} t[] = {{S_IFREG | 0644, "-rw-r--r--"}, {S_IFDIR | 0755, "drwxr-xr-x"},
		{S_IFLNK | 0777, "Lrwxrwxrwx"}, {S_IFDIR | S_ISVTX | 0777, "dtrwxrwxrwx"},
		{S_IFREG | S_ISUID | 0755, "urwxr-xr-x"}, {S_IFREG | S_ISGID | 0755, "grwxr-xr-x"},
		{S_IFCHR | 0666, "Dcrw-rw-rw-"}, {S_IFBLK | 0660, "Drw-rw----"},
		{S_IFIFO | 0600, "prw-------"}, {S_IFSOCK | 0777, "Srwxrwxrwx"},
		{S_IFREG | 07000, "ugt---------"}};
	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		char out[ENTRY_MODE_SIZE];
		entry_mode_text(t[i].mode, out);
		assert_string_equal(out, t[i].want);
	}
}

static void test_times_have_years_that_clients_know(void **state)
{
	static const struct {
		int64_t sec;
		long nsec;
		const char *text;
	} t[] = {
		{1234567890, 123456789, "2009-02-13T23:31:30.123456789Z"},
		{0, 0, "1970-01-01T00:00:00.000000000Z"},
		{-1, 999999999, "1969-12-31T23:59:59.999999999Z"},
		{-62135596800, 5, "0001-01-01T00:00:00.000000005Z"},
		{-62135596801, 999999999, "0001-01-01T00:00:00.000000000Z"},
		{INT64_MIN, 0, "0001-01-01T00:00:00.000000000Z"},
		{253402300799, 7, "9999-12-31T23:59:59.000000007Z"},
		{253402300800, 0, "9999-12-31T23:59:59.999999999Z"},
		{67768036191676900, 0, "9999-12-31T23:59:59.999999999Z"},
		{INT64_MAX, 999999999, "9999-12-31T23:59:59.999999999Z"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		char text[ENTRY_TIME_SIZE];
		entry_time_text((struct timespec){t[i].sec, t[i].nsec}, text);
		assert_string_equal(text, t[i].text);
	}
}

static void test_json_strings_take_any_bytes(void **state)
{
	static const char *const t[] = {
		"plain", "quote\" back\\slash", "\x01\x1f\n\t", "h\xc3\xa9", "broken \xff\xc3", ""};
	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		_cleanup_strbuf_ struct strbuf b = {0};
		strbuf_addc(&b, '[');
		entry_add_json_string(&b, t[i]);
		strbuf_addc(&b, ']');
		_cleanup_json_ json_t *j = json_loads(b.data, 0, NULL);
		assert_non_null(j);
		const char *back = json_string_value(json_array_get(j, 0));
		if (i < 4 || i == 5)
			assert_string_equal(back, t[i]);
		else
			assert_string_equal(back, "broken \xef\xbf\xbd\xef\xbf\xbd");
	}
}

static void test_ends_have_the_texts_clients_look_for(void **state)
{
	static const struct {
		int status;
		const char *want;
	} t[] = {{W_EXITCODE(0, 0), "exit status 0"}, {W_EXITCODE(3, 0), "exit status 3"},
		{W_EXITCODE(0, 9), "signal: killed"}, {W_EXITCODE(0, 15), "signal: terminated"},
		{W_EXITCODE(0, 11), "signal: segmentation fault"}};
	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		char text[64];
		proc_status_text(t[i].status, text, sizeof text);
		assert_string_equal(text, t[i].want);
	}
}

// --- /init

static void test_init_is_read(void **state)
{
	_cleanup_json_ json_t *j = json_pack("{s:s, s:{s:s}, s:s, s:s, s:s, s:s, s:s, s:b, s:s}",
		"accessToken", "t", "envVars", "A", "b", "timestamp",
		"2026-11-24T03:00:00.123456789Z", "defaultUser", "user", "defaultWorkdir", "/code",
		"hostname", "i0-a", "entropy", "AAEC", "growRoot", 1, "hyperloopIP", "ignored");
	_cleanup_(init_request_done) struct init_request r = {0};
	assert_int_equal(init_read(j, &r, NULL), 0);
	assert_string_equal(r.token, "t");
	assert_int_equal(json_object_size(r.env), 1);
	assert_int_equal(r.timestamp_ns % NSEC_PER_SEC, 123456789);
	assert_string_equal(r.hostname, "i0-a");
	assert_int_equal(r.entropy.len, 3);
	assert_memory_equal(r.entropy.data, "\0\1\2", 3);
	assert_true(r.grow_root);
	assert_false(r.resumed);
	assert_false(r.has_clock_ppm);
}

static void test_init_of_a_resume_is_read(void **state)
{
	_cleanup_json_ json_t *j = json_pack("{s:s, s:s, s:b, s:i}", "timestamp",
		"2026-11-24T03:00:00Z", "entropy",
		"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", "resumed", 1, "clockPpm", -100000);
	_cleanup_(init_request_done) struct init_request r = {0};
	assert_int_equal(init_read(j, &r, NULL), 0);
	assert_true(r.resumed);
	assert_true(r.has_clock_ppm);
	assert_int_equal(r.clock_ppm, -100000);
}

static void test_bad_init_is_refused_by_name(void **state)
{
	static const struct {
		const char *json, *name;
	} t[] = {{"{\"accessToken\":\"\"}", "accessToken"}, {"{\"accessToken\":1}", "accessToken"},
		{"{\"timestamp\":\"now\"}", "timestamp"}, {"{\"hostname\":\"a.b\"}", "hostname"},
		{"{\"hostname\":\"-a\"}", "hostname"}, {"{\"hostname\":\"\"}", "hostname"},
		{"{\"entropy\":\"*\"}", "entropy"},
		{"{\"defaultWorkdir\":\"x\"}", "defaultWorkdir"},
		{"{\"envVars\":{\"a\":1}}", "environment"}, {"{\"growRoot\":1}", "growRoot"},
		{"{\"resumed\":true}", "resumed"}, {"{\"resumed\":1}", "resumed"},
		{"{\"resumed\":true,\"timestamp\":\"2026-11-24T03:00:00Z\",\"entropy\":\"AA==\"}",
			"resumed"},
		{"{\"dns\":\"\"}", "dns"}, {"{\"dns\":\"1.1.1.1,\"}", "dns"},
		{"{\"dns\":\"1.1.1.1\\nsearch x\"}", "dns"}, {"{\"dns\":\"::1\"}", "dns"},
		{"{\"dns\":[]}", "dns"}, {"{\"clockPpm\":100001}", "clockPpm"},
		{"{\"clockPpm\":-100001}", "clockPpm"}, {"{\"clockPpm\":1.5}", "clockPpm"},
		{"{\"clockPpm\":\"1\"}", "clockPpm"}};
	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		struct err e = {0};
		struct init_request r;
		_cleanup_json_ json_t *j = json_loads(t[i].json, 0, NULL);
		assert_int_equal(init_read(j, &r, &e), -EINVAL);
		assert_non_null(strstr(e.text, t[i].name));
	}
}

static void test_clock_is_set_only_when_it_is_off(void **state)
{
	const uint64_t t = 1000 * NSEC_PER_SEC;
	assert_false(init_clock_is_off(t, t));
	assert_false(init_clock_is_off(t - 50 * NSEC_PER_MSEC, t));
	assert_true(init_clock_is_off(t - 51 * NSEC_PER_MSEC, t));
	assert_false(init_clock_is_off(t + 5 * NSEC_PER_SEC, t));
	assert_true(init_clock_is_off(t + 5 * NSEC_PER_SEC + 1, t));
}

static void check_hosts(const char *old, bool changed, const char *want)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	assert_int_equal(init_hosts_text(old, "box", &b), changed);
	if (changed)
		assert_string_equal(b.data, want);
}

// What the kernel makes of a plan: its clock against an even one, in 2^-16 ppm.
static int64_t rate_of(long tick, long freq)
{
	return (int64_t)(tick - 10000) * 100 * 65536 + freq;
}

static void test_clock_rates_undo_the_counters(void **state)
{
	long tick, freq;
	assert_int_equal(clock_rate_plan(0, &tick, &freq), 0);
	assert_int_equal(tick, 10000);
	assert_int_equal(freq, 0);
	// A counter 1 % too fast asks for a clock slower by 9900.990 ppm: 99 steps and the rest.
	assert_int_equal(clock_rate_plan(10000, &tick, &freq), 0);
	assert_int_equal(tick, 9901);
	assert_in_range(-freq, 64880, 64890); // 0.9901 ppm
	for (int ppm = -90000; ppm <= 100000; ppm += 7) {
		assert_int_equal(clock_rate_plan(ppm, &tick, &freq), 0);
		assert_in_range(tick, 9000, 11000);
		assert_in_range(freq + (50 << 16), 0, 100 << 16);
		// (1 + counter)(1 + clock) is 1, to a thousandth of a ppm.
		double product = (1 + ppm / 1e6) * (1 + (double)rate_of(tick, freq) / 65536 / 1e6);
		assert_true(product > 1 - 1e-9 && product < 1 + 1e-9);
	}
	assert_int_equal(clock_rate_plan(-100000, &tick, &freq), -ERANGE);
	assert_int_equal(clock_rate_plan(200000, &tick, &freq), -ERANGE);
	assert_int_equal(clock_rate_plan(-1000000, &tick, &freq), -ERANGE);
	assert_int_equal(clock_rate_plan(INT_MAX, &tick, &freq), -ERANGE);
	assert_int_equal(clock_rate_plan(INT_MIN, &tick, &freq), -ERANGE);
}

static void test_mounts_to_sync_are_writable_and_on_devices(void **state)
{
	static const struct {
		const char *line, *path; // NULL: none
		uint64_t device;
	} t[] = {
		{"24 1 254:0 / / rw,noatime - ext4 /dev/vda rw", "/", 254ull << 32},
		{"25 24 7:3 /a /m\\040x rw shared:1 master:2 - xfs /dev/loop3 rw,quota", "/m x",
			7ull << 32 | 3},
		// read-only here, but written through another mount
		{"26 24 254:0 / /ro ro - ext4 /dev/vda rw", "/ro", 254ull << 32},
		{"27 24 254:1 / /cd ro - iso9660 /dev/vdb ro", NULL, 0},
		{"28 24 0:21 / /run rw - tmpfs tmpfs rw", NULL, 0},
		{"29 24 8:1 / /fuse rw - fuseblk /dev/sda1 rw", NULL, 0},
		{"", NULL, 0},
		{"30", NULL, 0},
		{"30 24 254:0 / / rw", NULL, 0},
		{"30 24 254 / / rw - ext4 /dev/vda rw", NULL, 0},
		{"30 24 254:0 / / rw - ext4 /dev/vda relatime,rwx", NULL, 0},
	};
	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		char line[128], *path = NULL;
		uint64_t device = 0;
		snprintf(line, sizeof line, "%s", t[i].line);
		assert_int_equal(freeze_mount_needs_sync(line, &device, &path), t[i].path != NULL);
		if (!t[i].path)
			continue;
		assert_string_equal(path, t[i].path);
		assert_int_equal(device, t[i].device);
	}
}

static void check_port(uint16_t port, bool loopback, bool outside)
{
	static const char tcp[] =
		"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt\n"
		"   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1\n"
		"   1: 00000000:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1\n"
		"   2: 1500FEA9:1F92 1600FEA9:9C40 01 00000000:00000000 00:00000000 00000000  1\n"
		"   3: 0200007F:1F93 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1\n"
		"   4: 0100007F:1F94 0100007F:0001 06 00000000:00000000 00:00000000 00000000  1\n"
		"nonsense\n   5: zz:1F90 0:0 0A\n   6: 0100007F:1F9";
	static const char tcp6[] = "  sl  local_address\n"
				   " 0: 00000000000000000000000001000000:1F95 0:0 0A 0\n"
				   " 1: 00000000000000000000000000000000:1F96 0:0 0A 0\n"
				   "12345: 0000000000000000FFFF00000100007F:1F97 0:0 0A 0\n"
				   " 3: 000080FE00000000FF005450B6AD1DFE:1F95 0:0 01 0\n"
				   " 4: 00000000000000000000000000000000:1F93 0:0 0A 0\n";
	struct ports_found found;
	char dir[] = "/tmp/ports-XXXXXX";
	assert_non_null(mkdtemp(dir));
	_cleanup_free_ char *four = str_printf("%s/tcp", dir), *six = str_printf("%s/tcp6", dir);
	assert_int_equal(file_write_atomic(AT_FDCWD, four, tcp, sizeof tcp - 1, 0600), 0);
	assert_int_equal(file_write_atomic(AT_FDCWD, six, tcp6, sizeof tcp6 - 1, 0600), 0);
	assert_int_equal(ports_find(four, six, port, &found), 0);
	assert_int_equal(found.loopback, loopback);
	assert_int_equal(found.outside, outside);
	unlink(four);
	unlink(six);
	// Without IPv6 there is no such table.
	assert_int_equal(ports_find(four, six, port, &found), 0);
	assert_false(found.loopback || found.outside);
	rmdir(dir);
}

static void test_ports_and_where_they_are_listened_on(void **state)
{
	check_port(8080, true, false);
	check_port(8081, false, true);
	check_port(8082, false, false); // a connection
	check_port(8083, true, true);
	check_port(8084, false, false);
	check_port(8085, true, false);
	check_port(8086, false, true);
	check_port(8087, true, false);
	check_port(80, false, false);
}

static void test_hosts_name_the_guest_once(void **state)
{
#define LOCALHOST "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
	check_hosts("", true, LOCALHOST "127.0.1.1\tbox\n");
	check_hosts("127.0.0.1 localhost", true, "127.0.0.1 localhost\n127.0.1.1\tbox\n");
	check_hosts("127.0.1.1 old\n::1 localhost\n", true, "::1 localhost\n127.0.1.1\tbox\n");
	check_hosts("127.0.0.1 localhost\n127.0.1.1\tbox\n", false, NULL);
	check_hosts("127.0.1.1\tbox\n127.0.1.1 old\n", true, LOCALHOST "127.0.1.1\tbox\n");
	check_hosts("::1\ta localhost\t#\n127.0.1.10 other\n", true,
		"::1\ta localhost\t#\n127.0.1.10 other\n127.0.1.1\tbox\n");
	// What is not the name itself.
	static const char *const none[] = {"localhost 127.0.0.1\n", "# 127.0.0.1 localhost\n",
		"127.0.0.1 localhost.localdomain\n", "127.0.0.1 mylocalhost\n",
		"::1 x # localhost"};
	for (size_t i = 0; i < ARRAY_SIZE(none); i++) {
		_cleanup_free_ char *want = str_printf(LOCALHOST "%s%s127.0.1.1\tbox\n", none[i],
			str_ends(none[i], "\n") ? "" : "\n");
		check_hosts(none[i], true, want);
	}
}

#define OURS "# Written by Stasis at each start; without this line the file is yours.\n"

static void check_resolv(const struct files *f, const char *want)
{
	char path[64];
	_cleanup_strbuf_ struct strbuf text = {0};
	snprintf(path, sizeof path, "%s/resolv.conf", f->dir);
	assert_int_equal(file_read(AT_FDCWD, path, 4096, &text), 0);
	assert_string_equal(text.data, want);
}

static void test_resolvers_are_written_where_the_file_is_ours(void **state)
{
	const struct files *f = *state;
	char path[64], other[64], temporary[64];
	struct stat st;
	snprintf(path, sizeof path, "%s/resolv.conf", f->dir);
	snprintf(other, sizeof other, "%s/other", f->dir);
	snprintf(temporary, sizeof temporary, "%s/.resolv.conf.stasis", f->dir);
	write_file(other, "nameserver 9.9.9.9\n");
	// Missing, the image's, ours, empty.
	resolv_write(f->dir, "10.0.0.1", false);
	check_resolv(f, OURS "nameserver 10.0.0.1\n");
	assert_true(stat(path, &st) == 0 && (st.st_mode & 07777) == 0644);
	resolv_write(f->dir, "10.0.0.2,10.0.0.3", false);
	check_resolv(f, OURS "nameserver 10.0.0.2\nnameserver 10.0.0.3\n");
	write_file(path, "nameserver 1.1.1.1\nnameserver 8.8.8.8\n");
	resolv_write(f->dir, "10.0.0.1", false);
	check_resolv(f, OURS "nameserver 10.0.0.1\n");
	write_file(path, "");
	resolv_write(f->dir, "10.0.0.1", false);
	check_resolv(f, OURS "nameserver 10.0.0.1\n");
	// The user's stays, but where a list was asked for.
	write_file(path, "nameserver 1.1.1.1\n");
	resolv_write(f->dir, "10.0.0.1", false);
	check_resolv(f, "nameserver 1.1.1.1\n");
	resolv_write(f->dir, "10.0.0.1", true);
	check_resolv(f, OURS "nameserver 10.0.0.1\n");
	// A link to something is the user's; what it leads to is never written.
	unlink(path);
	assert_int_equal(symlink("other", path), 0);
	resolv_write(f->dir, "10.0.0.1", false);
	check_resolv(f, "nameserver 9.9.9.9\n");
	resolv_write(f->dir, "10.0.0.1", true);
	check_resolv(f, OURS "nameserver 10.0.0.1\n");
	unlink(path);
	assert_int_equal(symlink("../run/systemd/resolve/none", path), 0);
	assert_int_equal(symlink(other, temporary), 0);
	resolv_write(f->dir, "10.0.0.1", false);
	check_resolv(f, OURS "nameserver 10.0.0.1\n");
	_cleanup_strbuf_ struct strbuf text = {0};
	assert_int_equal(file_read(AT_FDCWD, other, 4096, &text), 0);
	assert_string_equal(text.data, "nameserver 9.9.9.9\n");
	// What is no file does not hold it up.
	unlink(path);
	assert_int_equal(mkfifo(path, 0600), 0);
	resolv_write(f->dir, "10.0.0.1", true);
	assert_true(lstat(path, &st) == 0 && S_ISFIFO(st.st_mode));
	resolv_write("/nonexistent", "10.0.0.1", true);
	unlink(path);
	unlink(other);
	assert_int_equal(access(temporary, F_OK), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			test_users_are_found_with_their_groups, make_files, remove_files),
		cmocka_unit_test_setup_teardown(
			test_ids_have_names_or_numbers, make_files, remove_files),
		cmocka_unit_test_setup_teardown(
			test_missing_user_files_are_empty, make_files, remove_files),
		cmocka_unit_test(test_paths_are_resolved),
		cmocka_unit_test(test_bad_paths_are_refused),
		cmocka_unit_test(test_paths_are_cut),
		cmocka_unit_test(test_later_variables_win),
		cmocka_unit_test(test_locale),
		cmocka_unit_test(test_bad_variables_are_refused),
		cmocka_unit_test(test_modes_read_as_go_writes_them),
		cmocka_unit_test(test_times_have_years_that_clients_know),
		cmocka_unit_test(test_json_strings_take_any_bytes),
		cmocka_unit_test(test_ends_have_the_texts_clients_look_for),
		cmocka_unit_test(test_init_is_read),
		cmocka_unit_test(test_init_of_a_resume_is_read),
		cmocka_unit_test(test_clock_rates_undo_the_counters),
		cmocka_unit_test(test_mounts_to_sync_are_writable_and_on_devices),
		cmocka_unit_test(test_bad_init_is_refused_by_name),
		cmocka_unit_test(test_clock_is_set_only_when_it_is_off),
		cmocka_unit_test(test_hosts_name_the_guest_once),
		cmocka_unit_test(test_ports_and_where_they_are_listened_on),
		cmocka_unit_test_setup_teardown(test_resolvers_are_written_where_the_file_is_ours,
			make_files, remove_files),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
