// SPDX-License-Identifier: Apache-2.0
// How this works. Each process has one thread, its pump, that reads the output, watches the pidfd
// and the time-out, and gives each piece to every subscriber's queue; it waits while one of the
// queues is full, so the slowest subscriber sets the pace (and without any, output is dropped).
//
// The pump publishes the end when the leader was reaped and the pipes are at their end. A child in
// the background may hold them for ever, so there are two shorter ways, both of which pass on what
// the pipes held when the leader was reaped: after a signal or a time-out at once, and for a
// process that ends with its leader (ends_on_exit) when nothing has come for DRAIN_QUIET_NS, or not
// at all within DRAIN_FIRST_NS ("exec > >(cat)", whose cat may not yet have run), or DRAIN_MAX_NS
// after the leader. From then on the pump reads and drops, so that whoever holds the
// pipes never meets a closed one; a terminal is hung up.
//
// One lock guards the table, all queues and all states; nothing blocks under it. Standard input has
// a lock of its own per process, held while a client's bytes are written, which keeps them in
// order.
//
// Waiting subscribers sleep in poll on an eventfd together with their client's socket. The pump
// writes to it only when the subscriber said that it sleeps.
//
// Starts pass the gate (gate.h), which a freeze closes. Nobody holds the lock while he starts a
// process or waits at the gate.
#include "envd/process/process.h"
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/lock.h"
#include "base/proc.h"
#include "envd/process/gate.h"
#include "envd/process/spawn.h"
#include "envd/process/stdio.h"
#include "envd/process/table.h"

#define PIPE_CHUNK (32u << 10)
#define PTY_CHUNK (16u << 10)
#define QUEUE_BYTES (128u << 10)
#define DRAIN_FIRST_NS (500 * NSEC_PER_MSEC)
#define DRAIN_QUIET_NS (200 * NSEC_PER_MSEC)
#define DRAIN_MAX_NS (2 * NSEC_PER_SEC)
#define MAX_ENDED 1024
#ifndef PIDFD_SIGNAL_PROCESS_GROUP // include/uapi/linux/pidfd.h, since Linux 6.9
#define PIDFD_SIGNAL_PROCESS_GROUP (1u << 2)
#endif
#define PUMP_STACK (128u << 10)

// --- table, references

static int open_child_cgroup(int cgroup_fd)
{
	if (cgroup_fd < 0 || (mkdirat(cgroup_fd, "user", 0755) < 0 && errno != EEXIST))
		return -1;
	return openat(cgroup_fd, "user", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

struct process_table *process_table_new(int cgroup_fd, const char *cgroup_ns)
{
	struct process_table *t = calloc(1, sizeof *t);
	if (!t)
		return NULL;
	t->cgroup_fd = open_child_cgroup(cgroup_fd);
	t->cgroup_ns_fd = open(cgroup_ns, O_RDONLY | O_CLOEXEC);
	t->null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	t->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	t->hold_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	t->gate = gate_new(t->cgroup_fd < 0 ? -1 : cgroup_fd);
	if (t->null_fd < 0 || t->stop_fd < 0 || t->hold_fd < 0 || !t->gate) {
		safe_close(t->cgroup_fd);
		safe_close(t->cgroup_ns_fd);
		safe_close(t->null_fd);
		safe_close(t->stop_fd);
		safe_close(t->hold_fd);
		gate_free(t->gate);
		free(t);
		return NULL;
	}
	getrlimit(RLIMIT_NOFILE, &t->nofile);
	const struct rlimit most = {t->nofile.rlim_max, t->nofile.rlim_max};
	setrlimit(RLIMIT_NOFILE, &most);
	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->pump_done, NULL);
	pthread_cond_init(&t->going, NULL);
	return t;
}

struct gate *process_table_gate(struct process_table *t)
{
	return t->gate;
}

struct oom_watch *process_table_oom(struct process_table *t)
{
	return t->oom;
}

static void process_free(struct process *p)
{
	for (int i = 0; i < 2; i++)
		safe_close(p->out[i]);
	safe_close(p->stdin_fd);
	safe_close(p->pidfd);
	safe_close(p->wake_fd);
	json_decref(p->config);
	free(p->tag);
	pthread_cond_destroy(&p->space);
	pthread_mutex_destroy(&p->stdin_lock);
	free(p);
}

static void unref_locked(struct process *p)
{
	if (--p->refs == 0)
		process_free(p);
}

static void unref(struct process *p)
{
	struct process_table *t = p->table;
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&t->lock);
	unref_locked(p);
}

