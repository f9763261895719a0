// SPDX-License-Identifier: Apache-2.0
#include "vmm/vmm.h"
#include <string.h>
#include "base/json.h"
#include "http/client.h"
#include "vmm/limits.h"

// Time-outs by kind of call, milliseconds. Emulated guests and busy hosts are slow; a snapshot of a
// large guest has been seen to take half a minute on a slow disk, so create has minutes.
enum {
	T_QUERY = 5000,
	T_CONFIG = 10000,
	T_START = 60000,
	T_STATE = VMM_STATE_CALL_MS,
	T_SNAPSHOT = 600000,
	T_LOAD = 60000,
};

struct vmm {
	struct http_client *http;
	struct vmm_version version;
	bool version_known;
};

int vmm_new(const char *socket_path, struct vmm **ret, struct err *e)
{
	_cleanup_(vmm_freep) struct vmm *v = calloc(1, sizeof *v);
	if (!v)
		return err_errno(e, ENOMEM, "VMM client");
	struct http_client_config cfg = {.unix_path = socket_path, .base_url = "http://localhost"};
	int rc = http_client_new(&cfg, &v->http, e);
	if (rc < 0)
		return rc;
	*ret = TAKE_PTR(v);
	return 0;
}

struct vmm *vmm_free(struct vmm *v)
{
	if (v)
		http_client_free(v->http);
	free(v);
	return NULL;
}

// Steals body. An answer outside 2xx becomes "METHOD /path: status N: body".
static int call(struct vmm *v, const char *method, const char *path, json_t *body, int timeout_ms,
	json_t **ret, struct err *e)
{
	_cleanup_json_ _unused_ json_t *owned = body;
	_cleanup_free_ char *text = NULL;
	_cleanup_(http_response_done) struct http_response r = {0};
	if (body && !(text = json_compact(body)))
		return err_errno(e, ENOMEM, "%s %s", method, path);
	struct http_call c = {.method = method,
		.path = path,
		.body = text,
		.body_len = text ? strlen(text) : 0,
		.timeout_ms = timeout_ms,
		.max_body = 1u << 20};
	int rc = http_client_call(v->http, &c, &r, e);
	if (rc < 0)
		return rc; // http names method and path
	if (r.status < 200 || r.status > 299) {
		while (r.body.len && (unsigned char)r.body.data[r.body.len - 1] <= ' ')
			r.body.data[--r.body.len] = '\0';
		return err_set(e, ERR_INTERNAL, "%s %s: status %d: %s", method, path, r.status,
			r.body.len ? r.body.data : "(no body)");
	}
	if (ret && !(*ret = http_response_json(&r)))
		return err_set(e, ERR_INTERNAL, "%s %s: answer is not JSON", method, path);
	return 0;
}

static int put(struct vmm *v, const char *path, json_t *body, int timeout_ms, struct err *e)
{
	if (!body)
		return err_errno(e, ENOMEM, "PUT %s", path);
	return call(v, "PUT", path, body, timeout_ms, NULL, e);
}

int vmm_get_version(struct vmm *v, struct vmm_version *ret, struct err *e)
{
	if (!v->version_known) {
		_cleanup_json_ json_t *j = NULL;
		int rc = call(v, "GET", "/version", NULL, T_QUERY, &j, e);
		if (rc < 0)
			return rc;
		const char *s = json_string_value(json_object_get(j, "firecracker_version"));
		if (!s || !vmm_version_parse(s, &v->version))
			return err_set(e, ERR_INTERNAL,
				"GET /version: no version in the answer of the VMM");
		v->version_known = true;
	}
	*ret = v->version;
	return 0;
}

static int get_state(struct vmm *v, int timeout_ms, enum vmm_state *ret, struct err *e)
{
	_cleanup_json_ json_t *j = NULL;
	int rc = call(v, "GET", "/", NULL, timeout_ms, &j, e);
	if (rc < 0)
		return rc;
	const char *s = json_string_value(json_object_get(j, "state"));
	if (str_eq(s, "Not started"))
		*ret = VMM_NOT_STARTED;
	else if (str_eq(s, "Running"))
		*ret = VMM_RUNNING;
	else if (str_eq(s, "Paused"))
		*ret = VMM_PAUSED;
	else
		return err_set(e, ERR_INTERNAL, "GET /: unknown state '%s'", s ? s : "");
	return 0;
}

