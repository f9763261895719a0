// SPDX-License-Identifier: Apache-2.0
#include "sandbox/machine/runtime_file.h"
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include "base/clock.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/proc.h"

#define FORMAT 1
#define ASK_MS 20000

char *runtime_format(const struct runtime *r)
{
	const struct vmm_choice *v = &r->vmm;
	_cleanup_json_ json_t *j = json_pack("{s:i, s:s, s:s, s:s*, s:s, s:s, s:b, s:I, s:I}",
		"format", FORMAT, "program", v->firecracker ? "firecracker" : "qemu", "version",
		v->upstream, "package", r->package[0] ? r->package : NULL, "state_format", v->state,
		"sha256", v->sha256, "unnamed", (int)r->unnamed, "first_use_ns",
		(json_int_t)r->first_ns, "last_use_ns", (json_int_t)r->last_ns);
	return j ? json_compact(j) : NULL;
}

static int fill(struct runtime *r, const char *program, const char *version, struct err *e)
{
	struct vmm_choice *v = &r->vmm;
	bool qemu = str_eq(program, "qemu");
	if (!qemu && !str_eq(program, "firecracker"))
		return err_set(e, ERR_INVALID, "program: '%.20s' is none of ours", program);
	v->firecracker = !qemu;
	snprintf(v->name, sizeof v->name, "%s", qemu ? "fcqemu" : "firecracker");
	snprintf(v->upstream, sizeof v->upstream, "%s", version);
	if (qemu)
		snprintf(v->version, sizeof v->version, "fcqemu %s (QEMU %.20s, %s)",
			STASIS_VERSION, version, v->kvm ? "kvm" : "tcg");
	else
		snprintf(v->version, sizeof v->version, "Firecracker v%.40s", version);
	if (!vmm_version_parse(version, &v->firecracker_version))
		return err_set(e, ERR_INVALID, "version: '%.30s' is none", version);
	return 0;
}

int runtime_parse(const char *text, size_t len, struct runtime *ret, struct err *e)
{
	struct runtime r = *ret;
	_cleanup_json_ json_t *j = NULL;
	uint64_t format = 0;
	const char *program = "", *version = "", *package = "", *state = "", *sum = "";
	const struct json_field fields[] = {
		{"format", JF_U64, &format, .required = true, .min = 1},
		{"program", JF_STRING, &program, .required = true, .max = 20},
		{"version", JF_STRING, &version, .required = true,
			.max = sizeof r.vmm.upstream - 1},
		{"package", JF_STRING, &package, .max = sizeof r.package - 1},
		{"state_format", JF_STRING, &state, .required = true,
			.max = sizeof r.vmm.state - 1},
		{"sha256", JF_STRING, &sum, .required = true, .max = sizeof r.vmm.sha256 - 1},
		{"unnamed", JF_BOOL, &r.unnamed},
		{"first_use_ns", JF_U64, &r.first_ns, .required = true, .max = INT64_MAX},
		{"last_use_ns", JF_U64, &r.last_ns, .required = true, .max = INT64_MAX},
	};
	int rc = json_parse_object(text, len, &j, e);
	if (rc == 0 && json_integer_value(json_object_get(j, "format")) > FORMAT)
		return err_set(e, ERR_UNIMPLEMENTED, "its format is of a newer version of Stasis");
	if (rc == 0)
		rc = json_read_fields(j, fields, ARRAY_SIZE(fields), false, e);
	if (rc == 0)
		rc = fill(&r, program, version, e);
	if (rc < 0)
		return rc;
	snprintf(r.package, sizeof r.package, "%s", package);
	snprintf(r.vmm.state, sizeof r.vmm.state, "%s", state);
	snprintf(r.vmm.sha256, sizeof r.vmm.sha256, "%s", sum);
	*ret = r;
	return 0;
}

