// SPDX-License-Identifier: Apache-2.0
// The rules of the API against a machine that only counts what is asked of it.
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>
#include "base/file.h"
#include "fcqemu/api.h"

struct fixture {
	struct api api;
	char dir[64], kernel[96], disk[96];
	int starts, pauses, resumes, changes, creates, loads;
	bool fail;
	struct { // of the last snapshot call
		char state[64], memory[64], tap[64];
		bool diff, uffd;
	} asked;
	int status;	   // of the last answer
	struct strbuf out; // the last answer, its body in *body
	const char *body;
};

static int answer(struct fixture *f, int *count, struct err *e)
{
	if (f->fail)
		return err_set(e, ERR_INTERNAL, "the machine says no");
	(*count)++;
	return 0;
}

static int op_start(void *ctx, const struct config *c, struct err *e)
{
	struct fixture *f = ctx;
	return answer(f, &f->starts, e);
}

static int op_pause(void *ctx, struct err *e)
{
	struct fixture *f = ctx;
	return answer(f, &f->pauses, e);
}

static int op_resume(void *ctx, struct err *e)
{
	struct fixture *f = ctx;
	return answer(f, &f->resumes, e);
}

static int op_set_drive(
	void *ctx, size_t index, const struct drive *d, const char *path, struct err *e)
{
	struct fixture *f = ctx;
	return answer(f, &f->changes, e);
}

static int op_open_tap(const char *name, struct err *e)
{
	if (strcmp(name, "tap0") != 0)
		return err_set(e, ERR_NOT_FOUND, "Open tap device failed: %s", name);
	return open("/dev/null", O_RDWR | O_CLOEXEC);
}

static int op_create(
	void *ctx, const struct config *c, const struct snapshot_create *s, struct err *e)
{
	struct fixture *f = ctx;
	snprintf(f->asked.state, sizeof f->asked.state, "%s", s->state_path);
	snprintf(f->asked.memory, sizeof f->asked.memory, "%s", s->mem_path);
	f->asked.diff = s->diff;
	return answer(f, &f->creates, e);
}

static int op_load(void *ctx, const struct snapshot_load *l, struct config *ret, struct err *e)
{
	struct fixture *f = ctx;
	const char *tap = json_string_value(
		json_object_get(json_array_get(l->net_overrides, 0), "host_dev_name"));
	snprintf(f->asked.state, sizeof f->asked.state, "%s", l->state_path);
	snprintf(f->asked.memory, sizeof f->asked.memory, "%s", l->backend_path);
	snprintf(f->asked.tap, sizeof f->asked.tap, "%s", tap ? tap : "");
	f->asked.uffd = l->uffd;
	int rc = answer(f, &f->loads, e);
	if (rc == 0) {
		config_init(ret);
		ret->memory_mib = 77;
	}
	return rc;
}