// Forgets ended ones that are too old or too many (the list's tail is the oldest).
static void purge_locked(struct process_table *t)
{
	uint64_t now = clock_monotonic_ns();
	unsigned seen = 0;
	for (struct process **at = &t->list; *at;) {
		struct process *p = *at;
		if (p->ended && (++seen > MAX_ENDED || now - p->ended_ns > PROCESS_END_KEPT_NS)) {
			*at = p->next;
			t->n_ended--;
			unref_locked(p);
		} else {
			at = &p->next;
		}
	}
}

// A running one is preferred: its pid or tag may have belonged to an ended one before.
static struct process *find_locked(
	struct process_table *t, const struct process_selector *w, bool ended_too)
{
	struct process *old = NULL;
	for (struct process *p = t->list; p; p = p->next) {
		if (w->tag ? !str_eq(p->tag, w->tag) : p->pid != w->pid)
			continue;
		if (!p->ended)
			return p;
		if (!old)
			old = p;
	}
	return ended_too ? old : NULL;
}

static int not_found(const struct process_selector *w, struct err *e)
{
	if (w->tag)
		return err_set(e, ERR_NOT_FOUND, "no process with tag '%.100s'", w->tag);
	return err_set(e, ERR_NOT_FOUND, "no process with pid %d", (int)w->pid);
}

static struct process *get_running(
	struct process_table *t, const struct process_selector *w, struct err *e)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&t->lock);
	struct process *p = find_locked(t, w, false);
	if (p)
		p->refs++;
	if (!p)
		not_found(w, e);
	return p;
}

// false: there was nobody to be reached.
static bool kill_locked(struct process *p, int sig)
{
	// The pid is ours until it is reaped, and reaping happens under this lock.
	if (!p->reaped)
		return kill(sig == SIGKILL ? -p->pid : p->pid, sig) == 0;
	// The number may be another's now, what the pidfd stands for is not. An older kernel cannot
	// reach the rest of a group.
	return p->pidfd >= 0 &&
	       syscall(SYS_pidfd_send_signal, p->pidfd, sig, NULL, PIDFD_SIGNAL_PROCESS_GROUP) == 0;
}

void process_table_stop(struct process_table *t)
{
	gate_close(t->gate);
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&t->lock);
	t->closing = true;
	eventfd_write(t->stop_fd, 1);
	pthread_cond_broadcast(&t->going);
	for (struct process *p = t->list; p; p = p->next) {
		if (!p->reaped)
			kill_locked(p, SIGKILL);
		p->forced = true;
		pthread_cond_signal(&p->space);
		if (p->wake_fd >= 0)
			eventfd_write(p->wake_fd, 1);
	}
	while (t->n_pumps > 0)
		pthread_cond_wait(&t->pump_done, &t->lock);
}

struct process_table *process_table_free(struct process_table *t)
{
	if (!t)
		return NULL;
	process_table_stop(t);
	oom_watch_free(t->oom);
	while (t->list) {
		struct process *p = t->list;
		t->list = p->next;
		unref_locked(p);
	}
	pthread_cond_destroy(&t->pump_done);
	pthread_cond_destroy(&t->going);
	pthread_mutex_destroy(&t->lock);
	gate_free(t->gate);
	safe_close(t->cgroup_fd);
	safe_close(t->cgroup_ns_fd);
	close(t->null_fd);
	close(t->stop_fd);
	close(t->hold_fd);
	free(t);
	return NULL;
}

