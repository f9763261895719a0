// SPDX-License-Identifier: Apache-2.0
#include "vmm/version.h"
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include "base/proc.h"
#include "base/str.h"

#define ASK_MS 60000

#define BELOW_HOLE_MB 3072u // of x86: src/vmm/src/arch/x86_64/layout.rs, MMIO32_MEM_START

bool vmm_version_parse(const char *text, struct vmm_version *ret)
{
	struct vmm_version v = {0};
	int end = 0;
	if (sscanf(text, "%u.%u.%u%n", &v.major, &v.minor, &v.patch, &end) != 3)
		return false;
	v.before = str_starts(text + end, "-dev") || str_starts(text + end, "-rc");
	snprintf(v.text, sizeof v.text, "%.*s", (int)strcspn(text, "\r\n"), text);
	v.fcqemu = strstr(v.text, "fcqemu") != NULL;
	*ret = v;
	return true;
}

bool vmm_at_least(const struct vmm_version *v, unsigned major, unsigned minor, unsigned patch)
{
	if (v->major != major)
		return v->major > major;
	if (v->minor != minor)
		return v->minor > minor;
	return v->patch > patch || (v->patch == patch && !v->before);
}

bool vmm_can_discard(const struct vmm_version *v)
{
	return v->fcqemu || vmm_at_least(v, 1, 17, 0);
}

bool vmm_diff_is_right(const struct vmm_version *v, uint64_t memory_mb)
{
	return v->fcqemu || memory_mb <= BELOW_HOLE_MB || vmm_at_least(v, 1, 14, 2);
}

bool vmm_adds_pci_off(const struct vmm_version *v)
{
	return !v->fcqemu && vmm_at_least(v, 1, 13, 0);
}

// The jail has no shell and no other programs: a script would fail there, with each sandbox.
static int check_file(const char *program, struct err *e)
{
	struct stat st;
	char magic[4] = "";
	_cleanup_close_ int fd = open(program, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_errno(e, errno, "%s", program);
	if (!S_ISREG(st.st_mode))
		return err_set(e, ERR_INVALID, "%s: not a file", program);
	if (access(program, X_OK) < 0)
		return err_errno(e, errno, "%s: cannot be run: chmod +x", program);
	if (pread(fd, magic, sizeof magic, 0) != sizeof magic || memcmp(magic, "\177ELF", 4) != 0)
		return err_set(e, ERR_INVALID,
			"%s: not an ELF program: name the binary of a Firecracker release",
			program);
	return 0;
}

int vmm_program_version(const char *program, struct vmm_version *ret, struct err *e)
{
	static const char name[] = "Firecracker v";
	_cleanup_strbuf_ struct strbuf out = {0};
	int rc = check_file(program, e);
	if (rc == 0)
		rc = proc_run((const char *const[]){program, "--version", NULL}, NULL, 0, ASK_MS,
			&out, e);
	if (rc < 0)
		return rc;
	if (strbuf_check(&out) < 0 || !out.len || !str_starts(out.data, name) ||
		!vmm_version_parse(out.data + sizeof name - 1, ret))
		return err_set(e, ERR_INVALID,
			"%s: '--version' does not answer \"Firecracker v...\": it is another "
			"program",
			program);
	if (!vmm_at_least(ret, 1, 12, 0))
		return err_set(e, ERR_UNAVAILABLE,
			"%s is Firecracker %s: " VMM_OLDEST " or newer is needed", program,
			ret->text);
	return 0;
}