static const struct machine_ops ops = {
	op_start, op_pause, op_resume, op_set_drive, op_create, op_load, op_open_tap};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof *f);
	snprintf(f->dir, sizeof f->dir, "/tmp/fcqemu-test-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->kernel, sizeof f->kernel, "%s/vmlinux", f->dir);
	snprintf(f->disk, sizeof f->disk, "%s/disk", f->dir);
	assert_int_equal(file_write_atomic(AT_FDCWD, f->kernel,
				 "\x7f"
				 "ELF...",
				 7, 0600),
		0);
	assert_int_equal(file_write_atomic(AT_FDCWD, f->disk, "disk", 4, 0600), 0);
	api_init(&f->api, "test", &ops, f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	api_done(&f->api);
	strbuf_done(&f->out);
	file_rm_rf(AT_FDCWD, f->dir);
	free(f);
	return 0;
}

static int call(struct fixture *f, enum http1_method m, const char *path, const char *fmt, ...)
	_printf_(4, 5);
static int call(struct fixture *f, enum http1_method m, const char *path, const char *fmt, ...)
{
	struct http1_request r = {.method = m};
	snprintf(r.path, sizeof r.path, "%s", path);
	va_list ap;
	va_start(ap, fmt);
	strbuf_addv(&r.body, fmt, ap);
	va_end(ap);
	r.has_body = r.body.len > 0;
	f->out.len = 0;
	api_handle(&f->api, &r, &f->out);
	http1_request_done(&r);
	assert_int_equal(sscanf(f->out.data, "HTTP/1.1 %d ", &f->status), 1);
	f->body = strstr(f->out.data, "\r\n\r\n") + 4;
	return f->status;
}

#define GET(f, path) call(f, HTTP1_GET, path, "%s", "")
#define PUT(f, path, ...) call(f, HTTP1_PUT, path, __VA_ARGS__)
#define PATCH(f, path, ...) call(f, HTTP1_PATCH, path, __VA_ARGS__)

static void assert_fault(struct fixture *f, const char *part)
{
	assert_int_equal(f->status, 400);
	assert_int_equal(strncmp(f->body, "{\"fault_message\":\"", 18), 0);
	if (!strstr(f->body, part))
		fail_msg("'%s' does not hold '%s'", f->body, part);
}

static void put_kernel(struct fixture *f)
{
	assert_int_equal(PUT(f, "/boot-source", "{\"kernel_image_path\": \"%s\"}", f->kernel), 204);
}

static void start(struct fixture *f)
{
	put_kernel(f);
	assert_int_equal(PUT(f, "/actions", "{\"action_type\": \"InstanceStart\"}"), 204);
}

static void tells_what_it_is(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(GET(f, "/"), 200);
	assert_string_equal(f->body,
		"{\"id\":\"test\",\"state\":\"Not started\",\"vmm_version\":\"1.16.1-fcqemu\","
		"\"app_name\":\"Firecracker\"}");
	assert_int_equal(GET(f, "/version"), 200);
	assert_string_equal(f->body, "{\"firecracker_version\":\"1.16.1-fcqemu\"}");
	assert_int_equal(GET(f, "/machine-config"), 200);
	assert_string_equal(f->body,
		"{\"vcpu_count\":1,\"mem_size_mib\":128,\"smt\":false,\"track_dirty_pages\":false,"
		"\"huge_pages\":\"None\"}");
}

// Every call of the table in every state: legal there, or refused with Firecracker's words.
static void calls_are_legal_in_their_states_only(void **state)
{
	struct fixture *f = *state;
	char boot[160], disk[160];
	snprintf(boot, sizeof boot, "{\"kernel_image_path\": \"%s\"}", f->kernel);
	snprintf(disk, sizeof disk,
		"{\"drive_id\": \"d\", \"is_root_device\": true, \"path_on_host\": \"%s\"}",
		f->disk);
	const struct {
		enum http1_method method;
		const char *path, *body;
		int before, running, paused;
	} cases[] = {
		{HTTP1_GET, "/", "", 200, 200, 200},
		{HTTP1_GET, "/version", "", 200, 200, 200},
		{HTTP1_GET, "/vm/config", "", 200, 200, 200},
		{HTTP1_GET, "/machine-config", "", 200, 200, 200},
		{HTTP1_PUT, "/machine-config", "{\"vcpu_count\":2,\"mem_size_mib\":64}", 204, 400,
			400},
		{HTTP1_PATCH, "/machine-config", "{\"mem_size_mib\":65}", 204, 400, 400},
		{HTTP1_PUT, "/boot-source", boot, 204, 400, 400},
		{HTTP1_PUT, "/drives/d", disk, 204, 400, 400},
		{HTTP1_PATCH, "/drives/d", "{\"drive_id\": \"d\", \"path_on_host\": \"/dev/null\"}",
			400, 204, 204},
		{HTTP1_PUT, "/network-interfaces/n",
			"{\"iface_id\": \"n\", \"host_dev_name\": \"tap0\"}", 204, 400, 400},
		{HTTP1_PATCH, "/network-interfaces/n", "{\"iface_id\": \"n\"}", 400, 204, 204},
		{HTTP1_PUT, "/entropy", "{}", 204, 400, 400},
		{HTTP1_PUT, "/logger", "{\"level\": \"debug\"}", 204, 400, 400},
		{HTTP1_PUT, "/metrics", "{\"metrics_path\": \"/dev/null\"}", 204, 400, 400},
		{HTTP1_PUT, "/actions", "{\"action_type\": \"FlushMetrics\"}", 400, 204, 204},
		{HTTP1_PUT, "/actions", "{\"action_type\": \"SendCtrlAltDel\"}", 400, 400, 400},
		{HTTP1_PATCH, "/vm", "{\"state\": \"Resumed\"}", 400, 204, 204},
		{HTTP1_PATCH, "/vm", "{\"state\": \"Paused\"}", 400, 204, 204},
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		assert_int_equal(call(f, cases[i].method, cases[i].path, "%s", cases[i].body),
			cases[i].before);
	GET(f, "/");
	assert_non_null(strstr(f->body, "Not started"));
	assert_int_equal(PUT(f, "/actions", "{\"action_type\": \"InstanceStart\"}"), 204);
	GET(f, "/");
	assert_non_null(strstr(f->body, "\"Running\""));
	PUT(f, "/actions", "{\"action_type\": \"InstanceStart\"}");
	assert_fault(f, "The requested operation is not supported after starting the microVM.");
	for (int paused = 0; paused < 2; paused++) {
		for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
			PATCH(f, "/vm", "{\"state\": \"%s\"}", paused ? "Paused" : "Resumed");
			assert_int_equal(
				call(f, cases[i].method, cases[i].path, "%s", cases[i].body),
				paused ? cases[i].paused : cases[i].running);
		}
	}
	GET(f, "/");
	assert_non_null(strstr(f->body, "\"Paused\""));
	assert_int_equal(f->starts, 1);
}

static void calls_before_start_say_so(void **state)
{
	struct fixture *f = *state;
	PATCH(f, "/vm", "{\"state\": \"Paused\"}");
	assert_fault(f, "The requested operation is not supported before starting the microVM.");
	assert_int_equal(f->pauses, 0);
	PUT(f, "/actions", "{\"action_type\": \"InstanceStart\"}");
	assert_fault(f, "Cannot start microvm without kernel configuration.");
}

static void machine_failures_reach_the_client_and_change_nothing(void **state)
{
	struct fixture *f = *state;
	put_kernel(f);
	f->fail = true;
	PUT(f, "/actions", "{\"action_type\": \"InstanceStart\"}");
	assert_fault(f, "the machine says no");
	GET(f, "/");
	assert_non_null(strstr(f->body, "Not started"));
	f->fail = false;
	start(f);
	f->fail = true;
	PATCH(f, "/vm", "{\"state\": \"Paused\"}");
	assert_fault(f, "the machine says no");
	GET(f, "/");
	assert_non_null(strstr(f->body, "\"Running\""));
}

static void shape_of_requests_is_checked(void **state)
{
	struct fixture *f = *state;
	call(f, HTTP1_GET, "/version", "{}");
	assert_fault(f, "GET request cannot have a body.");
	PUT(f, "/boot-source", "%s", "");
	assert_fault(f, "Empty PUT request.");
	PATCH(f, "/vm", "%s", "");
	assert_fault(f, "Empty PATCH request.");
	GET(f, "/nothing/there");
	assert_fault(f, "Invalid request method and/or path: GET nothing.");
	GET(f, "/actions");
	assert_fault(f, "Invalid request method and/or path: GET actions.");
	call(f, HTTP1_DELETE, "/drives/d", "%s", "");
	assert_fault(f, "not supported before starting the microVM.");
	call(f, HTTP1_DELETE, "/actions", "%s", "");
	assert_fault(f, "Invalid request method and/or path: DELETE actions.");
	// What follows the parts that it knows is not looked at.
	assert_int_equal(GET(f, "/version/more"), 200);
	assert_int_equal(GET(f, "//machine-config/"), 200);
	PUT(f, "/drives/a/b", "{}");
	assert_fault(f, "missing field `drive_id`");
	PUT(f, "/drives//b", "{}");
	assert_fault(f, "The ID cannot be empty.");
}

static void bodies_are_strict(void **state)
{
	static const struct {
		const char *path, *body, *fault;
	} cases[] = {
		{"/entropy", "[]", "invalid type: sequence, expected struct EntropyDeviceConfig."},
		{"/entropy", "{", "deserializing the json body"},
		{"/entropy", "{\"x\": 1}", "unknown field `x`, expected `rate_limiter`."},
		{"/machine-config", "{\"vcpu_count\": 1}", "missing field `mem_size_mib`"},
		{"/machine-config", "{\"vcpu_count\": \"1\", \"mem_size_mib\": 1}",
			"1\\\", expected u8."},
		{"/machine-config", "{\"vcpu_count\": -1, \"mem_size_mib\": 1}",
			"invalid value: integer `-1`, expected u8."},
		{"/machine-config", "{\"vcpu_count\": 1, \"vcpu_count\": 1, \"mem_size_mib\": 1}",
			"duplicate"},
		{"/machine-config", "{\"vcpu_count\": 0, \"mem_size_mib\": 1}",
			"The number of vCPUs must be greater than 0"},
		{"/machine-config", "{\"vcpu_count\": 33, \"mem_size_mib\": 1}",
			"The number of vCPUs must be greater than 0"},
		{"/machine-config", "{\"vcpu_count\": 1, \"mem_size_mib\": 0}",
			"Machine config error: The memory size (MiB) is either 0"},
		{"/boot-source", "{\"kernel_image_path\": null}",
			"invalid type: null, expected a string."},
		{"/boot-source", "{\"kernel_image_path\": \"/nowhere\"}",
			"The kernel file cannot be opened"},
		{"/boot-source", "{\"kernel_image_path\": \"a\\u0000b\"}",
			"deserializing the json body"},
		{"/logger", "{\"level\": \"loud\"}", "Invalid LevelFilter."},
		{"/logger", "{\"log_path\": \"/nowhere/log\"}",
			"Logger error: Failed to open target file: No such file or directory (os "
			"error 2)"},
		{"/actions", "{\"action_type\": \"Dance\"}", "unknown variant `Dance`"},
		{"/drives/d",
			"{\"drive_id\": \"d\", \"is_root_device\": 1, \"path_on_host\": \"/\"}",
			"invalid type: integer `1`, expected a boolean."},
	};
	struct fixture *f = *state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		PUT(f, cases[i].path, "%s", cases[i].body);
		assert_fault(f, cases[i].fault);
	}
	// What was wrong with the values, not with the body, closes the way to a load.
	assert_true(f->api.boot_path);
	PATCH(f, "/machine-config", "{}");
	assert_fault(f, "Empty PATCH request.");
	PATCH(f, "/machine-config", "{\"smt\": false, \"vcpu_count\": 3}");
	assert_int_equal(f->status, 204);
	assert_int_equal(f->api.config.vcpus, 3);
	assert_int_equal(f->api.config.memory_mib, 128);
	assert_true(f->api.boot_path);
}