// --- subscribers

static void wake_locked(struct process_sub *s)
{
	if (s->asleep) {
		s->asleep = false;
		eventfd_write(s->wake_fd, 1);
	}
}

static struct process_sub *subscribe_locked(struct process *p)
{
	struct process_sub *s = calloc(1, sizeof *s);
	if (!s)
		return NULL;
	s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->wake_fd < 0) {
		free(s);
		return NULL;
	}
	s->p = p;
	p->refs++;
	s->next = p->subs;
	p->subs = s;
	if (p->client_ns && p->wake_fd >= 0) // its pump waits for this
		eventfd_write(p->wake_fd, 1);
	return s;
}

static void chunk_unref_locked(struct process_chunk *c)
{
	if (--c->refs == 0)
		free(c);
}

void process_chunk_release(struct process_sub *s, struct process_chunk *c)
{
	struct process_table *t = s->p->table;
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&t->lock);
	chunk_unref_locked(c);
}

static bool full(const struct process_sub *s)
{
	return s->count == QUEUE_CHUNKS || s->bytes >= QUEUE_BYTES;
}

static struct process_chunk *pop_locked(struct process_sub *s)
{
	bool was_full = full(s);
	struct process_chunk *c = s->queue[s->head];
	s->head = (s->head + 1) % QUEUE_CHUNKS;
	s->count--;
	s->bytes -= c->len;
	if (was_full && !full(s))
		pthread_cond_signal(&s->p->space);
	return c;
}

struct process_sub *process_sub_free(struct process_sub *s)
{
	if (!s)
		return NULL;
	struct process *p = s->p;
	struct process_table *t = p->table;
	pthread_mutex_lock(&t->lock);
	struct process_sub **at = &p->subs;
	while (*at != s)
		at = &(*at)->next;
	*at = s->next;
	while (s->count)
		chunk_unref_locked(pop_locked(s));
	pthread_cond_signal(&p->space);
	if (t->holding)
		pthread_cond_signal(&t->pump_done);
	unref_locked(p);
	pthread_mutex_unlock(&t->lock);
	close(s->wake_fd);
	free(s);
	return NULL;
}

pid_t process_sub_pid(const struct process_sub *s)
{
	return s->p->pid;
}

const struct process_end *process_sub_end(const struct process_sub *s)
{
	return &s->p->end;
}

// A pump that is let go may not have woken yet.
static bool is_moving(const struct process *p)
{
	return p->parked && p->table->holding;
}

bool process_sub_ready(struct process_sub *s)
{
	struct process_table *t = s->p->table;
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&t->lock);
	return s->count > 0 || s->p->ended || is_moving(s->p);
}

enum process_event process_sub_next(
	struct process_sub *s, uint64_t until_ns, int socket, struct process_chunk **ret)
{
	struct process_table *t = s->p->table;
	for (;;) {
		pthread_mutex_lock(&t->lock);
		if (s->count > 0) {
			*ret = pop_locked(s);
			pthread_mutex_unlock(&t->lock);
			return PROCESS_DATA;
		}
		bool ended = s->p->ended, moving = is_moving(s->p);
		s->asleep = !ended && !moving;
		pthread_mutex_unlock(&t->lock);
		if (ended)
			return PROCESS_END;
		if (moving)
			return PROCESS_MOVED;
		struct pollfd pf[2] = {
			{.fd = s->wake_fd, .events = POLLIN}, {.fd = socket, .events = POLLRDHUP}};
		int n = poll(pf, 2, deadline_left_ms(until_ns));
		if (n == 0)
			return PROCESS_IDLE;
		if (n > 0 && pf[1].revents)
			return PROCESS_GONE;
		eventfd_t count;
		if (n > 0)
			eventfd_read(s->wake_fd, &count);
	}
}

// --- the pump

