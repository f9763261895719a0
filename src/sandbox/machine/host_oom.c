// SPDX-License-Identifier: Apache-2.0
// How this works. VMM and pager of a sandbox run under a uid that no other sandbox has at the time,
// and the kernel's record of a kill has the uid. Others had it before: the records count from the
// one that was the next when the machine was started, whose number the shim keeps. (The log's time
// would not do: no other clock follows it exactly.)
#include "sandbox/machine/host_oom.h"
#include <fcntl.h>
#include "shim/shim.h"

#define RECORD_MAX 8192

uint64_t host_oom_mark(struct host *h)
{
	char record[RECORD_MAX];
	uint64_t seq;
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&h->lock);
	while (h->kmsg_fd >= 0) {
		ssize_t n = read(h->kmsg_fd, record, sizeof record);
		if (n > 0 && oom_record_number(record, (size_t)n, &seq))
			h->kmsg_next = seq + 1;
		else if (n <= 0 && errno != EPIPE && errno != EINTR)
			break;
	}
	return h->kmsg_next;
}

bool host_oom_fits(const struct host_oom_look *l, const struct oom_kill *k)
{
	if (l->from == 0 || k->seq < l->from)
		return false;
	return k->uid == l->uid || (l->shim > 0 && k->uid == 0 && k->pid == l->shim);
}

bool host_oom_find(const struct sandbox *s, const char *dir, char *detail, size_t size)
{
	struct shim_state st;
	if (!s->has_slot || shim_read_state(dir, &st, NULL) < 0)
		return false;
	const struct host_oom_look l = {
		.uid = slot_uid(&s->slot), .shim = st.pid, .from = st.kmsg_from};
	struct oom_summary about = {0};
	struct oom_kill k, found = {0};
	char record[RECORD_MAX];
	bool any = false;
	_cleanup_close_ int fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return false;
	for (;;) {
		ssize_t n = read(fd, record, sizeof record);
		if (n <= 0 && errno != EPIPE && errno != EINTR)
			break;
		if (n > 0 && oom_parse(record, (size_t)n, &about, &k) && host_oom_fits(&l, &k)) {
			found = k;
			any = true;
		}
	}
	if (any)
		snprintf(detail, size, "the host's kernel killed %s (%llu MiB): out of memory%s%s",
			found.comm, (unsigned long long)(found.rss_bytes >> 20),
			found.in_cgroup ? " of the cgroup " : " of the machine",
			found.in_cgroup ? found.cgroup : "");
	return any;
}
