// SPDX-License-Identifier: Apache-2.0
// One thread waits for the ends of all shims (their pidfds in one epoll set) and for the nearest
// time-out. It sleeps until one of the two; nothing is polled.
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "sandbox/life/end.h"
#include "sandbox/table/bells.h"
#include "sandbox/table/state.h"
#include "sandbox/table/store.h"
#include "sandbox/watch/monitor.h"

#define HOUR_NS (3600ull * NSEC_PER_SEC)
#define RETRY_NS (30 * NSEC_PER_SEC) // of an end by time-out that failed

// The sandbox of an ended shim, claimed; NULL when an operation has it (which then sees the end
// itself).
static struct sandbox *claim_ended(struct host *h, int pidfd)
{
	struct sandbox *found = NULL;
	pthread_mutex_lock(&h->lock);
	for (size_t b = 0; b < HOST_BUCKETS && !found; b++)
		for (struct sandbox *s = h->buckets[b]; s && !found; s = s->next)
			if (s->watched && s->pidfd == pidfd)
				found = s;
	if (found && found->operation) {
		// What holds a watched sandbox does not end it: look again then.
		while (found->operation)
			pthread_cond_wait(&h->changed, &h->lock);
		if (!found->watched)
			found = NULL;
	}
	if (found) {
		monitor_unwatch(h, found);
		found->operation = "end";
		sandbox_move(&found->info, SANDBOX_STOPPING, "shim ended");
	}
	pthread_mutex_unlock(&h->lock);
	return found;
}

// Copies the id of one whose time is up; otherwise *ret_next is when the next one's is.
static bool find_due(struct host *h, char id[64], bool *ret_pause, uint64_t *ret_next)
{
	uint64_t now = clock_realtime_ns();
	bool found = false;
	*ret_next = UINT64_MAX;
	pthread_mutex_lock(&h->lock);
	for (size_t b = 0; b < HOST_BUCKETS && !found; b++)
		for (struct sandbox *s = h->buckets[b]; s && !found; s = s->next) {
			uint64_t at = s->info.ends_at_ns;
			if (s->info.state != SANDBOX_RUNNING || s->operation || !at)
				continue;
			at = MAX(at, s->retry_at_ns);
			if (at <= now) {
				memcpy(id, s->info.id, 64);
				*ret_pause = s->info.on_timeout == ON_TIMEOUT_PAUSE;
				// One that cannot be paused must not keep the others waiting.
				s->retry_at_ns = now + RETRY_NS;
				found = true;
			}
			*ret_next = MIN(*ret_next, at);
		}
	pthread_mutex_unlock(&h->lock);
	return found;
}

// Rows and consoles of sandboxes that ended over an hour ago.
static void purge(struct host *h)
{
	uint64_t before = clock_realtime_ns() - HOUR_NS;
	struct err e = {0};
	pthread_mutex_lock(&h->lock);
	for (size_t b = 0; b < HOST_BUCKETS; b++)
		for (struct sandbox *s = h->buckets[b], *next; s; s = next) {
			char path[512];
			next = s->next;
			if (s->info.state != SANDBOX_STOPPED || s->operation ||
				s->info.stopped_ns >= before)
				continue;
			if (host_disk_path(h, s->info.id, NULL, path) == 0)
				file_rm_rf(AT_FDCWD, path);
			host_remove(h, s);
		}
	pthread_mutex_unlock(&h->lock);
	if (store_purge(h, before, &e) < 0)
		log_warn("purge failed error=%s", e.text);
}

// A pause takes its time, and other ends are waiting to be seen: it has a thread of its own.
struct pause_job {
	struct host *h;
	char id[64];
};

static void *pause_one(void *arg)
{
	struct pause_job *j = arg;
	struct host *h = j->h;
	struct host_sandbox info;
	struct err e = {0};
	char op[UUID_SIZE];
	id_new_uuid(op);
	log_info("time-out, pausing sandbox=%s", j->id);
	if (host_pause(h, op, j->id, &info, &e) < 0)
		log_error("pause at time-out failed sandbox=%s error=%s", j->id, e.text);
	free(j);
	pthread_mutex_lock(&h->lock);
	h->workers--;
	pthread_cond_broadcast(&h->changed);
	pthread_mutex_unlock(&h->lock);
	return NULL;
}

static int start_pause(struct host *h, const char *id)
{
	pthread_t t;
	pthread_attr_t detached;
	struct pause_job *j = calloc(1, sizeof *j);
	if (!j)
		return -ENOMEM;
	j->h = h;
	memcpy(j->id, id, sizeof j->id);
	pthread_mutex_lock(&h->lock);
	h->workers++;
	pthread_mutex_unlock(&h->lock);
	pthread_attr_init(&detached);
	pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
	int rc = pthread_create(&t, &detached, pause_one, j);
	pthread_attr_destroy(&detached);
	if (rc) {
		free(j);
		pthread_mutex_lock(&h->lock);
		h->workers--;
		pthread_mutex_unlock(&h->lock);
	}
	return -rc;
}

static void *loop(void *arg)
{
	struct host *h = arg;
	uint64_t purge_at = clock_realtime_ns() + HOUR_NS / 6;
	for (;;) {
		char id[64];
		uint64_t next;
		bool pause = false;
		while (find_due(h, id, &pause, &next)) {
			char op[UUID_SIZE];
			if (pause && start_pause(h, id) == 0)
				continue;
			struct err e = {0};
			id_new_uuid(op);
			log_info("time-out sandbox=%s", id);
			if (host_destroy(h, op, id, "timeout", &e) < 0)
				log_error("time-out failed sandbox=%s error=%s", id, e.text);
		}
		uint64_t now = clock_realtime_ns();
		if (now >= purge_at) {
			purge(h);
			purge_at = now + HOUR_NS / 6;
		}
		next = MIN(next, purge_at);
		// At most a minute: the wall clock may be set while we sleep.
		uint64_t ms = next <= now ? 0 : MIN((next - now) / NSEC_PER_MSEC + 1, 60000ull);
		struct epoll_event ev[16];
		int n = epoll_wait(h->epoll_fd, ev, ARRAY_SIZE(ev), (int)ms);
		for (int i = 0; i < n; i++) {
			if (ev[i].data.fd == h->wake_fd) {
				eventfd_t v;
				eventfd_read(h->wake_fd, &v);
				pthread_mutex_lock(&h->event_lock);
				bool closing = h->closing;
				pthread_mutex_unlock(&h->event_lock);
				if (closing)
					return NULL;
				continue;
			}
			struct sandbox *s = claim_ended(h, ev[i].data.fd);
			if (s)
				sandbox_ended(h, s);
		}
	}
}

int monitor_start(struct host *h, struct err *e)
{
	h->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	h->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	struct epoll_event ev = {.events = EPOLLIN, .data.fd = h->wake_fd};
	if (h->epoll_fd < 0 || h->wake_fd < 0 ||
		epoll_ctl(h->epoll_fd, EPOLL_CTL_ADD, h->wake_fd, &ev) < 0)
		return err_errno(e, errno, "monitor");
	int rc = pthread_create(&h->monitor, NULL, loop, h);
	if (rc)
		return err_errno(e, rc, "monitor thread");
	h->monitor_started = true;
	return 0;
}

void monitor_stop(struct host *h)
{
	if (h->monitor_started) {
		monitor_wake(h);
		pthread_join(h->monitor, NULL);
	}
	h->monitor_started = false;
	h->epoll_fd = safe_close(h->epoll_fd);
	h->wake_fd = safe_close(h->wake_fd);
}