static bool any_full_locked(const struct process *p)
{
	for (const struct process_sub *s = p->subs; s; s = s->next)
		if (full(s))
			return true;
	return false;
}

// The time is over: kills the leader's group if the leader still lives. Who outlived it was meant
// to.
static void expire_locked(struct process *p)
{
	p->deadline_ns = TIME_NEVER;
	p->timed_out = p->forced = true;
	if (!p->reaped)
		kill_locked(p, SIGKILL);
}

static void publish(struct process *p, enum process_stream stream, const char *data, size_t len)
{
	struct process_table *t = p->table;
	struct process_chunk *c = malloc(sizeof *c + len);
	if (!c)
		return; // out of memory: nothing could be told to anyone
	c->stream = stream;
	c->len = len;
	c->refs = 1;
	memcpy(c->data, data, len);
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&t->lock);
	while (any_full_locked(p) && !t->closing)
		if (cond_wait_until(&p->space, &t->lock, p->deadline_ns) < 0)
			expire_locked(p);
	for (struct process_sub *s = p->subs; s && !t->closing; s = s->next) {
		s->queue[(s->head + s->count++) % QUEUE_CHUNKS] = c;
		s->bytes += len;
		c->refs++;
		wake_locked(s);
	}
	chunk_unref_locked(c);
}

static enum process_stream stream_of(const struct process *p, int i)
{
	return p->pty ? PROCESS_PTY : i ? PROCESS_STDERR : PROCESS_STDOUT;
}

// One read of output i, passed on unless the end was told.
static void pump_read(struct process *p, int i, char *buf)
{
	ssize_t n = RETRY_EINTR(read(p->out[i], buf, p->pty ? PTY_CHUNK : PIPE_CHUNK));
	if (n < 0 && errno == EAGAIN)
		return;
	if (n <= 0) { // a terminal whose last user is gone gives EIO
		p->out[i] = safe_close(p->out[i]);
		return;
	}
	p->owed -= n;
	p->output_ns = clock_monotonic_ns();
	if (!p->ended)
		publish(p, stream_of(p, i), buf, (size_t)n);
}

static void reap(struct process *p)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&p->table->lock);
	siginfo_t si = {0};
	RETRY_EINTR(waitid(P_PID, (id_t)p->pid, &si, WEXITED));
	p->status = si.si_code == CLD_EXITED ? W_EXITCODE(si.si_status, 0)
					     : W_EXITCODE(0, si.si_status);
	p->reaped = true;
	p->reaped_ns = p->output_ns = clock_monotonic_ns();
	p->owed = 0;
	for (int i = 0; i < 2; i++) {
		int n;
		if (p->out[i] >= 0 && ioctl(p->out[i], FIONREAD, &n) == 0)
			p->owed += n;
	}
	// The time was the leader's. What its output still needs is bounded by itself.
	if (p->ends_on_exit)
		p->deadline_ns = TIME_NEVER;
}

// Without a leader, process_signal can only be heard through this.
static void open_wake(struct process *p)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&p->table->lock);
	p->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	p->wake_tried = true; // without descriptors a kill is heard at the next output
}

static uint64_t quiet_until(const struct process *p)
{
	bool none = p->output_ns == p->reaped_ns;
	return p->output_ns + (none ? DRAIN_FIRST_NS : DRAIN_QUIET_NS);
}

// When the pump looks up at the latest. 0 is at once.
static uint64_t pump_until(struct process *p)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&p->table->lock);
	if (!p->reaped)
		return p->deadline_ns;
	if (!p->wake_tried)
		return 0;
	if (p->ends_on_exit)
		return MIN(quiet_until(p), p->reaped_ns + DRAIN_MAX_NS);
	return p->forced ? 0 : p->deadline_ns;
}

