// SPDX-License-Identifier: Apache-2.0
// How this works. VMM and pager of a sandbox run under a uid that no other sandbox has at the time,
// and the kernel's record of a kill has the uid. It also has a time, by a clock that no other clock
// follows exactly, so a kill counts from some minutes back on, and once: the slot, and with it the
// uid, may have been another's before.
#include "sandbox/machine/host_oom.h"
#include <fcntl.h>
#include "base/clock.h"
#include "shim/shim.h"

#define RECORD_MAX 8192
#define SLACK_US (600ull * 1000000)
#define DRIFT 1000u // parts by which the log's clock may be off since the start

bool host_oom_fits(const struct host_oom_look *l, const struct oom_kill *k)
{
	if (k->log_us < l->from_us)
		return false;
	return k->uid == l->uid || (l->shim > 0 && k->uid == 0 && k->pid == l->shim);
}

// host.lock held.
static bool is_used(const struct host *h, uint64_t seq)
{
	for (size_t i = 0; i < HOST_OOM_USED; i++)
		if (h->oom_used[i] == seq + 1)
			return true;
	return false;
}

static bool use(struct host *h, uint64_t seq)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&h->lock);
	if (is_used(h, seq))
		return false;
	h->oom_used[h->n_oom_used++ % HOST_OOM_USED] = seq + 1;
	return true;
}

bool host_oom_find(
	struct host *h, const struct sandbox *s, const char *dir, char *detail, size_t size)
{
	struct shim_state st;
	uint64_t now_us = clock_monotonic_ns() / 1000;
	struct host_oom_look l = {.uid = slot_uid(&s->slot),
		.shim = shim_read_state(dir, &st, NULL) == 0 ? st.pid : 0};
	uint64_t slack = SLACK_US + now_us / DRIFT;
	l.from_us = now_us - MIN(now_us, slack);
	struct oom_summary about = {0};
	struct oom_kill k, found = {0};
	char record[RECORD_MAX];
	bool any = false;
	_cleanup_close_ int fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0 || !s->has_slot)
		return false;
	for (;;) {
		ssize_t n = read(fd, record, sizeof record);
		if (n <= 0 && errno != EPIPE && errno != EINTR)
			break;
		if (n > 0 && oom_parse(record, (size_t)n, &about, &k) && host_oom_fits(&l, &k) &&
			use(h, k.seq)) {
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