// Asked for nothing: taken. Asked for something: refused with the name of the program and a reason.
static void what_cannot_be_honoured_is_refused(void **state)
{
#define MACHINE "{\"vcpu_count\": 1, \"mem_size_mib\": 1, "
#define DRIVE "{\"drive_id\": \"d\", \"is_root_device\": true, \"path_on_host\": \"/dev/null\", "
#define NIC "{\"iface_id\": \"n\", \"host_dev_name\": \"tap0\", "
#define BUCKET "{\"ops\": {\"size\": 1, \"refill_time\": 1}}"
	static const struct {
		const char *path, *start, *refused, *taken;
	} cases[] = {
		{"/machine-config", MACHINE, "\"smt\": true", "\"smt\": false"},
		{"/machine-config", MACHINE, "\"cpu_template\": \"T2\"",
			"\"cpu_template\": \"None\""},
		{"/machine-config", MACHINE, "\"huge_pages\": \"2M\"", "\"huge_pages\": \"None\""},
		{"/drives/d", DRIVE, "\"io_engine\": \"Async\"", "\"io_engine\": \"Sync\""},
		{"/drives/d", DRIVE, "\"rate_limiter\": " BUCKET, "\"rate_limiter\": null"},
		{"/drives/d", DRIVE, "\"socket\": \"/x\"", "\"socket\": null"},
		{"/network-interfaces/n", NIC, "\"rx_rate_limiter\": " BUCKET,
			"\"rx_rate_limiter\": null"},
		{"/network-interfaces/n", NIC, "\"tx_rate_limiter\": " BUCKET,
			"\"tx_rate_limiter\": null"},
		{"/entropy", "{", "\"rate_limiter\": " BUCKET, "\"rate_limiter\": null"},
		{"/logger", "{", "\"module\": \"x\"", "\"module\": null"},
		{"/logger", "{", "\"show_log_origin\": true", "\"show_log_origin\": false"},
	};
	struct fixture *f = *state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		PUT(f, cases[i].path, "%s%s}", cases[i].start, cases[i].refused);
		assert_fault(f, "fcqemu cannot honour the field");
		assert_int_equal(
			PUT(f, cases[i].path, "%s%s}", cases[i].start, cases[i].taken), 204);
	}
	static const char *const parts[] = {"/balloon", "/cpu-config", "/hotplug/memory", "/mmds",
		"/mmds/config", "/pmem/p", "/serial", "/vsock"};
	for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
		PUT(f, parts[i], "{}");
		assert_fault(f, "fcqemu does not offer");
	}
	start(f);
	PUT(f, "/actions", "{\"action_type\": \"SendCtrlAltDel\"}");
	assert_fault(f, "fcqemu cannot honour SendCtrlAltDel");
	PATCH(f, "/drives/d", "{\"drive_id\": \"d\", \"rate_limiter\": " BUCKET "}");
	assert_fault(f, "fcqemu cannot honour the field");
	PATCH(f, "/drives/d", "{\"drive_id\": \"d\"}");
	assert_fault(f, "Running method expected different backend.");
	PATCH(f, "/network-interfaces/n", "{\"iface_id\": \"n\", \"rx_rate_limiter\": " BUCKET "}");
	assert_fault(f, "fcqemu cannot honour the field");
	assert_int_equal(f->changes, 0);
}