// While the table is held. Its streams end from here on: nothing more comes for them.
static void park(struct process *p)
{
	struct process_table *t = p->table;
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&t->lock);
	if (!t->holding)
		return;
	t->n_parked++;
	p->parked = true;
	for (struct process_sub *s = p->subs; s; s = s->next)
		wake_locked(s);
	pthread_cond_signal(&t->pump_done);
	while (t->holding && !t->closing)
		pthread_cond_wait(&t->going, &t->lock);
	p->parked = false;
	t->n_parked--;
}

// What woke the pump is looked at next; readable for ever, it would keep it from sleeping.
static void clear_wake(struct process *p)
{
	eventfd_t count;
	if (p->wake_fd >= 0)
		eventfd_read(p->wake_fd, &count);
}

// Who was attached before a hand-over comes again, and what is read before that would be lost.
static void await_client(struct process *p)
{
	struct process_table *t = p->table;
	for (;;) {
		pthread_mutex_lock(&t->lock);
		uint64_t until = MIN(p->client_ns, p->deadline_ns);
		if (p->subs || p->forced || t->closing || deadline_over(until))
			p->client_ns = 0;
		bool wait = p->client_ns != 0;
		pthread_mutex_unlock(&t->lock);
		if (!wait)
			return;
		struct pollfd pf[3] = {{.fd = p->wake_fd, .events = POLLIN},
			{.fd = t->stop_fd, .events = POLLIN}, {.fd = t->hold_fd, .events = POLLIN}};
		poll(pf, 3, deadline_left_ms(until));
		clear_wake(p);
		park(p);
	}
}

// Nothing more is to be waited for. quiet: since the leader's end there was a moment at which
// nothing was left to be read.
static bool over(struct process *p, bool quiet)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&p->table->lock);
	if (!p->reaped)
		return false;
	if ((p->out[0] < 0 && p->out[1] < 0) || p->table->closing)
		return true;
	if (!quiet && p->owed > 0)
		return false;
	uint64_t now = clock_monotonic_ns();
	if (p->ends_on_exit)
		return now >= p->reaped_ns + DRAIN_MAX_NS || (quiet && now >= quiet_until(p));
	return p->forced;
}

void process_table_watch_oom(struct process_table *t)
{
	t->oom = oom_watch_new();
}

// Before the end is told. A shell says 128 + 9 of a child that was killed.
static void look_for_kill(struct process *p)
{
	bool killed = WIFSIGNALED(p->status) ? WTERMSIG(p->status) == SIGKILL
					     : WEXITSTATUS(p->status) == 128 + SIGKILL;
	p->end.oom_kills = oom_watch_blame(
		p->table->oom, p->pid, p->oom_seq, killed && !p->forced, &p->end.oom);
}

static void publish_end(struct process *p)
{
	struct process_table *t = p->table;
	look_for_kill(p);
	_cleanup_unlock_ pthread_mutex_t *input = mutex_lock(&p->stdin_lock);
	p->stdin_fd = safe_close(p->stdin_fd);
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&t->lock);
	p->end.exited = WIFEXITED(p->status);
	p->end.exit_code = p->end.exited ? WEXITSTATUS(p->status) : -1;
	p->end.output_open = p->out[0] >= 0 || p->out[1] >= 0;
	// One that ended by itself at the last moment was not killed.
	p->end.killed = WIFSIGNALED(p->status) && WTERMSIG(p->status) == SIGKILL;
	p->end.timed_out = p->timed_out && (p->end.killed || p->end.output_open);
	proc_status_text(p->status, p->end.status, sizeof p->end.status);
	p->ended = true;
	p->ended_ns = clock_monotonic_ns();
	p->pidfd = safe_close(p->pidfd); // used under either lock
	p->wake_fd = safe_close(p->wake_fd);
	json_decref(TAKE_PTR(p->config));
	for (struct process_sub *s = p->subs; s; s = s->next)
		wake_locked(s);
	t->n_ended++;
}

static void pump_leave(struct process *p)
{
	struct process_table *t = p->table;
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&t->lock);
	t->n_pumps--;
	pthread_cond_signal(&t->pump_done);
	unref_locked(p);
}