int vmm_get_state(struct vmm *v, enum vmm_state *ret, struct err *e)
{
	return get_state(v, T_QUERY, ret, e);
}

int vmm_wait_idle(struct vmm *v, enum vmm_state *ret, struct err *e)
{
	return get_state(v, T_SNAPSHOT, ret, e);
}

// A template of Firecracker's for both vendors: guests do not see that their processor can run
// guests itself (CPUID 1, ecx bit 5: VMX; CPUID 80000001h, ecx bit 2: SVM), and where they do not
// KVM lets them not use it. Nothing but that is changed. fcqemu leaves it out unasked.
static int hide_virtualisation(struct vmm *v, struct err *e)
{
	struct vmm_version version;
	int rc = vmm_get_version(v, &version, e);
	if (rc < 0 || version.fcqemu)
		return rc;
	return put(v, "/cpu-config",
		json_pack("{s:[{s:s, s:s, s:i, s:[{s:s, s:s}]}, {s:s, s:s, s:i, s:[{s:s, s:s}]}]}",
			"cpuid_modifiers", "leaf", "0x1", "subleaf", "0x0", "flags", 0, "modifiers",
			"register", "ecx", "bitmap", "0bxxxxxxxxxxxxxxxxxxxxxxxxxx0xxxxx", "leaf",
			"0x80000001", "subleaf", "0x0", "flags", 0, "modifiers", "register", "ecx",
			"bitmap", "0bxxxxxxxxxxxxxxxxxxxxxxxxxxxxx0xx"),
		T_CONFIG, e);
}

int vmm_put_machine(struct vmm *v, const struct vmm_machine *m, struct err *e)
{
	int rc = hide_virtualisation(v, e);
	if (rc < 0)
		return rc;
	return put(v, "/machine-config",
		json_pack("{s:i, s:i, s:b, s:b}", "vcpu_count", (int)m->vcpus, "mem_size_mib",
			(int)m->memory_mib, "smt", 0, "track_dirty_pages", (int)m->track_dirty),
		T_CONFIG, e);
}

// Firecracker ends when its guest resets by the keyboard controller, which is all that it has of
// one. A triple fault ("reboot=t", which ends QEMU's machine) is an error to it. What follows "--"
// is for the guest's first process. "no-kvmapf": a page that the pager brings is waited for. KVM
// would tell the guest by an interrupt that it has come (asynchronous page faults); guests that had
// been loaded were seen (nested KVM, Linux 6.12 on QEMU 7.2) that got it twice, or waited for it
// for ever.
static char *firecracker_args(const struct vmm_version *version, const char *args)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	strbuf_adds(&b, "reboot=k no-kvmapf");
	for (const char *p = args; *p;) {
		size_t len = strcspn(p, " ");
		if (str_starts(p, "-- ")) {
			strbuf_addf(&b, " %s", p);
			break;
		}
		bool reset = len >= 7 && memcmp(p, "reboot=", 7) == 0;
		bool pci = len == 7 && memcmp(p, "pci=off", 7) == 0;
		if (len && !reset && !(pci && vmm_adds_pci_off(version)))
			strbuf_addf(&b, " %.*s", (int)len, p);
		p += len + (p[len] == ' ');
	}
	return strbuf_steal(&b);
}

int vmm_put_boot(struct vmm *v, const struct vmm_boot *b, struct err *e)
{
	struct vmm_version version;
	int rc = vmm_get_version(v, &version, e);
	if (rc < 0)
		return rc;
	_cleanup_free_ char *args =
		version.fcqemu ? strdup(b->args) : firecracker_args(&version, b->args);
	if (!args)
		return err_errno(e, ENOMEM, "PUT /boot-source");
	json_t *j = json_pack("{s:s, s:s}", "kernel_image_path", b->kernel, "boot_args", args);
	if (j && b->initrd)
		json_object_set_new(j, "initrd_path", json_string(b->initrd));
	return put(v, "/boot-source", j, T_CONFIG, e);
}

