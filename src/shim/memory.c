// SPDX-License-Identifier: Apache-2.0
// proc(5): status, task/<tid>/children.
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include "base/file.h"
#include "base/str.h"
#include "shim/shim.h"

#define MAX_DEPTH 3 // fcqemu, QEMU

// "RssAnon:     123 kB" and the like.
static uint64_t own_bytes(int pid)
{
	static const char *const lines[] = {"\nRssAnon:", "\nRssShmem:", "\nVmSwap:"};
	_cleanup_strbuf_ struct strbuf text = {0};
	char path[48];
	uint64_t sum = 0;
	snprintf(path, sizeof path, "/proc/%d/status", pid);
	if (file_read(AT_FDCWD, path, 1 << 16, &text) < 0)
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
		const char *p = strstr(text.data, lines[i]);
		if (p)
			sum += strtoull(p + strlen(lines[i]), NULL, 10) * 1024;
	}
	return sum;
}

// Calls f with a process and all below it.
static void each_process(int pid, unsigned depth, void (*f)(void *ctx, int pid), void *ctx)
{
	char path[48];
	f(ctx, pid);
	snprintf(path, sizeof path, "/proc/%d/task", pid);
	_cleanup_closedir_ DIR *d = depth < MAX_DEPTH ? opendir(path) : NULL;
	for (struct dirent *de; d && (de = readdir(d));) {
		_cleanup_strbuf_ struct strbuf children = {0};
		char name[sizeof de->d_name + sizeof "/children"];
		snprintf(name, sizeof name, "%s/children", de->d_name);
		if (de->d_name[0] == '.' || file_read(dirfd(d), name, 4096, &children) < 0)
			continue;
		char *p = children.data, *end;
		for (long child; p && (child = strtol(p, &end, 10)) > 0; p = end)
			each_process((int)child, depth + 1, f, ctx);
	}
}

static void add_bytes(void *ctx, int pid)
{
	*(uint64_t *)ctx += own_bytes(pid);
}

int shim_memory(const char *dir, uint64_t *ret)
{
	struct shim_state state;
	// A kernel without CONFIG_PROC_CHILDREN: QEMU would be left out.
	if (access("/proc/thread-self/children", F_OK) < 0)
		return -errno;
	int rc = shim_read_state(dir, &state, NULL);
	if (rc < 0)
		return rc;
	*ret = 0;
	each_process(state.vmm_pid, 0, add_bytes, ret);
	return *ret ? 0 : -ESRCH;
}

struct pids {
	int *list;
	size_t n, max;
};

static void add_pid(void *ctx, int pid)
{
	struct pids *p = ctx;
	if (p->n < p->max)
		p->list[p->n++] = pid;
}

int shim_processes(const char *dir, int *ret, size_t n)
{
	struct shim_state state;
	struct pids pids = {.list = ret, .max = n};
	int rc = shim_read_state(dir, &state, NULL);
	memset(ret, 0, n * sizeof *ret);
	if (rc == 0)
		each_process(state.vmm_pid, 0, add_pid, &pids);
	return rc;
}