// To the leader's end, and that of its output.
static void pump_run(struct process *p, char *buf)
{
	await_client(p);
	for (bool quiet = false; !over(p, quiet);) {
		struct pollfd pf[5] = {{.fd = p->out[0], .events = POLLIN},
			{.fd = p->out[1], .events = POLLIN},
			{.fd = p->reaped ? -1 : p->pidfd, .events = POLLIN},
			{.fd = p->wake_fd, .events = POLLIN},
			{.fd = p->table->hold_fd, .events = POLLIN}};
		int n = poll(pf, 5, deadline_left_ms(pump_until(p)));
		quiet = n == 0 || (n > 0 && !pf[0].revents && !pf[1].revents);
		// The ends of the pipes mostly come with the leader's; only a process that leaves
		// them to others needs more.
		if (n == 0 && p->reaped && !p->wake_tried)
			open_wake(p);
		// Also beside output that never pauses.
		pthread_mutex_lock(&p->table->lock);
		if (deadline_over(p->deadline_ns))
			expire_locked(p);
		pthread_mutex_unlock(&p->table->lock);
		for (int i = 0; i < 2; i++)
			if (n > 0 && pf[i].revents)
				pump_read(p, i, buf);
		if (n > 0 && pf[2].revents) {
			reap(p);
			quiet = false;
		}
		if (n > 0 && pf[3].revents)
			clear_wake(p);
		if (n > 0 && pf[4].revents) {
			park(p);
			await_client(p);
		}
	}
}

// What outlives its leader writes on into pipes that nobody looks at.
static void pump_drop(struct process *p, char *buf)
{
	if (p->pty) // a hang-up: as when a connection to a terminal ends
		p->out[0] = safe_close(p->out[0]);
	while (p->out[0] >= 0 || p->out[1] >= 0) {
		struct pollfd pf[4] = {{.fd = p->out[0], .events = POLLIN},
			{.fd = p->out[1], .events = POLLIN},
			{.fd = p->table->stop_fd, .events = POLLIN},
			{.fd = p->table->hold_fd, .events = POLLIN}};
		if (poll(pf, 4, -1) < 0)
			continue;
		if (pf[2].revents)
			return;
		if (pf[3].revents)
			park(p);
		for (int i = 0; i < 2; i++)
			if (pf[i].revents)
				pump_read(p, i, buf);
	}
}

static void *pump_main(void *arg)
{
	struct process *p = arg;
	char buf[PIPE_CHUNK];
	if (!p->ended) { // else it was taken over
		pump_run(p, buf);
		publish_end(p);
	}
	pump_drop(p, buf);
	pump_leave(p);
	return NULL;
}

// --- start

static int start_pump(struct process *p)
{
	pthread_t thread;
	pthread_attr_t attr;
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, PUMP_STACK);
	int rc = pthread_create(&thread, &attr, pump_main, p);
	pthread_attr_destroy(&attr);
	return -rc;
}

struct process *process_blank(struct process_table *t)
{
	struct process *p = calloc(1, sizeof *p);
	if (!p)
		return NULL;
	p->table = t;
	p->refs = 1;
	p->pidfd = p->out[0] = p->out[1] = p->stdin_fd = p->wake_fd = -1;
	p->deadline_ns = TIME_NEVER;
	p->oom_seq = oom_watch_seq(t->oom);
	pthread_cond_init(&p->space, NULL);
	pthread_mutex_init(&p->stdin_lock, NULL);
	return p;
}

void process_drop(struct process *p)
{
	unref(p);
}

int process_adopt(struct process_table *t, struct process *p)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&t->lock);
	p->refs++; // the pump's
	t->n_pumps++;
	int rc = start_pump(p);
	if (rc < 0) {
		p->refs--;
		t->n_pumps--;
		return rc;
	}
	t->n_ended += p->ended;
	p->next = t->list;
	t->list = p;
	return 0;
}

