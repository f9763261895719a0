// SPDX-License-Identifier: Apache-2.0
// The client against a model of the VMM that records each request; the real ones (fcqemu, and
// Firecracker when STASIS_FIRECRACKER is set) are met in the integration tests.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <string.h>
#include "base/json.h"
#include "http/server.h"
#include "vmm/vmm.h"

struct model {
	char dir[64], sock[96];
	struct http_server *server;
	struct vmm *vmm;
	const char *version;
	char method[8], path[64];
	json_t *body, *processor; // of the last, of the last PUT /cpu-config
	int status;		  // of the next answer
	const char *answer;
};

static void on_any(struct http_request *r, void *ctx)
{
	struct model *m = ctx;
	size_t n;
	const char *b = http_req_body(r, &n);
	snprintf(m->method, sizeof m->method, "%s", http_req_method(r));
	snprintf(m->path, sizeof m->path, "%s", http_req_path(r));
	if (str_eq(m->path, "/version")) {
		http_reply_json(r, 200, json_pack("{s:s}", "firecracker_version", m->version));
		return;
	}
	json_decref(m->body);
	m->body = n ? json_loadb(b, n, 0, NULL) : NULL;
	if (str_eq(m->path, "/cpu-config")) {
		json_decref(m->processor);
		m->processor = json_incref(m->body);
	}
	if (m->answer)
		http_reply_data(r, m->status, "application/json", m->answer, strlen(m->answer));
	else
		http_reply_empty(r, m->status);
}

static const struct http_route routes[] = {
	{.method = "*", .pattern = "/{rest...}", .handler = on_any},
	{.method = "*", .pattern = "/", .handler = on_any},
};

static int setup(void **state)
{
	struct model *m = calloc(1, sizeof *m);
	struct err e = {0};
	*state = m;
	snprintf(m->dir, sizeof m->dir, "/tmp/vmm-test-XXXXXX");
	assert_non_null(mkdtemp(m->dir));
	snprintf(m->sock, sizeof m->sock, "%s/api.sock", m->dir);
	m->status = 204;
	m->version = "1.16.1";
	struct http_server_config cfg = {
		.routes = routes, .n_routes = ARRAY_SIZE(routes), .ctx = m};
	cfg.listen_fd = http_listen_unix(m->sock, 0600, &e);
	assert_true(cfg.listen_fd >= 0);
	assert_int_equal(http_server_start(&cfg, &m->server, &e), 0);
	assert_int_equal(vmm_new(m->sock, &m->vmm, &e), 0);
	return 0;
}

static int teardown(void **state)
{
	struct model *m = *state;
	vmm_free(m->vmm);
	http_server_free(m->server);
	json_decref(m->body);
	json_decref(m->processor);
	unlink(m->sock);
	rmdir(m->dir);
	free(m);
	return 0;
}

static const char *text(const struct model *m, const char *key)
{
	return json_string_value(json_object_get(m->body, key));
}

static void requests_have_the_shape_of_the_api(void **state)
{
	struct model *m = *state;
	struct err e = {0};
	struct vmm_machine machine = {.vcpus = 2, .memory_mib = 512, .track_dirty = true};
	assert_int_equal(vmm_put_machine(m->vmm, &machine, &e), 0);
	assert_string_equal(m->method, "PUT");
	assert_string_equal(m->path, "/machine-config");
	assert_int_equal(json_integer_value(json_object_get(m->body, "mem_size_mib")), 512);
	assert_true(json_is_false(json_object_get(m->body, "smt")));
	struct vmm_drive drive = {.id = "rootfs", .path = "/rootfs.img", .root = true};
	assert_int_equal(vmm_put_drive(m->vmm, &drive, &e), 0);
	assert_string_equal(m->path, "/drives/rootfs");
	assert_string_equal(text(m, "path_on_host"), "/rootfs.img");
	assert_int_equal(vmm_pause(m->vmm, &e), 0);
	assert_string_equal(m->method, "PATCH");
	assert_string_equal(text(m, "state"), "Paused");
	assert_int_equal(vmm_snapshot_create(m->vmm, "/s", "/m", true, &e), 0);
	assert_string_equal(text(m, "snapshot_type"), "Diff");
	assert_null(json_object_get(m->body, "version")); // removed in 1.6: sending it is a 400
}

