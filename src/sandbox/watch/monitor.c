// SPDX-License-Identifier: Apache-2.0
// One thread waits for the ends of all shims (their pidfds in one epoll set) and for the nearest
// time-out. It sleeps until one of the two, and only detects: what follows is a job of the pool.
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "sandbox/life/end.h"
#include "sandbox/life/free.h"
#include "sandbox/life/hold.h"
#include "sandbox/life/operation.h"
#include "sandbox/table/bells.h"
#include "sandbox/table/claim.h"
#include "sandbox/table/state.h"
#include "sandbox/table/store.h"
#include "sandbox/watch/monitor.h"

#define HOUR_NS (3600ull * NSEC_PER_SEC)
#define PURGE_NS (HOUR_NS / 6)
#define RETRY_NS (30 * NSEC_PER_SEC) // of an end by time-out that failed

struct job {
	struct host *h;
	char id[64];
	bool pause;
	uint64_t due_ns; // of a time-out: the sandbox's when it was found
};

static int add_job(
	struct host *h, bool urgent, work_fn f, const char *id, bool pause, uint64_t due_ns)
{
	struct job *j = calloc(1, sizeof *j);
	if (!j)
		return -ENOMEM;
	j->h = h;
	j->pause = pause;
	j->due_ns = due_ns;
	snprintf(j->id, sizeof j->id, "%s", id);
	int rc = workers_add(h->workers, urgent, 0, f, j);
	if (rc < 0)
		free(j);
	return rc;
}

// --- ends by themselves

static void end_one(void *ctx)
{
	struct job *j = ctx;
	struct host *h = j->h;
	pthread_mutex_lock(&h->lock);
	struct sandbox *s = host_find(h, j->id);
	pthread_mutex_unlock(&h->lock);
	sandbox_ended(h, s); // claimed for this
	free(j);
}

// An operation that has a watched sandbox sees the end itself, and has it watched again when it
// lets go: its descriptor tells again then. A destroy that waits for the claim has killed it, and
// says why it ended.
static void note_end(struct host *h, int pidfd)
{
	pthread_mutex_lock(&h->lock);
	struct sandbox *s = NULL;
	while ((s = host_next(h, s)) && !(s->watched && s->pidfd == pidfd))
		;
	if (s)
		monitor_unwatch(h, s);
	bool ours = s && !s->operation && !s->ending;
	char id[64] = "";
	if (ours) {
		s->operation = "end";
		sandbox_move(&s->info, SANDBOX_STOPPING, "shim ended");
		memcpy(id, s->info.id, sizeof id);
	}
	pthread_mutex_unlock(&h->lock);
	if (ours && add_job(h, true, end_one, id, false, 0) < 0)
		log_error("end not taken up sandbox=%s", id);
}

// --- time-outs

// The job may have waited in line, and the settings are others now: the last ones count.
static bool is_moved(const struct job *j)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&j->h->lock);
	struct sandbox *s = host_find(j->h, j->id);
	if (!s || s->due_ns != j->due_ns)
		return true;
	bool other = j->pause != (s->info.on_timeout == ON_TIMEOUT_PAUSE);
	if (other) { // due all the same
		s->due_ns = clock_monotonic_ns();
		monitor_wake(j->h);
	}
	return other;
}

// A pause that is refused for want of room leaves no trace, and nobody has asked for this one. It
// is tried again and again: told once.
static void tell_no_room(const struct job *j, const struct err *why)
{
	pthread_mutex_lock(&j->h->lock);
	struct sandbox *s = host_find(j->h, j->id);
	bool tell = s && why && !s->told_no_room;
	if (s)
		s->told_no_room = why != NULL;
	pthread_mutex_unlock(&j->h->lock);
	if (!tell)
		return;
	struct err e = {0};
	_cleanup_json_ json_t *data = operation_error(why);
	const struct store_event ev = {.kind = "pause_failed", .cause = "no_space", .data = data};
	int rc = store_apply(j->h, &(struct store_change){.of = j->id, .event = &ev}, &e);
	if (rc < 0)
		log_warn("not told that it could not pause sandbox=%s error=%s", j->id,
			err_text(&e, rc));
}

// Its code has had its time.
static void hold(const struct job *j, const struct err *why)
{
	struct err e = {0};
	pthread_mutex_lock(&j->h->lock);
	struct sandbox *s = host_find(j->h, j->id);
	bool runs = s && s->info.state == SANDBOX_RUNNING && !s->removed;
	// Of one that something else has: as soon as that lets go, which wakes the monitor.
	bool busy = runs && s->operation;
	if (busy)
		s->due_ns = clock_monotonic_ns();
	pthread_mutex_unlock(&j->h->lock);
	if (runs && !busy && host_hold(j->h, j->id, why, &e) < 0)
		log_error("not held, tried again sandbox=%s error=%s", j->id, e.text);
}