static int put_drive(struct fixture *f, const char *id, bool root)
{
	char path[64];
	snprintf(path, sizeof path, "/drives/%s", id);
	return PUT(f, path,
		"{\"drive_id\": \"%s\", \"is_root_device\": %s, \"path_on_host\": \"%s\"}", id,
		root ? "true" : "false", f->disk);
}

static void drives_keep_one_root_in_first_place(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(put_drive(f, "data", false), 204);
	assert_int_equal(put_drive(f, "root", true), 204);
	assert_string_equal(f->api.config.drives[0].id, "root");
	assert_string_equal(f->api.config.drives[1].id, "data");
	put_drive(f, "other", true);
	assert_fault(f, "A root block device already exists!");
	assert_int_equal(put_drive(f, "root", true), 204); // replaces itself
	assert_int_equal(f->api.config.n_drives, 2);
	for (int i = 2; i < 14; i++) {
		char id[16];
		snprintf(id, sizeof id, "d%d", i);
		assert_int_equal(put_drive(f, id, false), 204);
	}
	put_drive(f, "one_more", false);
	assert_fault(f, "at most 14 drives");
}

static void ids_are_checked(void **state)
{
	struct fixture *f = *state;
	PUT(f, "/drives/a-b", "{}");
	assert_fault(
		f, "API Resource IDs can only contain alphanumeric characters and underscores.");
	PUT(f, "/drives/", "{}");
	assert_fault(f, "The ID cannot be empty.");
	PUT(f, "/drives", "{}");
	assert_fault(f, "The ID cannot be empty.");
	PUT(f, "/drives/a", DRIVE "\"is_read_only\": true}");
	assert_fault(f, "The id from the path does not match the id from the body!");
	PUT(f, "/network-interfaces/a", NIC "\"mtu\": 1500}");
	assert_fault(f, "does not match");
}

