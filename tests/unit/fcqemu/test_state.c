// SPDX-License-Identifier: Apache-2.0
// The state file: what is written is read, nothing else is.
#include <fcntl.h>
#include <string.h>
#include "../check.h"
#include "base/file.h"
#include "fcqemu/state.h"

static struct drive drives[] = {
	{.id = "rootfs", .path = "/rootfs.img", .cache_type = "Writeback", .root = true},
	{.id = "data", .path = "/a \"b\"", .read_only = true},
};
static struct nic nics[] = {
	{.id = "eth0", .tap = "tap0", .mac = "06:00:ac:10:00:02", .mtu = 1400, .tap_fd = -1}};
static const char stream[] = "QEVM the devices";

static void machine(struct state *s)
{
	*s = (struct state){.qemu_version = "7.2.22", .accel = "tcg", .tsc_khz = 2445428};
	s->config.vcpus = 2;
	s->config.memory_mib = 512;
	s->config.entropy = true;
	memcpy(s->config.drives, drives, sizeof drives);
	s->config.n_drives = ARRAY_SIZE(drives);
	memcpy(s->config.nics, nics, sizeof nics);
	s->config.n_nics = ARRAY_SIZE(nics);
	s->config.kernel = (char *)"vmlinux";
	s->config.boot_args = (char *)"quiet";
}

static void encode(struct strbuf *out)
{
	struct state s;
	_cleanup_strbuf_ struct strbuf description = {0};
	uint8_t head[STATE_HEAD_SIZE];
	machine(&s);
	assert_int_equal(state_encode_description(&s, &description), 0);
	state_encode_head(&description, stream, sizeof stream, head);
	strbuf_add(out, head, sizeof head);
	strbuf_add(out, description.data, description.len);
	strbuf_add(out, stream, sizeof stream);
	assert_int_equal(strbuf_check(out), 0);
}

static void assert_refused(const void *data, size_t len, const char *why)
{
	struct state s;
	struct err e = {0};
	if (state_decode(data, len, &s, &e) == 0)
		fail_msg("taken, not refused for: %s", why);
	if (!strstr(e.text, why))
		fail_msg("refused with: %s", e.text);
}

static void what_is_written_is_read(void **state)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	struct state s;
	struct err e = {0};
	encode(&b);
	if (state_decode(b.data, b.len, &s, &e) < 0)
		fail_msg("%s", e.text);
	assert_string_equal(s.qemu_version, "7.2.22");
	assert_string_equal(s.accel, "tcg");
	assert_int_equal(s.tsc_khz, 2445428);
	assert_int_equal(s.config.vcpus, 2);
	assert_int_equal(s.config.memory_mib, 512);
	assert_true(s.config.entropy);
	assert_int_equal(s.config.n_drives, 2);
	assert_true(s.config.drives[0].root && !s.config.drives[0].read_only);
	assert_string_equal(s.config.drives[0].cache_type, "Writeback");
	assert_string_equal(s.config.drives[1].path, "/a \"b\"");
	assert_true(s.config.drives[1].read_only);
	assert_null(s.config.drives[1].cache_type);
	assert_string_equal(s.config.kernel, "vmlinux");
	assert_null(s.config.initrd);
	assert_string_equal(s.config.boot_args, "quiet");
	assert_int_equal(s.config.n_nics, 1);
	assert_string_equal(s.config.nics[0].tap, "tap0");
	assert_string_equal(s.config.nics[0].mac, "06:00:ac:10:00:02");
	assert_int_equal(s.config.nics[0].mtu, 1400);
	assert_int_equal(s.config.nics[0].tap_fd, -1);
	assert_int_equal(s.stream_offset + s.stream_length, b.len);
	assert_memory_equal(b.data + s.stream_offset, stream, sizeof stream);
	state_done(&s);
}

static void every_flipped_bit_is_found(void **state)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	struct state s;
	encode(&b);
	for (size_t i = 0; i < b.len; i++)
		for (int bit = 0; bit < 8; bit++) {
			b.data[i] ^= (char)(1 << bit);
			struct err e = {0};
			if (state_decode(b.data, b.len, &s, &e) == 0)
				fail_msg("bit %d of byte %zu is not noticed", bit, i);
			assert_true(e.text[0] != '\0');
			b.data[i] ^= (char)(1 << bit);
		}
}

static void every_length_but_the_right_one_is_refused(void **state)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	encode(&b);
	for (size_t len = 0; len < b.len; len++)
		assert_refused(b.data, len, "truncated");
	size_t whole = b.len;
	strbuf_addc(&b, 'x');
	assert_refused(b.data, whole + 1, "1 bytes too long");
}

