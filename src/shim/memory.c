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

static uint64_t tree_bytes(int pid, unsigned depth)
{
	uint64_t sum = own_bytes(pid);
	char path[48];
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
			sum += tree_bytes((int)child, depth + 1);
	}
	return sum;
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
	*ret = tree_bytes(state.vmm_pid, 0);
	return *ret ? 0 : -ESRCH;
}