static void drive_files_are_opened_at_once(void **state)
{
	struct fixture *f = *state;
	PUT(f, "/drives/d",
		"{\"drive_id\": \"d\", \"is_root_device\": false, \"path_on_host\": \"/nowhere\"}");
	assert_fault(f, "Error manipulating the backing file: No such file or directory (os error "
			"2) /nowhere");
	assert_int_equal(f->api.config.n_drives, 0);
	put_drive(f, "d", true);
	start(f);
	PATCH(f, "/drives/d", "{\"drive_id\": \"d\", \"path_on_host\": \"/nowhere\"}");
	assert_fault(f, "Unable to patch the block device: Block: Virtio backend error: ");
	assert_fault(f, "(os error 2) /nowhere Please verify the request arguments.");
	PATCH(f, "/drives/other", "{\"drive_id\": \"other\", \"path_on_host\": \"/dev/null\"}");
	assert_fault(f, "Device not found");
	assert_int_equal(
		PATCH(f, "/drives/d", "{\"drive_id\": \"d\", \"path_on_host\": \"/dev/null\"}"),
		204);
	assert_int_equal(f->changes, 1);
	GET(f, "/vm/config");
	assert_non_null(strstr(f->body, "\"path_on_host\":\"/dev/null\""));
}

static void interfaces_are_checked(void **state)
{
	struct fixture *f = *state;
	static const struct {
		const char *rest, *fault;
	} cases[] = {
		{"\"guest_mac\": \"zz:00:00:00:00:00\"}", "The provided MAC address is invalid"},
		{"\"guest_mac\": \"06:00:00:00:00:001\"}", "The provided MAC address is invalid"},
		{"\"mtu\": 67}", "MTU 67 is out of range [68, 65535]"},
		{"\"mtu\": 65536}", "invalid value: integer `65536`, expected u16"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		PUT(f, "/network-interfaces/n", NIC "%s", cases[i].rest);
		assert_fault(f, cases[i].fault);
	}
	PUT(f, "/network-interfaces/n",
		"{\"iface_id\": \"n\", \"host_dev_name\": \"0123456789abcdef\"}");
	assert_fault(f, "Open tap device failed: Invalid interface name");
	PUT(f, "/network-interfaces/n", "{\"iface_id\": \"n\", \"host_dev_name\": \"tap9\"}");
	assert_fault(f, "Open tap device failed: tap9");
	assert_int_equal(f->api.config.n_nics, 0);
	assert_int_equal(
		PUT(f, "/network-interfaces/n", NIC "\"guest_mac\": \"06:00:00:00:00:01\"}"), 204);
	int fd = f->api.config.nics[0].tap_fd;
	// Again with the same tap: it stays open, as it cannot be opened twice.
	assert_int_equal(PUT(f, "/network-interfaces/n", NIC "\"mtu\": 1400}"), 204);
	assert_int_equal(f->api.config.nics[0].tap_fd, fd);
	assert_int_equal(
		PUT(f, "/network-interfaces/n", NIC "\"guest_mac\": \"06:00:00:00:00:01\"}"), 204);
	PUT(f, "/network-interfaces/m",
		"{\"iface_id\": \"m\", \"host_dev_name\": \"tap0\", \"guest_mac\": "
		"\"06:00:00:00:00:01\"}");
	assert_fault(f, "The MAC address is already in use: 06:00:00:00:00:01");
}

static void logs_and_metrics_are_written(void **state)
{
	struct fixture *f = *state;
	_cleanup_strbuf_ struct strbuf text = {0};
	char path[128];
	assert_int_equal(
		PUT(f, "/logger",
			"{\"log_path\": \"%s/log\", \"level\": \"Info\", \"show_level\": true}",
			f->dir),
		204);
	assert_int_equal(PUT(f, "/metrics", "{\"metrics_path\": \"%s/metrics\"}", f->dir), 204);
	PUT(f, "/metrics", "{\"metrics_path\": \"%s/metrics\"}", f->dir);
	assert_fault(f, "Reinitialization of metrics not allowed.");
	start(f);
	assert_int_equal(PUT(f, "/actions", "{\"action_type\": \"FlushMetrics\"}"), 204);
	snprintf(path, sizeof path, "%s/log", f->dir);
	assert_int_equal(file_read(AT_FDCWD, path, 1 << 20, &text), 0);
	assert_non_null(strstr(
		text.data, "[test:INFO] The API server received a PUT request on \"/actions\"."));
	assert_non_null(strstr(text.data, "[test:ERROR] Status code: 400."));
	snprintf(path, sizeof path, "%s/metrics", f->dir);
	strbuf_done(&text);
	assert_int_equal(file_read(AT_FDCWD, path, 1 << 20, &text), 0);
	json_t *j = json_loads(text.data, 0, NULL);
	assert_true(json_is_object(json_object_get(j, "latencies_us")));
	json_decref(j);
}

static void configuration_is_shown(void **state)
{
	struct fixture *f = *state;
	put_kernel(f);
	put_drive(f, "root", true);
	PUT(f, "/network-interfaces/n", NIC "\"guest_mac\": \"06:00:00:00:00:01\"}");
	PUT(f, "/entropy", "{}");
	assert_int_equal(GET(f, "/vm/config"), 200);
	json_t *j = json_loads(f->body, 0, NULL);
	const char *args =
		json_string_value(json_object_get(json_object_get(j, "boot-source"), "boot_args"));
	assert_int_equal(strncmp(args, "reboot=k panic=1 nomodule", 25), 0);
	assert_int_equal(json_array_size(json_object_get(j, "drives")), 1);
	assert_int_equal(json_array_size(json_object_get(j, "network-interfaces")), 1);
	assert_true(json_is_object(json_object_get(j, "entropy")));
	assert_true(json_is_null(json_object_get(j, "vsock")));
	json_decref(j);
}

#define CREATE "{\"snapshot_path\": \"/s\", \"mem_file_path\": \"/m\""
#define LOAD "{\"snapshot_path\": \"/s\", "
#define BY_FILE LOAD "\"mem_backend\": {\"backend_type\": \"File\", \"backend_path\": \"/m\"}"

static void snapshots_are_created_while_paused_only(void **state)
{
	struct fixture *f = *state;
	PUT(f, "/snapshot/create", CREATE "}");
	assert_fault(f, "not supported before starting");
	put_kernel(f);
	start(f);
	PUT(f, "/snapshot/create", CREATE "}");
	assert_fault(f, "save/restore unavailable while running");
	assert_int_equal(PATCH(f, "/vm", "{\"state\": \"Paused\"}"), 204);
	assert_int_equal(PUT(f, "/snapshot/create", CREATE "}"), 204);
	assert_false(f->asked.diff); // Full unless asked otherwise
	assert_string_equal(f->asked.state, "/s");
	assert_string_equal(f->asked.memory, "/m");
	assert_int_equal(PUT(f, "/snapshot/create", CREATE ", \"snapshot_type\": \"Diff\"}"), 204);
	assert_true(f->asked.diff);
	assert_int_equal(f->creates, 2);
	static const struct {
		const char *body, *fault;
	} cases[] = {
		{CREATE ", \"snapshot_type\": \"Half\"}", "expected `Diff` or `Full`"},
		{CREATE ", \"version\": \"1.0.0\"}", "unknown field `version`"},
		{"{\"snapshot_path\": \"/s\"}", "missing field `mem_file_path`"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		PUT(f, "/snapshot/create", "%s", cases[i].body);
		assert_fault(f, cases[i].fault);
	}
	f->fail = true;
	PUT(f, "/snapshot/create", CREATE "}");
	assert_fault(f, "Create snapshot error: the machine says no");
	f->fail = false;
	assert_false(f->api.ended);
	assert_int_equal(f->api.state, API_PAUSED);
	assert_int_equal(f->creates, 2);
	assert_int_equal(PATCH(f, "/vm", "{\"state\": \"Resumed\"}"), 204);
	PUT(f, "/snapshot/load", BY_FILE "}");
	assert_fault(f, "not supported after starting");
	assert_false(f->api.ended);
}

static void loaded_machines_are_paused_and_shown(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(PUT(f, "/snapshot/load",
				 BY_FILE ", \"track_dirty_pages\": true, \"network_overrides\": "
					 "[{\"iface_id\": \"n\", \"host_dev_name\": \"tap7\"}]}"),
		204);
	assert_null(strstr(f->out.data, "Deprecation"));
	assert_int_equal(f->api.state, API_PAUSED);
	assert_int_equal(f->resumes, 0);
	assert_string_equal(f->asked.memory, "/m");
	assert_string_equal(f->asked.tap, "tap7");
	assert_false(f->asked.uffd);
	GET(f, "/vm/config");
	assert_non_null(strstr(f->body, "\"mem_size_mib\":77"));
	assert_non_null(strstr(f->body, "\"track_dirty_pages\":true"));
	assert_non_null(strstr(f->body, "\"boot-source\":{\"kernel_image_path\":\"\""));
	PUT(f, "/snapshot/load", BY_FILE "}");
	assert_fault(f, "not supported after starting");
	assert_int_equal(PATCH(f, "/vm", "{\"state\": \"Resumed\"}"), 204);
}

static void a_load_can_resume(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(PUT(f, "/snapshot/load",
				 LOAD "\"mem_backend\": {\"backend_type\": \"Uffd\", "
				      "\"backend_path\": \"/sock\"}, \"resume_vm\": true}"),
		204);
	assert_true(f->asked.uffd);
	assert_string_equal(f->asked.memory, "/sock");
	assert_int_equal(f->resumes, 1);
	assert_int_equal(f->api.state, API_RUNNING);
}

static void the_old_memory_field_is_deprecated(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(PUT(f, "/snapshot/load", LOAD "\"mem_file_path\": \"/old\"}"), 204);
	assert_non_null(strstr(f->out.data, "Deprecation: true"));
	assert_string_equal(f->asked.memory, "/old");
	assert_false(f->asked.uffd);
}

// What is wrong with the request costs nothing: another may follow.
static void load_bodies_are_strict(void **state)
{
	static const struct {
		const char *body, *fault;
	} cases[] = {
		{LOAD "\"resume_vm\": true}", "`mem_backend` or `mem_file_path` is required"},
		{BY_FILE ", \"mem_file_path\": \"/m\"}", "exclusively"},
		{BY_FILE ", \"hello\": 1}", "unknown field `hello`"},
		{LOAD "\"mem_backend\": {\"backend_type\": \"Tape\", \"backend_path\": \"/m\"}}",
			"unknown variant `Tape`"},
		{LOAD "\"mem_backend\": {\"backend_type\": \"File\", \"backend_path\": \"/m\", "
		      "\"x\": 1}}",
			"unknown field `x`"},
		{LOAD "\"mem_backend\": {\"backend_type\": \"File\"}}",
			"missing field `backend_path`"},
		{LOAD "\"mem_backend\": \"/m\"}", "/m\\\", expected struct MemBackendConfig."},
		{BY_FILE ", \"network_overrides\": {}}", "invalid type: map, expected a sequence."},
		{BY_FILE ", \"vsock_override\": {\"uds_path\": \"/v\"}}", "no vsock"},
		{BY_FILE ", \"clock_realtime\": true}", "fcqemu cannot honour"},
		{BY_FILE ", \"huge_pages\": \"2M\"}", "unknown field `huge_pages`"},
		{BY_FILE ", \"resume_vm\": null}", "invalid type: null, expected a boolean."},
		{BY_FILE ", \"network_overrides\": [{\"iface_id\": \"n\"}]}",
			"missing field `host_dev_name`"},
	};
	struct fixture *f = *state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		PUT(f, "/snapshot/load", "%s", cases[i].body);
		assert_fault(f, cases[i].fault);
	}
	assert_false(f->api.ended);
	assert_int_equal(f->loads, 0);
	assert_int_equal(PUT(f, "/snapshot/load",
				 BY_FILE ", \"clock_realtime\": false, "
					 "\"vsock_override\": null}"),
		204);
}

static void nothing_may_be_configured_before_a_load(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(PUT(f, "/entropy", "{}"), 204);
	PUT(f, "/snapshot/load", BY_FILE "}");
	assert_fault(f, "not allowed after configuring boot-specific resources");
	assert_false(f->api.ended);
	assert_int_equal(f->loads, 0);
}

static void a_failed_load_ends_the_process(void **state)
{
	struct fixture *f = *state;
	f->fail = true;
	PUT(f, "/snapshot/load", BY_FILE "}");
	assert_fault(
		f, "Load snapshot error: Failed to restore from snapshot: the machine says no");
	assert_true(f->api.ended);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(tells_what_it_is),
		TEST(calls_are_legal_in_their_states_only),
		TEST(calls_before_start_say_so),
		TEST(machine_failures_reach_the_client_and_change_nothing),
		TEST(shape_of_requests_is_checked),
		TEST(bodies_are_strict),
		TEST(what_cannot_be_honoured_is_refused),
		TEST(drives_keep_one_root_in_first_place),
		TEST(ids_are_checked),
		TEST(drive_files_are_opened_at_once),
		TEST(interfaces_are_checked),
		TEST(logs_and_metrics_are_written),
		TEST(configuration_is_shown),
		TEST(snapshots_are_created_while_paused_only),
		TEST(loaded_machines_are_paused_and_shown),
		TEST(a_load_can_resume),
		TEST(the_old_memory_field_is_deprecated),
		TEST(load_bodies_are_strict),
		TEST(nothing_may_be_configured_before_a_load),
		TEST(a_failed_load_ends_the_process),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