static void time_out(void *ctx)
{
	struct job *j = ctx;
	if (is_moved(j)) {
		free(j);
		return;
	}
	struct host_sandbox info;
	struct err e = {0};
	char op[UUID_SIZE];
	id_new_uuid(op);
	log_info("time-out%s sandbox=%s", j->pause ? ", pausing" : "", j->id);
	int rc = j->pause ? host_pause(j->h, op, j->id, &info, &e)
			  : host_destroy(j->h, op, j->id, end_cause_name(END_TIMEOUT), &e);
	if (rc < 0)
		log_error("time-out failed sandbox=%s error=%s", j->id, err_text(&e, rc));
	if (rc < 0 && j->pause)
		hold(j, &e);
	tell_no_room(j, rc < 0 && e.code == ERR_NO_SPACE ? &e : NULL);
	free(j);
}

// Copies the id of one whose time is up; otherwise *ret_next is when the next one's is. One that
// stands still cannot be paused, only ended.
static bool find_due(
	struct host *h, char id[64], bool *ret_pause, uint64_t *ret_due, uint64_t *ret_next)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&h->lock);
	uint64_t now = clock_monotonic_ns();
	*ret_next = TIME_NEVER;
	for (struct sandbox *s = NULL; (s = host_next(h, s));) {
		bool pause = s->info.on_timeout == ON_TIMEOUT_PAUSE;
		bool counts = s->info.state == SANDBOX_RUNNING || s->held ||
			      (s->info.state == SANDBOX_ERROR && !pause);
		if (!counts || !s->due_ns || s->removed)
			continue;
		if (s->due_ns > now) {
			*ret_next = MIN(*ret_next, s->due_ns);
			continue;
		}
		// What pauses it anyway needs no second one, and wakes the monitor when it lets go;
		// an end need not wait for anything.
		if (s->operation && pause) {
			s->wanted = str_eq(s->operation, SILENT_OPERATION);
			continue;
		}
		memcpy(id, s->info.id, 64);
		*ret_pause = pause;
		// One that cannot be ended or paused must not keep the others waiting.
		s->due_ns = *ret_due = now + RETRY_NS;
		return true;
	}
	return false;
}

// --- what ended long ago

// Rows and consoles of sandboxes that ended over an hour ago.
static void purge(void *ctx)
{
	struct job *j = ctx;
	struct host *h = j->h;
	uint64_t before = clock_realtime_ns() - HOUR_NS;
	struct err e = {0};
	for (bool found = true; found;) {
		char id[64];
		pthread_mutex_lock(&h->lock);
		struct sandbox *s = NULL;
		while ((s = host_next(h, s)) && (s->info.state != SANDBOX_STOPPED || s->operation ||
							s->freeing || s->info.stopped_ns >= before))
			;
		found = s;
		if (s) {
			s->operation = "purge";
			memcpy(id, s->info.id, sizeof id);
		}
		pthread_mutex_unlock(&h->lock);
		if (s) {
			sandbox_free(h, s, FREE_ALL, FREE_MS);
			sandbox_forget(h, s);
		}
	}
	if (store_purge(h, before, &e) < 0)
		log_warn("purge failed error=%s", e.text);
	free(j);
}

static bool is_closing(struct host *h)
{
	eventfd_t v;
	eventfd_read(h->wake_fd, &v);
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&h->event_lock);
	return h->closing;
}

static void *loop(void *arg)
{
	struct host *h = arg;
	uint64_t purge_at = clock_monotonic_ns() + PURGE_NS;
	for (;;) {
		char id[64];
		uint64_t next, due = 0;
		bool pause = false;
		while (find_due(h, id, &pause, &due, &next))
			if (add_job(h, !pause, time_out, id, pause, due) < 0)
				log_error("time-out not taken up sandbox=%s", id);
		if (deadline_over(purge_at)) {
			add_job(h, false, purge, "", false, 0);
			purge_at = clock_monotonic_ns() + PURGE_NS;
		}
		struct epoll_event ev[16];
		int n = epoll_wait(
			h->epoll_fd, ev, ARRAY_SIZE(ev), deadline_left_ms(MIN(next, purge_at)));
		for (int i = 0; i < n; i++) {
			if (ev[i].data.fd != h->wake_fd)
				note_end(h, ev[i].data.fd);
			else if (is_closing(h))
				return NULL;
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
