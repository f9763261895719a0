// SPDX-License-Identifier: Apache-2.0
#include "envd/wake/freeze.h"
#include <fcntl.h>
#include <string.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"
#include "envd/wake/agent.h"
#include "envd/wake/trim.h"

#define MAX_MOUNTINFO (4u << 20)

// --- the disks

// "\040" and the like, as the kernel writes blanks, tabs, newlines and backslashes of a path.
static void unescape(char *s)
{
	char *to = s;
	for (; *s; to++) {
		if (s[0] == '\\' && strspn(s + 1, "01234567") >= 3) {
			*to = (char)((s[1] - '0') << 6 | (s[2] - '0') << 3 | (s[3] - '0'));
			s += 4;
		} else {
			*to = *s++;
		}
	}
	*to = '\0';
}

static char *next_word(char **at)
{
	char *word = *at;
	char *end = word + strcspn(word, " ");
	*at = end + (*end == ' ');
	*end = '\0';
	return word;
}

static bool has_option(const char *list, const char *name)
{
	size_t len = strlen(name);
	for (const char *p = list; *p; p += strcspn(p, ","), p += *p == ',')
		if (strncmp(p, name, len) == 0 && (p[len] == ',' || !p[len]))
			return true;
	return false;
}

// 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
bool freeze_mount_needs_sync(char *line, uint64_t *ret_device, char **ret_path)
{
	char *at = line, *end;
	next_word(&at);
	next_word(&at);
	const char *device = next_word(&at);
	next_word(&at);
	char *path = next_word(&at);
	next_word(&at);
	while (*at && strncmp(at, "- ", 2) != 0)
		next_word(&at);
	next_word(&at);
	const char *type = next_word(&at);
	next_word(&at);
	const char *options = next_word(&at);
	unsigned long major = strtoul(device, &end, 10);
	if (end == device || *end != ':' || major == 0 || major > UINT32_MAX)
		return false;
	unsigned long minor = strtoul(end + 1, NULL, 10);
	// The mount itself may be read-only where another one of the same file system is not.
	if (!has_option(options, "rw") || str_starts(type, "fuse") || *path != '/')
		return false;
	unescape(path);
	*ret_device = (uint64_t)major << 32 | (uint32_t)minor;
	*ret_path = path;
	return true;
}

static int sync_mount(const char *path, struct err *e)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	// Hidden below another mount, or gone since the list was read.
	if (fd < 0 && (errno == ENOENT || errno == ENOTDIR))
		return 0;
	if (fd < 0 || syncfs(fd) < 0)
		return err_errno(e, errno, "cannot write the file system at %s to its disk", path);
	return 0;
}

int freeze_sync_disks(struct err *e)
{
	_cleanup_strbuf_ struct strbuf list = {0};
	uint64_t done[64], device;
	size_t n_done = 0;
	char *path;
	int rc = file_read(AT_FDCWD, "/proc/self/mountinfo", MAX_MOUNTINFO, &list);
	if (rc < 0)
		return err_errno(e, rc, "cannot read the list of mounts");
	while (list.len) {
		if (list.data[list.len - 1] == '\n')
			list.data[--list.len] = '\0';
		char *line = memrchr(list.data, '\n', list.len);
		line = line ? line + 1 : list.data;
		list.len = (size_t)(line - list.data);
		if (!freeze_mount_needs_sync(line, &device, &path))
			continue;
		bool seen = false;
		for (size_t i = 0; i < n_done; i++)
			seen |= done[i] == device;
		if (seen)
			continue;
		// Beyond the table's end some are synced twice.
		if (n_done < ARRAY_SIZE(done))
			done[n_done++] = device;
		if ((rc = sync_mount(path, e)) < 0)
			return rc;
	}
	return 0;
}

// --- the calls

void freeze_post(struct http_request *req, void *ctx)
{
	struct agent *a = ctx;
	struct gate *gate = process_table_gate(a->processes);
	struct err e = {0};
	uint64_t epoch, trim_ns = 0;
	int rc = gate_freeze(gate, FREEZE_LIMIT_NS, &epoch, &e);
	if (rc == 0) {
		rc = freeze_sync_disks(&e);
		if (rc == 0)
			trim_ns = trim_run(a->trim, TRIM_LIMIT_NS);
		// Undone when that failed; and what was thawed in the meantime is not frozen.
		int kept = gate_freeze_end(gate, epoch, rc == 0, rc ? NULL : &e);
		rc = rc ? rc : kept;
	}
	if (rc < 0) {
		http_reply_error(req, &e);
		return;
	}
	char took[64];
	snprintf(took, sizeof took, "freeze;dur=%.3f, trim;dur=%.3f",
		(double)(clock_monotonic_ns() - http_req_started_ns(req)) / NSEC_PER_MSEC,
		(double)trim_ns / NSEC_PER_MSEC);
	http_reply_header(req, "Server-Timing", took);
	http_reply_empty(req, 204);
}

void thaw_post(struct http_request *req, void *ctx)
{
	struct agent *a = ctx;
	struct err e = {0};
	if (gate_thaw(process_table_gate(a->processes), &e) < 0)
		http_reply_error(req, &e);
	else
		http_reply_empty(req, 204);
}