int vmm_put_drive(struct vmm *v, const struct vmm_drive *d, struct err *e)
{
	char path[96];
	if (str_format(path, sizeof path, "/drives/%s", d->id) < 0)
		return err_set(e, ERR_INVALID, "drive id too long");
	struct vmm_version version;
	int rc = vmm_get_version(v, &version, e);
	if (rc < 0)
		return rc;
	json_t *j = json_pack("{s:s, s:s, s:b, s:b}", "drive_id", d->id, "path_on_host", d->path,
		"is_root_device", (int)d->root, "is_read_only", (int)d->read_only);
	// fcqemu does it anyway. Older ones refuse the field.
	if (j && !d->read_only && vmm_can_discard(&version) && !version.fcqemu)
		json_object_set_new(j, "discard", json_true());
	return put(v, path, j, T_CONFIG, e);
}

int vmm_patch_drive(struct vmm *v, const char *id, const char *path_on_host, struct err *e)
{
	char path[96];
	if (str_format(path, sizeof path, "/drives/%s", id) < 0)
		return err_set(e, ERR_INVALID, "drive id too long");
	return call(v, "PATCH", path,
		json_pack("{s:s, s:s}", "drive_id", id, "path_on_host", path_on_host), T_STATE,
		NULL, e);
}

int vmm_put_net(struct vmm *v, const struct vmm_net *n, struct err *e)
{
	char path[96];
	if (str_format(path, sizeof path, "/network-interfaces/%s", n->id) < 0)
		return err_set(e, ERR_INVALID, "interface id too long");
	return put(v, path,
		json_pack("{s:s, s:s, s:s}", "iface_id", n->id, "host_dev_name", n->tap,
			"guest_mac", n->mac),
		T_CONFIG, e);
}

int vmm_put_entropy(struct vmm *v, struct err *e)
{
	struct vmm_version ver;
	int rc = vmm_get_version(v, &ver, e);
	if (rc < 0 || !vmm_at_least(&ver, 1, 4, 0))
		return rc; // older ones have no such device; the guest then relies on its CPU
	return put(v, "/entropy", json_object(), T_CONFIG, e);
}

int vmm_start(struct vmm *v, struct err *e)
{
	return put(v, "/actions", json_pack("{s:s}", "action_type", "InstanceStart"), T_START, e);
}

static int set_state(struct vmm *v, const char *state, struct err *e)
{
	return call(v, "PATCH", "/vm", json_pack("{s:s}", "state", state), T_STATE, NULL, e);
}

int vmm_pause(struct vmm *v, struct err *e)
{
	return set_state(v, "Paused", e);
}

int vmm_resume(struct vmm *v, struct err *e)
{
	return set_state(v, "Resumed", e);
}

int vmm_snapshot_create(
	struct vmm *v, const char *state_path, const char *mem_path, bool diff, struct err *e)
{
	return put(v, "/snapshot/create",
		json_pack("{s:s, s:s, s:s}", "snapshot_type", diff ? "Diff" : "Full",
			"snapshot_path", state_path, "mem_file_path", mem_path),
		T_SNAPSHOT, e);
}

int vmm_snapshot_load(struct vmm *v, const struct vmm_load *l, struct err *e)
{
	struct vmm_version ver;
	int rc = vmm_get_version(v, &ver, e);
	if (rc < 0)
		return rc;
	json_t *j = json_pack("{s:s, s:{s:s, s:s}, s:b}", "snapshot_path", l->state_path,
		"mem_backend", "backend_type", l->backend == VMM_BACKEND_UFFD ? "Uffd" : "File",
		"backend_path", l->backend_path, "resume_vm", (int)l->resume);
	if (j && l->track_dirty) // the field's name before and since 1.13
		json_object_set_new(j,
			vmm_at_least(&ver, 1, 13, 0) ? "track_dirty_pages"
						     : "enable_diff_snapshots",
			json_true());
	return put(v, "/snapshot/load", j, T_LOAD, e);
}
