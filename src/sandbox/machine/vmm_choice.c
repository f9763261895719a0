// SPDX-License-Identifier: Apache-2.0
// Which VMM runs the guests: Firecracker where it is installed and KVM really works, else fcqemu.
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/paths.h"
#include "base/proc.h"
#include "base/json.h"
#include "sandbox/machine/vmm_choice.h"
#include "shim/shim.h"

#define KVM "/dev/kvm"
#define PROBE_MS 90000 // fcqemu gives each of two guests 20 s, and QEMU's version as much

static char *which(const char *program)
{
	const char *path = getenv("PATH");
	_cleanup_free_ char *copy = strdup(path ? path : "/usr/local/bin:/usr/bin:/bin");
	char *rest = copy;
	for (char *dir; copy && (dir = strsep(&rest, ":"));) {
		char *full = str_printf("%s/%s", dir, program);
		if (full && access(full, X_OK) == 0)
			return full;
		free(full);
	}
	return NULL;
}

// What an answer was given by: another file in a program's place, as an upgrade makes one, is asked
// anew.
static void add_program(struct strbuf *b, const char *path)
{
	struct stat st = {0};
	if (stat(path, &st) < 0)
		st.st_ino = 0;
	strbuf_addf(b, "%s %lu %lu %ld.%09ld\n", path, (unsigned long)st.st_ino,
		(unsigned long)st.st_size, (long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
}

// A "yes" is none without the device, which the file of a module that was removed does not say.
static bool is_kept(const json_t *j, const char *boot, const char *programs)
{
	return str_eq(json_string_value(json_object_get(j, "boot_id")), boot) &&
	       str_eq(json_string_value(json_object_get(j, "program")), programs) &&
	       (!str_eq(json_string_value(json_object_get(j, "accel")), "kvm") ||
		       access(KVM, R_OK | W_OK) == 0);
}

// The answer of "fcqemu --probe", kept for this boot of the machine: a guest really has to run for
// it.
static int probe(
	const char *run_dir, const char *fcqemu, const char *qemu, json_t **ret, struct err *e)
{
	_cleanup_free_ char *cache = str_printf("%s/probe.json", run_dir);
	_cleanup_strbuf_ struct strbuf programs = {0};
	_cleanup_json_ json_t *j = NULL;
	char boot[37];
	clock_boot_id(boot);
	add_program(&programs, fcqemu);
	add_program(&programs, qemu);
	if (!cache || strbuf_check(&programs) < 0)
		return err_errno(e, ENOMEM, "probe");
	j = json_load_file(cache, 0, NULL);
	if (j && is_kept(j, boot, programs.data)) {
		*ret = TAKE_PTR(j);
		return 0;
	}
	json_decref(j);
	j = NULL;
	const char *argv[] = {fcqemu, "--probe", "--qemu", qemu, NULL};
	_cleanup_strbuf_ struct strbuf out = {0};
	int rc = proc_run(argv, NULL, 0, PROBE_MS, &out, e);
	if (rc < 0)
		return rc;
	if ((rc = json_parse_object(out.data, out.len, &j, e)) < 0)
		return err_prefix(e, rc, "%s --probe", fcqemu);
	if (!json_is_true(json_object_get(j, "certain"))) {
		const char *why = json_string_value(json_object_get(j, "kvm_reason"));
		log_info("no kvm for now, asked again at the next start reason=%s", why ? why : "");
		*ret = TAKE_PTR(j);
		return 0;
	}
	json_object_set_new(j, "boot_id", json_string(boot));
	json_object_set_new(j, "program", json_string(programs.data));
	_cleanup_free_ char *text = json_compact(j);
	if (text && (rc = file_write_atomic(AT_FDCWD, cache, text, strlen(text), 0600)) < 0)
		log_debug("probe not kept error=%s", strerror(-rc));
	*ret = TAKE_PTR(j);
	return 0;
}

// By its real path: what a link names may be another program tomorrow, and the jail's tree is made
// now. *ret is NULL where none is named and PATH has none that could run guests.
static int find_firecracker(const struct host_config *cfg, bool needed, char **ret,
	struct vmm_version *version, struct err *e)
{
	struct err why = {0};
	const char *name = cfg->firecracker_path ? cfg->firecracker_path : "firecracker";
	_cleanup_free_ char *found = strchr(name, '/') ? strdup(name) : which(name);
	_cleanup_free_ char *path = found ? realpath(found, NULL) : NULL;
	*ret = NULL;
	if (!path && !needed && !cfg->firecracker_path)
		return 0;
	if (!path)
		return err_set(e, ERR_UNAVAILABLE,
			"no firecracker program at '%s': install it, or use --vmm auto",
			cfg->firecracker_path ? name : "PATH");
	int rc = vmm_program_version(path, version, &why);
	if (rc == 0 && strlen(path) >= sizeof((struct vmm_choice *)0)->program)
		rc = err_set(&why, ERR_INVALID, "%.64s...: path too long", path);
	if (rc < 0 && !needed && !cfg->firecracker_path) {
		log_warn("firecracker of PATH is not used reason=%s", why.text);
		return 0;
	}
	if (rc < 0)
		return err_set(e, why.code, "--firecracker: %s", why.text);
	*ret = TAKE_PTR(path);
	return 0;
}

static int refuse_kvm(const char *why, struct err *e)
{
	return err_set(e, ERR_UNAVAILABLE,
		"firecracker needs KVM, which does not work here (%s): use --vmm auto", why);
}

static int open_kvm(struct err *e)
{
	char why[80];
	_cleanup_close_ int fd = open(KVM, O_RDWR | O_CLOEXEC);
	_cleanup_close_ int vm = fd < 0 ? -1 : ioctl(fd, KVM_CREATE_VM, 0);
	snprintf(why, sizeof why, KVM ": %s", strerror(errno));
	return vm < 0 ? refuse_kvm(why, e) : 0;
}

// *ret_certain: false where it could not find out whether KVM works.
static int find_qemu(const struct host_config *cfg, struct vmm_choice *c, struct err *e)
{
	const char *path = cfg->qemu_path && *cfg->qemu_path ? cfg->qemu_path : VMM_QEMU;
	if (path[0] != '/' || (cfg->qemu_path && access(path, X_OK) < 0))
		return err_set(
			e, ERR_UNAVAILABLE, "--qemu: '%.200s' is no program's absolute path", path);
	return str_format(c->qemu, sizeof c->qemu, "%s", path) < 0
		       ? err_set(e, ERR_INVALID, "--qemu: %.64s...: path too long", path)
		       : 0;
}

static int ask_fcqemu(const struct host_config *cfg, const char *fcqemu, struct vmm_choice *c,
	bool *ret_certain, struct err *e)
{
	_cleanup_json_ json_t *j = NULL;
	int rc = find_qemu(cfg, c, e);
	if (rc == 0)
		rc = probe(cfg->run_dir, fcqemu, c->qemu, &j, e);
	if (rc < 0)
		return rc;
	const char *reason = json_string_value(json_object_get(j, "kvm_reason"));
	const char *qemu = json_string_value(json_object_get(j, "qemu_version"));
	c->tsc_khz = (uint64_t)json_integer_value(json_object_get(j, "tsc_khz"));
	c->kvm = str_eq(json_string_value(json_object_get(j, "accel")), "kvm");
	snprintf(c->kvm_reason, sizeof c->kvm_reason, "%s", reason ? reason : "");
	snprintf(c->qemu_version, sizeof c->qemu_version, "%s", qemu ? qemu : "");
	*ret_certain = json_is_true(json_object_get(j, "certain"));
	return 0;
}

// For Firecracker alone, which needs no QEMU: where there is one, its guest tells a KVM that works
// from one that opens and then interprets guests, or runs none.
static int need_kvm(
	const struct host_config *cfg, const char *fcqemu, struct vmm_choice *c, struct err *e)
{
	bool certain = false;
	struct err why = {0};
	if (fcqemu && access(VMM_QEMU, X_OK) == 0 && ask_fcqemu(cfg, fcqemu, c, &certain, &why) < 0)
		log_warn("kvm was not tried with a guest reason=%s", why.text);
	if (certain && !c->kvm)
		return refuse_kvm(c->kvm_reason, e);
	c->kvm = true;
	return certain ? 0 : open_kvm(e);
}

int vmm_choose(const struct host_config *cfg, struct vmm_choice *ret, struct err *e)
{
	struct vmm_choice c = {0};
	const char *want = cfg->vmm ? cfg->vmm : "auto";
	_cleanup_free_ char *fc = NULL;
	_cleanup_free_ char *fcqemu = paths_find("fcqemu");
	bool only_fc = str_eq(want, "firecracker"), only_qemu = str_eq(want, "fcqemu");
	if (!only_fc && !only_qemu && !str_eq(want, "auto"))
		return err_set(
			e, ERR_INVALID, "--vmm: '%s' is not auto, firecracker or fcqemu", want);
	int rc = only_qemu ? 0 : find_firecracker(cfg, only_fc, &fc, &c.firecracker_version, e);
	if (rc < 0)
		return rc;
	if (!only_fc && !fcqemu)
		return err_set(e, ERR_INTERNAL, "fcqemu not found: run make, or make install");
	bool certain;
	rc = only_fc ? need_kvm(cfg, fcqemu, &c, e) : ask_fcqemu(cfg, fcqemu, &c, &certain, e);
	if (rc < 0)
		return rc;
	c.firecracker = fc && c.kvm;
	snprintf(c.program, sizeof c.program, "%s", c.firecracker ? fc : fcqemu);
	if (c.firecracker)
		snprintf(c.version, sizeof c.version, "Firecracker v%.40s",
			c.firecracker_version.text);
	else
		snprintf(c.version, sizeof c.version, "fcqemu %s (QEMU %.20s, %s)", STASIS_VERSION,
			c.qemu_version, c.kvm ? "kvm" : "tcg");
	*ret = c;
	return 0;
}

// True where it is not known: then KVM or the VMM says so at the load.
static bool kvm_scales_tsc(void)
{
	_cleanup_close_ int fd = open(KVM, O_RDWR | O_CLOEXEC);
	return fd < 0 || ioctl(fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_CONTROL) != 0;
}

int vmm_identify(struct host *h, struct err *e)
{
	struct vmm_choice *c = h->vmm;
	const char *argv[] = {c->program, "--snapshot-version", "--qemu", c->qemu, NULL};
	const char *writer = c->firecracker ? c->program : c->qemu;
	if (c->firecracker)
		argv[2] = NULL;
	_cleanup_strbuf_ struct strbuf text = {0};
	int rc = proc_run(argv, NULL, 0, PROBE_MS, &text, e);
	if (rc < 0)
		return rc;
	// Firecracker's says "v10.0.0" on a line of its own.
	const char *p = text.data + (text.data[0] == 'v');
	snprintf(c->state, sizeof c->state, "%.*s", (int)strcspn(p, "\n"), p);
	snprintf(c->name, sizeof c->name, "%s", c->firecracker ? "firecracker" : "fcqemu");
	snprintf(c->upstream, sizeof c->upstream, "%.31s",
		c->firecracker ? c->firecracker_version.text : c->qemu_version);
	if ((rc = hash_sha256_file_hex(AT_FDCWD, writer, c->sha256)) < 0)
		return err_errno(e, rc, "%s", writer);
	cpu_describe(&c->cpu);
	c->tsc_fixed = c->kvm && !kvm_scales_tsc();
	if (c->tsc_khz)
		c->cpu.tsc_khz = c->tsc_khz;
	if (c->firecracker || c->kvm)
		c->tsc_khz = 0; // the processor scales
	return 0;
}

int vmm_state_tsc_khz(const struct vmm_choice *v, const char *path, uint64_t *ret, struct err *e)
{
	*ret = 0;
	if (v->firecracker)
		return 0; // the processor scales
	const char *argv[] = {v->program, "--describe-snapshot", path, NULL};
	_cleanup_strbuf_ struct strbuf text = {0};
	_cleanup_json_ json_t *j = NULL;
	int rc = proc_run(argv, NULL, 0, PROBE_MS, &text, e);
	if (rc == 0)
		rc = json_parse_object(text.data, text.len, &j, e);
	if (rc < 0)
		return err_prefix(e, rc, "describe %s", path);
	*ret = (uint64_t)json_integer_value(json_object_get(j, "tsc_khz"));
	return 0;
}

void vmm_add_own(const struct host *h, enum own_program p, const char **argv, size_t *n)
{
	static const char *const programs[] = {
		[OWN_PAGER] = JAIL_OWN_BIN "/stasis-pager", [OWN_FCQEMU] = JAIL_OWN_BIN "/fcqemu"};
	// With its own libraries, not those of the VMM, which may be of another release.
	if (h->own_dynamic >> p & 1) {
		argv[(*n)++] = JAIL_OWN "/lib64/ld-linux-x86-64.so.2";
		argv[(*n)++] = "--library-path";
		argv[(*n)++] = JAIL_OWN "/lib/x86_64-linux-gnu:" JAIL_OWN "/lib";
	}
	argv[(*n)++] = programs[p];
}

void vmm_argv(const struct host *h, const struct vmm_choice *v, const char *argv[VMM_ARGV_MAX])
{
	size_t n = 0;
	if (v->firecracker)
		argv[n++] = VMM_JAIL_FIRECRACKER;
	else
		vmm_add_own(h, OWN_FCQEMU, argv, &n);
	argv[n++] = "--api-sock";
	argv[n++] = JAIL_API_SOCK;
	argv[n++] = "--id";
	argv[n++] = "sandbox"; // not its id: every user of the host may read arguments
	if (!v->firecracker) {
		argv[n++] = "--qemu";
		argv[n++] = VMM_QEMU;
		argv[n++] = "--ramhook";
		argv[n++] = JAIL_OWN_LIB "/ramhook.so";
		argv[n++] = "--accel";
		argv[n++] = v->kvm ? "kvm" : "tcg";
		argv[n++] = "--memory-header"; // there where a page server is
		argv[n++] = JAIL_HEADER;
		argv[n++] = "--memory-layers";
		argv[n++] = JAIL_LAYERS;
		if (getenv("STASIS_NO_PAGEMAP_SCAN")) // for tests
			argv[n++] = "--no-pagemap-scan";
	}
	// Without these its log is in the console, among the guest's lines. From the first line on,
	// so not by PUT /logger.
	if (v->firecracker) {
		argv[n++] = "--log-path";
		argv[n++] = JAIL_VMM_LOG;
		argv[n++] = "--level";
		argv[n++] = "Warning";
		argv[n++] = "--show-level";
	}
	argv[n] = NULL;
}