// Bit 5 of CPUID 1's ecx, and bit 2 of 80000001h's.
static void firecrackers_guests_have_no_virtualisation(void **state)
{
	static const struct {
		const char *version;
		bool asked;
	} t[] = {
		{"1.12.0", true}, {"1.14.4", true}, {"1.17.0-dev", true}, {"1.16.1-fcqemu", false}};
	struct model *m = *state;
	struct vmm_machine machine = {.vcpus = 1, .memory_mib = 128};
	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		struct err e = {0};
		m->version = t[i].version;
		m->vmm = vmm_free(m->vmm);
		json_decref(m->processor);
		m->processor = NULL;
		assert_int_equal(vmm_new(m->sock, &m->vmm, &e), 0);
		assert_int_equal(vmm_put_machine(m->vmm, &machine, &e), 0);
		assert_string_equal(m->path, "/machine-config");
		assert_int_equal(m->processor != NULL, t[i].asked);
		json_t *leaves = json_object_get(m->processor, "cpuid_modifiers");
		for (size_t j = 0; t[i].asked && j < 2; j++) {
			json_t *leaf = json_array_get(leaves, j);
			json_t *ecx = json_array_get(json_object_get(leaf, "modifiers"), 0);
			const char *bits = json_string_value(json_object_get(ecx, "bitmap"));
			assert_string_equal(json_string_value(json_object_get(leaf, "leaf")),
				j == 0 ? "0x1" : "0x80000001");
			assert_int_equal(strlen(bits), 2 + 32);
			for (int bit = 0; bit < 32; bit++)
				assert_int_equal(
					bits[2 + 31 - bit], bit == (j == 0 ? 5 : 2) ? '0' : 'x');
		}
	}
}

static void errors_carry_method_path_status_and_body(void **state)
{
	struct model *m = *state;
	struct err e = {0};
	struct vmm_drive drive = {.id = "rootfs", .path = "/nowhere", .root = true};
	m->status = 400;
	m->answer = "{\"fault_message\":\"no such file\"}\n";
	assert_int_equal(vmm_put_drive(m->vmm, &drive, &e), -EIO);
	assert_string_equal(
		e.text, "PUT /drives/rootfs: status 400: {\"fault_message\":\"no such file\"}");
	m->status = 503;
	m->answer = NULL;
	assert_int_equal(vmm_start(m->vmm, &e), -EIO);
	assert_string_equal(e.text, "PUT /actions: status 503: (no body)");
}

static void fields_follow_the_version(void **state)
{
	struct model *m = *state;
	struct err e = {0};
	struct vmm_load load = {.state_path = "/s",
		.backend = VMM_BACKEND_UFFD,
		.backend_path = "/p",
		.track_dirty = true,
		.resume = true};
	m->version = "1.12.0";
	assert_int_equal(vmm_snapshot_load(m->vmm, &load, &e), 0);
	assert_true(json_is_true(json_object_get(m->body, "enable_diff_snapshots")));
	assert_null(json_object_get(m->body, "track_dirty_pages"));
	json_t *backend = json_object_get(m->body, "mem_backend");
	assert_string_equal(json_string_value(json_object_get(backend, "backend_type")), "Uffd");
	assert_null(json_object_get(m->body, "network_overrides"));
}

static void new_names_go_to_new_versions(void **state)
{
	struct model *m = *state;
	struct err e = {0};
	struct vmm_load load = {.state_path = "/s", .backend_path = "/m", .track_dirty = true};
	m->version = "1.13.1";
	assert_int_equal(vmm_snapshot_load(m->vmm, &load, &e), 0);
	assert_true(json_is_true(json_object_get(m->body, "track_dirty_pages")));
	assert_null(json_object_get(m->body, "enable_diff_snapshots"));
}

