// SPDX-License-Identifier: Apache-2.0
// A record of /dev/kmsg, in which guests name processes and cgroups. Two, as one follows the other.
#include <string.h>
#include "base/str.h"
#include "base/oomlog.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void check(const char *text, size_t size)
{
	if (strlen(text) >= size || !str_is_utf8(text, strlen(text)))
		abort();
	for (const char *p = text; *p; p++)
		if (((unsigned char)*p < ' ') || *p == 127)
			abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	const uint8_t *newline = len ? memchr(data, '\n', len) : NULL;
	size_t first = newline ? (size_t)(newline - data) : len;
	struct oom_summary s = {0};
	struct oom_kill k = {0};
	oom_parse((const char *)data, first, &s, &k);
	check(s.cgroup, sizeof s.cgroup);
	if (!newline)
		return 0;
	bool found = oom_parse((const char *)newline + 1, len - first - 1, &s, &k);
	check(k.comm, sizeof k.comm);
	check(k.cgroup, sizeof k.cgroup);
	if (found && k.pid <= 0)
		abort();
	return 0;
}
