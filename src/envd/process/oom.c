// SPDX-License-Identifier: Apache-2.0
// How this works. The killed process is dying as its record is written, and its parent may reap it
// soon. The thread that reads runs before others (SCHED_RR), so that mostly it can still see whose
// child it was. Where it cannot, the kill is taken for that of a process that ends as if killed.
//
// What the thread finds it also logs, on the console. By that the host knows that there is
// something to be asked for, whatever log level the guest's console has.
#include "envd/process/oom.h"
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/eventfd.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/lock.h"
#include "base/log.h"
#include "base/str.h"

#define RECORD_MAX 8192 // PRINTKRB_RECORD_MAX and more: a read never cuts a record
#define BATCH 256	// records in a row; then others get to run
#define BATCH_PAUSE_NS (20 * NSEC_PER_MSEC)
#define STRAY_NS (10 * NSEC_PER_SEC)
#define LOG_EVERY_NS NSEC_PER_SEC
#define STACK (64u << 10)
#define RECENT 32    // kills that are remembered
#define ANCESTORS 32 // numbers of one's family

struct recent {
	struct oom_kill kill;
	uint64_t until_ns; // CLOCK_MONOTONIC: as a stray
	// The killed process, then its ancestors and their sessions, as far as they were found.
	pid_t family[ANCESTORS];
	size_t n;
	bool blamed;
};

struct oom_watch {
	int kmsg_fd, stop_fd;
	pthread_t thread;
	bool started;
	pthread_mutex_t lock; // guards the rest
	struct oom_summary summary;
	struct recent recent[RECENT]; // number seq is at (seq - 1) % RECENT
	uint64_t seq;
	uint64_t told_seq, told_total; // of which the host knows; total: by the kernel's count
	uint64_t logged, log_after_ns;
};

// --- what was found

// Parent and session of a process.
static bool read_family(pid_t pid, pid_t *ret_parent, pid_t *ret_session)
{
	char path[64];
	int parent, group, session;
	_cleanup_free_ char *line = NULL;
	snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
	if (file_read_line(AT_FDCWD, path, &line) < 0)
		return false;
	const char *p = strrchr(line, ')'); // the name may have others
	if (!p || sscanf(p + 1, " %*c %d %d %d", &parent, &group, &session) != 3)
		return false;
	*ret_parent = parent;
	*ret_session = session;
	return true;
}

static size_t family(pid_t pid, pid_t ret[ANCESTORS])
{
	size_t n = 0;
	pid_t parent, session;
	for (ret[n++] = pid; n + 2 <= ANCESTORS && read_family(pid, &parent, &session);
		pid = parent) {
		ret[n++] = session;
		if (parent <= 1)
			break;
		ret[n++] = parent;
	}
	return n;
}

// Of those that are remembered: seq - RECENT < number <= seq.
static struct recent *at(struct oom_watch *w, uint64_t number)
{
	return &w->recent[(number - 1) % RECENT];
}

static uint64_t oldest(const struct oom_watch *w, uint64_t after)
{
	return MAX(after, w->seq - MIN(w->seq, (uint64_t)RECENT)) + 1;
}

// The kernel's log has the path from the real root; who is in the guest sees the tree from here on
// (guestinit/cgroups.c).
#define GUEST_CGROUP "/guest"
static void name_as_seen(char *cgroup)
{
	size_t n = strlen(GUEST_CGROUP);
	if (str_starts(cgroup, GUEST_CGROUP) && (!cgroup[n] || cgroup[n] == '/'))
		memmove(cgroup, cgroup[n] ? cgroup + n : "/", strlen(cgroup + n) + 1 + !cgroup[n]);
}

static void take_locked(struct oom_watch *w, const char *record, size_t len)
{
	struct oom_kill k;
	if (!oom_parse(record, len, &w->summary, &k))
		return;
	struct recent *r = at(w, ++w->seq);
	r->n = family(k.pid, r->family);
	k.at_ns = clock_realtime_ns();
	name_as_seen(k.cgroup);
	r->kill = k;
	r->blamed = false;
	r->until_ns = clock_monotonic_ns() + STRAY_NS;
}

// At most BATCH records. true: there may be more.
static bool drain_locked(struct oom_watch *w)
{
	char record[RECORD_MAX];
	for (int i = 0; i < BATCH; i++) {
		ssize_t n = read(w->kmsg_fd, record, sizeof record);
		if (n > 0)
			take_locked(w, record, (size_t)n);
		else if (n == 0 || (errno != EPIPE && errno != EINTR && errno != EINVAL))
			return false;
		// EPIPE: some were overwritten before they were read; what is left follows.
	}
	return true;
}

static void log_locked(struct oom_watch *w, uint64_t now)
{
	if (w->logged == w->seq || now < w->log_after_ns)
		return;
	const struct oom_kill *k = &at(w, w->seq)->kill;
	log_warn("out of memory: killed n=%llu process=%s pid=%d rss_kb=%llu%s%s",
		(unsigned long long)(w->seq - w->logged), k->comm, (int)k->pid,
		(unsigned long long)(k->rss_bytes >> 10), k->in_cgroup ? " cgroup=" : "",
		k->in_cgroup ? k->cgroup : "");
	w->logged = w->seq;
	w->log_after_ns = now + LOG_EVERY_NS;
}