static struct process *process_new(struct process_table *t, const struct process_start *s)
{
	struct process *p = process_blank(t);
	if (!p)
		return NULL;
	p->pty = s->pty;
	p->ends_on_exit = s->ends_on_exit;
	p->config = json_incref(s->config);
	if (s->tag && !(p->tag = strdup(s->tag))) {
		process_free(p);
		return NULL;
	}
	return p;
}

// Puts a started process into the table with its first subscriber and its pump.
static struct process_sub *add(struct process_table *t, struct process *p)
{
	pthread_mutex_lock(&t->lock);
	purge_locked(t);
	struct process_sub *sub = subscribe_locked(p);
	p->refs++; // the pump's
	t->n_pumps++;
	int rc = t->closing ? -ECANCELED : sub ? start_pump(p) : -ENOMEM;
	if (rc == 0) {
		p->next = t->list; // the first reference goes to the list
		t->list = p;
	} else {
		p->refs--;
		t->n_pumps--;
	}
	pthread_mutex_unlock(&t->lock);
	if (rc < 0)
		return process_sub_free(sub);
	return sub;
}

int process_start(struct process_table *t, const struct process_start *s, struct process_sub **ret,
	struct err *e)
{
	_cleanup_(stdio_done) struct stdio io = STDIO_NONE;
	struct process *p = process_new(t, s);
	if (!p)
		return err_errno(e, ENOMEM, "cannot start %s", s->cmd);
	int rc = s->pty ? stdio_open_pty(s->cols, s->rows, s->user, &io)
			: stdio_open_pipes(s->stdin_open, t->null_fd, &io);
	if (rc < 0) {
		err_errno(e, rc, "cannot make the %s of %s", s->pty ? "terminal" : "pipes", s->cmd);
		unref(p);
		return rc;
	}
	const struct spawn spawn = {.cmd = s->cmd,
		.argv = s->argv,
		.env = s->env,
		.cwd = s->cwd,
		.fds = {io.child[0], io.child[1], io.child[2]},
		.tty = s->pty,
		.user = s->user,
		.cgroup_fd = t->cgroup_fd,
		.cgroup_ns_fd = t->cgroup_ns_fd,
		.nofile = &t->nofile};
	rc = gate_enter(t->gate, deadline_in_ms(PROCESS_START_WAIT_MS), s->client_fd, e);
	if (rc == 0) {
		rc = spawn_process(&spawn, &p->pid, &p->pidfd, e);
		gate_leave(t->gate);
	}
	if (rc < 0) {
		unref(p);
		return rc;
	}
	p->out[0] = TAKE_FD(io.out[0]);
	p->out[1] = TAKE_FD(io.out[1]);
	p->stdin_fd = TAKE_FD(io.stdin_fd);
	if (s->timeout_ns)
		p->deadline_ns = clock_monotonic_ns() + s->timeout_ns;
	struct process_sub *sub = add(t, p);
	if (!sub) {
		kill(-p->pid, SIGKILL);
		RETRY_EINTR(waitpid(p->pid, NULL, 0));
		unref(p);
		return err_errno(e, ENOMEM, "cannot start %s", s->cmd);
	}
	*ret = sub;
	return 0;
}

// --- the other calls

int process_connect(struct process_table *t, const struct process_selector *w,
	struct process_sub **ret, struct err *e)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&t->lock);
	purge_locked(t);
	struct process *p = find_locked(t, w, true);
	struct process_sub *s = p ? subscribe_locked(p) : NULL;
	if (!p)
		return not_found(w, e);
	if (!s)
		return err_errno(e, ENOMEM, "cannot attach to the process");
	*ret = s;
	return 0;
}

json_t *process_list(struct process_table *t)
{
	json_t *list = json_array();
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&t->lock);
	purge_locked(t);
	for (struct process *p = t->list; p; p = p->next) {
		if (p->ended)
			continue;
		json_t *o = json_pack("{s:O, s:i}", "config", p->config, "pid", (int)p->pid);
		if (p->tag)
			json_object_set_new(o, "tag", json_string(p->tag));
		json_array_append_new(list, o);
	}
	return list;
}