static void foreign_files_are_named(void **state)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	encode(&b);
	uint64_t firecracker = 0x0710198486640000ull;
	assert_refused(&firecracker, sizeof firecracker, "Firecracker itself");
	assert_refused("ELF and so on, long enough for a head of ours", 45, "wrong magic");
	b.data[8] = 2;
	assert_refused(b.data, b.len, "written by a newer fcqemu (layout 2, this one knows 1)");
	b.data[8] = 0;
	assert_refused(b.data, b.len, "layout 0 does not exist");
}

// The sums are right, the text is not what a writer would write.
static void descriptions_are_strict(void **state)
{
#define MACHINE "\"machine\":{\"vcpu_count\":1,\"mem_size_mib\":64,\"entropy\":false,"
#define NAMES "{\"qemu_version\":\"7.2.22\",\"accel\":\"tcg\",\"tsc_khz\":1,"
	static const struct {
		const char *text, *why;
	} cases[] = {
		{"{}", "missing field `qemu_version`"},
		{"no json", "deserializing"},
		{NAMES MACHINE "\"drives\":[]}}", "missing field `network-interfaces`"},
		{NAMES MACHINE "\"drives\":[],\"network-interfaces\":[],\"x\":1}}",
			"unknown field `x`"},
		{NAMES MACHINE "\"drives\":[7],\"network-interfaces\":[]}}",
			"integer `7`, expected struct BlockDeviceConfig"},
		{NAMES MACHINE "\"drives\":[{\"drive_id\":\"a/b\",\"is_root_device\":false,"
			       "\"path_on_host\":\"/\"}],\"network-interfaces\":[]}}",
			"alphanumeric"},
		{NAMES MACHINE "\"drives\":[{\"drive_id\":\"a\",\"is_root_device\":false,"
			       "\"path_on_host\":\"/\"},{\"drive_id\":\"a\",\"is_root_device\":"
			       "false,\"path_on_host\":\"/\"}],\"network-interfaces\":[]}}",
			"twice"},
		{NAMES MACHINE "\"drives\":[],\"network-interfaces\":[{\"iface_id\":\"n\","
			       "\"host_dev_name\":\"\"}]}}",
			"Invalid interface name"},
		{NAMES "\"machine\":{\"vcpu_count\":0,\"mem_size_mib\":64,\"entropy\":false,"
		       "\"drives\":[],\"network-interfaces\":[]}}",
			"number of vCPUs"},
		{"{\"qemu_version\":\"0123456789012345678901234567890123\",\"accel\":\"tcg\","
		 "\"tsc_khz\":1," MACHINE "\"drives\":[],\"network-interfaces\":[]}}",
			"too long"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_strbuf_ struct strbuf text = {0}, b = {0};
		uint8_t head[STATE_HEAD_SIZE];
		strbuf_adds(&text, cases[i].text);
		state_encode_head(&text, stream, sizeof stream, head);
		strbuf_add(&b, head, sizeof head);
		strbuf_add(&b, text.data, text.len);
		strbuf_add(&b, stream, sizeof stream);
		assert_refused(b.data, b.len, cases[i].why);
	}
}

static void a_file_that_is_none_says_why(void **state)
{
	char dir[] = "/tmp/fcqemu-state-XXXXXX", path[64];
	struct state s;
	struct err e = {0};
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof path, "%s/vmstate", dir);
	assert_int_equal(state_read(path, &s, NULL, &e), -ENOENT);
	assert_string_equal(
		e.text, "Failed to open snapshot file: No such file or directory (os error 2)");
	assert_int_equal(file_write_atomic(AT_FDCWD, path, "STAS", 4, 0600), 0);
	assert_true(state_read(path, &s, NULL, &e) < 0);
	assert_non_null(strstr(e.text, "Failed to load snapshot state from file: truncated"));
	assert_true(state_read(dir, &s, NULL, &e) < 0);
	assert_non_null(strstr(e.text, "not a regular file"));
	_cleanup_strbuf_ struct strbuf b = {0};
	encode(&b);
	assert_int_equal(file_write_atomic(AT_FDCWD, path, b.data, b.len, 0600), 0);
	int fd = -1;
	assert_int_equal(state_read(path, &s, &fd, &e), 0);
	char got[sizeof stream];
	assert_int_equal(read(fd, got, sizeof got), sizeof got);
	assert_memory_equal(got, stream, sizeof got);
	close(fd);
	state_done(&s);
	file_rm_rf(AT_FDCWD, dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_written_is_read),
		cmocka_unit_test(every_flipped_bit_is_found),
		cmocka_unit_test(every_length_but_the_right_one_is_refused),
		cmocka_unit_test(foreign_files_are_named),
		cmocka_unit_test(descriptions_are_strict),
		cmocka_unit_test(a_file_that_is_none_says_why),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