static void *watch(void *arg)
{
	struct oom_watch *w = arg;
	const struct sched_param first = {.sched_priority = 1};
	pthread_setschedparam(pthread_self(), SCHED_RR, &first); // by hand it may not be allowed
	for (;;) {
		pthread_mutex_lock(&w->lock);
		bool more = drain_locked(w);
		uint64_t now = clock_monotonic_ns();
		log_locked(w, now);
		uint64_t until = w->logged == w->seq ? TIME_NEVER : w->log_after_ns;
		pthread_mutex_unlock(&w->lock);
		if (more)
			clock_sleep_ns(BATCH_PAUSE_NS);
		struct pollfd pf[2] = {
			{.fd = w->kmsg_fd, .events = POLLIN}, {.fd = w->stop_fd, .events = POLLIN}};
		if (poll(pf, 2, more ? 0 : deadline_left_ms(until)) > 0 && pf[1].revents)
			return NULL;
	}
}

// --- counts

static uint64_t value_of(const char *file, const char *key)
{
	_cleanup_strbuf_ struct strbuf text = {0};
	uint64_t v = 0;
	if (file_read(AT_FDCWD, file, 1u << 20, &text) == 0 && text.data)
		oom_number_after(text.data, key, UINT64_MAX, &v);
	return v;
}

static uint64_t kernel_count(void)
{
	return value_of("/proc/vmstat", "\noom_kill ");
}

// MemTotal is the first line: "MemTotal:         499712 kB".
uint64_t oom_memory_bytes(void)
{
	_cleanup_free_ char *line = NULL;
	unsigned long long kib = 0;
	if (file_read_line(AT_FDCWD, "/proc/meminfo", &line) == 0)
		sscanf(line, "MemTotal: %llu", &kib);
	return kib << 10;
}

// --- the interface

struct oom_watch *oom_watch_new(void)
{
	_cleanup_(oom_watch_freep) struct oom_watch *w = calloc(1, sizeof *w);
	if (!w)
		return NULL;
	pthread_mutex_init(&w->lock, NULL);
	w->kmsg_fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	w->stop_fd = eventfd(0, EFD_CLOEXEC);
	// What was logged before us is nobody's news.
	if (w->kmsg_fd < 0 || w->stop_fd < 0 || lseek(w->kmsg_fd, 0, SEEK_END) < 0)
		return NULL;
	w->told_total = kernel_count();
	pthread_attr_t attr;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK);
	w->started = pthread_create(&w->thread, &attr, watch, w) == 0;
	pthread_attr_destroy(&attr);
	return w->started ? TAKE_PTR(w) : NULL;
}

struct oom_watch *oom_watch_free(struct oom_watch *w)
{
	if (!w)
		return NULL;
	if (w->started) {
		eventfd_write(w->stop_fd, 1);
		pthread_join(w->thread, NULL);
	}
	safe_close(w->kmsg_fd);
	safe_close(w->stop_fd);
	pthread_mutex_destroy(&w->lock);
	free(w);
	return NULL;
}

uint64_t oom_watch_seq(struct oom_watch *w)
{
	if (!w)
		return 0;
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&w->lock);
	return w->seq;
}

static bool is_of(const struct recent *r, pid_t pid)
{
	for (size_t i = 0; i < r->n; i++)
		if (r->family[i] == pid)
			return true;
	return false;
}

unsigned oom_watch_blame(
	struct oom_watch *w, pid_t pid, uint64_t after, bool as_killed, struct oom_kill *ret)
{
	unsigned n = 0;
	struct recent *stray = NULL;
	if (!w)
		return 0;
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&w->lock);
	// The kernel logs a kill before the killed process can end.
	drain_locked(w);
	for (uint64_t i = oldest(w, after); i <= w->seq; i++) {
		struct recent *r = at(w, i);
		if (is_of(r, pid)) {
			*ret = r->kill;
			r->blamed = true;
			n++;
		} else if (r->n == 1 && !r->blamed && !deadline_over(r->until_ns)) {
			stray = r;
		}
	}
	if (n > 0 || !as_killed || !stray)
		return n;
	*ret = stray->kill;
	stray->blamed = true;
	return 1;
}

void oom_watch_report(struct oom_watch *w, struct oom_report *ret)
{
	*ret = (struct oom_report){.memory_bytes = oom_memory_bytes()};
	if (!w)
		return;
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&w->lock);
	drain_locked(w);
	ret->total = MAX(kernel_count(), w->told_total);
	ret->untold = ret->total - w->told_total;
	ret->seq = w->seq;
	uint64_t first = oldest(w, w->told_seq);
	if (w->seq - first + 1 > OOM_KEPT)
		first = w->seq - OOM_KEPT + 1;
	for (uint64_t i = first; i <= w->seq; i++)
		ret->kills[ret->n++] = at(w, i)->kill;
}

uint64_t oom_watch_told_total(struct oom_watch *w)
{
	if (!w)
		return 0;
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&w->lock);
	return w->told_total;
}

void oom_watch_take(struct oom_watch *w, uint64_t told_total)
{
	if (!w)
		return;
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&w->lock);
	w->told_total = MIN(w->told_total, told_total);
}

void oom_watch_told(struct oom_watch *w, uint64_t total, uint64_t seq)
{
	if (!w)
		return;
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&w->lock);
	w->told_total = MAX(w->told_total, MIN(total, kernel_count()));
	w->told_seq = MAX(w->told_seq, MIN(seq, w->seq));
}

void oom_watch_forget(struct oom_watch *w)
{
	if (!w)
		return;
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&w->lock);
	drain_locked(w);
	w->told_total = kernel_count();
	w->told_seq = w->logged = w->seq;
	for (size_t i = 0; i < RECENT; i++)
		w->recent[i].blamed = true;
}