void runtime_package(const char *program, char *out, size_t size)
{
	const char *search[] = {"/usr/bin/dpkg-query", "-S", program, NULL};
	_cleanup_strbuf_ struct strbuf owner = {0}, shown = {0};
	out[0] = '\0';
	if (access(search[0], X_OK) < 0 || proc_run(search, NULL, 0, ASK_MS, &owner, NULL) < 0)
		return;
	// "qemu-system-x86: /usr/bin/..."
	const char *colon = owner.data ? strstr(owner.data, ": ") : NULL;
	_cleanup_free_ char *name =
		colon ? strndup(owner.data, (size_t)(colon - owner.data)) : NULL;
	const char *show[] = {search[0], "-W", "-f", "${Package} ${Version}", name, NULL};
	if (name && proc_run(show, NULL, 0, ASK_MS, &shown, NULL) == 0 && shown.data)
		str_format(out, size, "%s", shown.data);
}

// "7.2.22" of "QEMU emulator version 7.2.22 (Debian ...)". By the tree's own dynamic linker: its
// libraries may be of another release than this machine's.
static int ask_qemu(const char *dir, const char *program, char *out, size_t size, struct err *e)
{
	_cleanup_free_ char *linker = str_printf("%s/usr/lib64/ld-linux-x86-64.so.2", dir);
	_cleanup_free_ char *libraries = str_printf(
		"%s/usr/lib/x86_64-linux-gnu:%s/usr/lib/x86_64-linux-gnu/pulseaudio:%s/usr/lib",
		dir, dir, dir);
	_cleanup_strbuf_ struct strbuf b = {0};
	if (!linker || !libraries)
		return err_errno(e, ENOMEM, "%s", dir);
	const char *argv[] = {linker, "--library-path", libraries, program, "--version", NULL};
	int rc = proc_run(argv, NULL, 0, ASK_MS, &b, e);
	const char *p = rc == 0 && b.data ? strstr(b.data, "version ") : NULL;
	if (rc == 0 && !p)
		rc = err_set(e, ERR_INTERNAL, "%s does not name its version", program);
	if (rc == 0)
		snprintf(out, size, "%.*s", (int)strspn(p + 8, "0123456789."), p + 8);
	return rc;
}

static int ask_firecracker(const char *program, struct runtime *r, struct err *e)
{
	const char *argv[] = {program, "--snapshot-version", NULL};
	struct vmm_version version;
	_cleanup_strbuf_ struct strbuf b = {0};
	int rc = vmm_program_version(program, &version, e);
	if (rc == 0)
		rc = proc_run(argv, NULL, 0, ASK_MS, &b, e);
	if (rc < 0)
		return rc;
	const char *p = b.data + (b.data[0] == 'v');
	snprintf(r->vmm.state, sizeof r->vmm.state, "%.*s", (int)strcspn(p, "\n"), p);
	return fill(r, "firecracker", version.text, e);
}

int runtime_look(const char *dir, struct runtime *ret, struct err *e)
{
	struct runtime r = *ret;
	struct stat st;
	char version[sizeof r.vmm.upstream] = "";
	_cleanup_free_ char *qemu = str_printf("%s/usr/bin/qemu-system-x86_64", dir);
	_cleanup_free_ char *firecracker = str_printf("%s/usr/bin/firecracker", dir);
	if (!qemu || !firecracker || stat(dir, &st) < 0)
		return err_errno(e, qemu && firecracker ? errno : ENOMEM, "%s", dir);
	bool is_qemu = access(qemu, F_OK) == 0;
	int rc = is_qemu ? ask_qemu(dir, qemu, version, sizeof version, e)
			 : ask_firecracker(firecracker, &r, e);
	if (rc == 0 && is_qemu)
		rc = fill(&r, "qemu", version, e);
	if (rc < 0)
		return rc;
	if (is_qemu) // the one layout of those days
		snprintf(r.vmm.state, sizeof r.vmm.state, "fcqemu-1/qemu-%s", version);
	rc = hash_sha256_file_hex(AT_FDCWD, is_qemu ? qemu : firecracker, r.vmm.sha256);
	if (rc < 0)
		return err_errno(e, rc, "%s", dir);
	r.first_ns = r.last_ns =
		(uint64_t)st.st_mtim.tv_sec * NSEC_PER_SEC + (uint64_t)st.st_mtim.tv_nsec;
	*ret = r;
	return 0;
}