int process_signal(
	struct process_table *t, const struct process_selector *w, int sig, struct err *e)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&t->lock);
	struct process *p = find_locked(t, w, false);
	if (!p)
		return not_found(w, e);
	bool reached = kill_locked(p, sig);
	p->forced = true;
	if (p->wake_fd >= 0)
		eventfd_write(p->wake_fd, 1);
	if (!reached)
		return err_set(e, ERR_NOT_FOUND,
			"process %d has ended, and nobody of its group was reached: others hold "
			"its output",
			(int)p->pid);
	return 0;
}

// Under the lock of standard input.
static int write_input(const struct process *p, const char *data, size_t len, struct err *e)
{
	if (p->stdin_fd < 0)
		return err_set(e, ERR_INTERNAL, "standard input is closed");
	while (len) {
		ssize_t n = RETRY_EINTR(write(p->stdin_fd, data, len));
		if (n >= 0) {
			data += n;
			len -= (size_t)n;
			continue;
		}
		if (errno == EPIPE)
			return err_set(
				e, ERR_INTERNAL, "the process has closed its standard input");
		if (errno != EAGAIN)
			return err_errno(e, errno, "cannot write to the process");
		struct pollfd pf[3] = {{.fd = p->stdin_fd, .events = POLLOUT},
			{.fd = p->pidfd, .events = POLLIN},
			{.fd = p->table->hold_fd, .events = POLLIN}};
		if (poll(pf, 3, -1) <= 0)
			continue;
		if (pf[1].revents)
			return err_set(e, ERR_INTERNAL,
				"the process ended before it read its standard input");
		if (pf[2].revents)
			return err_set(e, ERR_UNAVAILABLE,
				"the agent is being replaced, and a part of this input was taken");
	}
	return 0;
}

int process_write(struct process_table *t, const struct process_selector *w, bool pty,
	const void *data, size_t len, struct err *e)
{
	struct process *p = get_running(t, w, e);
	if (!p)
		return -ENOENT;
	int rc;
	if (p->pty != pty) {
		rc = err_set(e, ERR_INTERNAL, "the process has %s: send its input as '%s'",
			p->pty ? "a terminal" : "no terminal", p->pty ? "pty" : "stdin");
	} else {
		pthread_mutex_lock(&p->stdin_lock);
		rc = write_input(p, data, len, e);
		pthread_mutex_unlock(&p->stdin_lock);
	}
	unref(p);
	return rc;
}

int process_close_stdin(struct process_table *t, const struct process_selector *w, struct err *e)
{
	struct process *p = get_running(t, w, e);
	if (!p)
		return -ENOENT;
	int rc = 0;
	if (p->pty) {
		err_set(e, ERR_INTERNAL,
			"a terminal's input cannot be closed; send Ctrl-D (byte 4) instead");
		rc = -ENOTTY;
	} else {
		pthread_mutex_lock(&p->stdin_lock);
		p->stdin_fd = safe_close(p->stdin_fd);
		pthread_mutex_unlock(&p->stdin_lock);
	}
	unref(p);
	return rc;
}

int process_resize(struct process_table *t, const struct process_selector *w, uint16_t cols,
	uint16_t rows, struct err *e)
{
	struct process *p = get_running(t, w, e);
	if (!p)
		return -ENOENT;
	int rc = 0;
	struct winsize size = {.ws_col = cols, .ws_row = rows};
	if (!p->pty) {
		rc = err_set(e, ERR_INTERNAL, "the process has no terminal");
	} else {
		pthread_mutex_lock(&p->stdin_lock);
		if (ioctl(p->stdin_fd, TIOCSWINSZ, &size) < 0)
			rc = err_errno(e, errno, "cannot set the size of the terminal");
		pthread_mutex_unlock(&p->stdin_lock);
	}
	unref(p);
	return rc;
}