static void discard_is_asked_of_versions_that_have_it(void **state)
{
	static const struct {
		const char *version;
		bool read_only, asked, can;
	} t[] = {
		{"1.16.9", false, false, false}, {"1.17.0", false, true, true},
		{"1.17.0", true, false, true}, {"2.0.1", false, true, true},
		// Of main, months before the field was there; a later one; one of a release's
		// branch.
		{"1.17.0-dev", false, false, false}, {"1.17.0-rc1", false, false, false},
		{"1.17.1-dev", false, true, true}, {"1.18.0-dev", false, true, true},
		{"1.17.0-5-g1234567", false, true, true}, {"0.25.2", false, false, false},
		{"1.16.1-fcqemu", false, false, true}, // does it unasked
	};
	struct model *m = *state;
	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		struct err e = {0};
		struct vmm_drive drive = {
			.id = "rootfs", .path = "/rootfs.img", .read_only = t[i].read_only};
		struct vmm_version version;
		m->version = t[i].version;
		m->vmm = vmm_free(m->vmm);
		assert_int_equal(vmm_new(m->sock, &m->vmm, &e), 0);
		assert_int_equal(vmm_put_drive(m->vmm, &drive, &e), 0);
		json_t *discard = json_object_get(m->body, "discard");
		assert_true(t[i].asked ? json_is_true(discard) : discard == NULL);
		assert_int_equal(vmm_get_version(m->vmm, &version, &e), 0);
		assert_int_equal(vmm_can_discard(&version), t[i].can);
	}
}

// How the guest resets is what ends the VMM: Firecracker by the keyboard controller, QEMU by a
// triple fault.
static void boot_args_are_those_of_the_vmm(void **state)
{
	static const char image[] = "console=ttyS0 quiet reboot=t panic=-1 pci=off x";
	static const struct {
		const char *version, *args, *sent;
	} t[] = {
		{"1.16.1", image, "reboot=k no-kvmapf console=ttyS0 quiet panic=-1 x"},
		{"1.13.0", image, "reboot=k no-kvmapf console=ttyS0 quiet panic=-1 x"},
		{"1.12.9", image, "reboot=k no-kvmapf console=ttyS0 quiet panic=-1 pci=off x"},
		{"1.16.1-fcqemu", image, image},
		{"1.17.0-dev", "", "reboot=k no-kvmapf"},
		{"1.16.1", "reboot=t", "reboot=k no-kvmapf"},
		{"1.16.1", "  a  pci=off  reboot=a,b b ", "reboot=k no-kvmapf a b"},
		{"1.16.1", "xreboot=t pci=offer pci=of",
			"reboot=k no-kvmapf xreboot=t pci=offer pci=of"},
		{"1.16.1", "a -- reboot=t pci=off", "reboot=k no-kvmapf a -- reboot=t pci=off"},
	};
	struct model *m = *state;
	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		struct err e = {0};
		m->version = t[i].version;
		m->vmm = vmm_free(m->vmm);
		assert_int_equal(vmm_new(m->sock, &m->vmm, &e), 0);
		const struct vmm_boot boot = {.kernel = "/vmlinux", .args = t[i].args};
		assert_int_equal(vmm_put_boot(m->vmm, &boot, &e), 0);
		assert_string_equal(m->path, "/boot-source");
		assert_string_equal(text(m, "boot_args"), t[i].sent);
	}
}

static void a_missing_socket_is_an_error_with_the_call(void **state)
{
	struct vmm *v = NULL;
	struct err e = {0};
	enum vmm_state s;
	assert_int_equal(vmm_new("/nonexistent/api.sock", &v, &e), 0);
	assert_true(vmm_get_state(v, &s, &e) < 0);
	assert_non_null(strstr(e.text, "GET /"));
	vmm_free(v);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(requests_have_the_shape_of_the_api),
		T(firecrackers_guests_have_no_virtualisation),
		T(errors_carry_method_path_status_and_body),
		T(fields_follow_the_version),
		T(new_names_go_to_new_versions),
		T(discard_is_asked_of_versions_that_have_it),
		T(boot_args_are_those_of_the_vmm),
		cmocka_unit_test(a_missing_socket_is_an_error_with_the_call),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
