// SPDX-License-Identifier: Apache-2.0
#include "envd/process/handover.h"
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/lock.h"
#include "envd/process/gate.h"
#include "envd/process/table.h"

#define CLIENT_COMES_NS (5 * NSEC_PER_SEC)
#define MAX_TAG (1u << 20)
#ifndef P_PIDFD // bits/waitflags.h, since glibc 2.36
#define P_PIDFD 3
#endif

// --- the old one

static bool any_sub_locked(const struct process_table *t)
{
	for (const struct process *p = t->list; p; p = p->next)
		if (p->subs)
			return true;
	return false;
}

int process_table_hold(struct process_table *t, uint64_t until_ns)
{
	int rc = gate_hold(t->gate, until_ns);
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&t->lock);
	t->holding = true;
	eventfd_write(t->hold_fd, 1);
	for (struct process *p = t->list; p; p = p->next)
		p->attached = p->subs || p->client_ns;
	while (rc == 0 && (t->n_parked < t->n_pumps || any_sub_locked(t)))
		rc = cond_wait_until(&t->pump_done, &t->lock, until_ns);
	pthread_mutex_unlock(&t->lock);
	if (rc < 0)
		process_table_release(t);
	return rc;
}

// Its stream was ended: its output waits for the client as it does after a hand-over.
static void await_client_locked(struct process *p)
{
	if (!p->attached || p->subs || p->ended)
		return;
	if (p->wake_fd < 0)
		p->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	p->wake_tried = true;
	p->client_ns = clock_monotonic_ns() + CLIENT_COMES_NS;
}

void process_table_release(struct process_table *t)
{
	pthread_mutex_lock(&t->lock);
	eventfd_t count;
	for (struct process *p = t->list; p; p = p->next)
		await_client_locked(p);
	eventfd_read(t->hold_fd, &count);
	t->holding = false;
	pthread_cond_broadcast(&t->going);
	pthread_mutex_unlock(&t->lock);
	gate_release(t->gate);
}

static json_t *save_end(const struct process *p)
{
	const struct process_end *end = &p->end;
	return json_pack("{s:i, s:b, s:b, s:b, s:b, s:s, s:I}", "exitCode", end->exit_code,
		"exited", end->exited, "killed", end->killed, "timedOut", end->timed_out,
		"outputOpen", end->output_open, "status", end->status, "atNs",
		(json_int_t)p->ended_ns);
}

static json_t *save_one(const struct process *p)
{
	json_t *j = json_pack("{s:i, s:i, s:i, s:i, s:i, s:b, s:b, s:b, s:b, s:b, s:b, s:i, s:I, "
			      "s:I, s:I}",
		"pid", (int)p->pid, "pidfd", p->pidfd, "out", p->out[0], "err", p->out[1], "in",
		p->stdin_fd, "pty", p->pty, "endsOnExit", p->ends_on_exit, "reaped", p->reaped,
		"forced", p->forced, "timedOut", p->timed_out, "attached", p->attached, "status",
		p->status, "reapedNs", (json_int_t)p->reaped_ns, "outputNs",
		(json_int_t)p->output_ns, "owed", (json_int_t)MAX(p->owed, 0));
	int bad = !j;
	if (j && p->tag)
		bad |= json_object_set_new(j, "tag", json_string(p->tag));
	if (j && p->config)
		bad |= json_object_set(j, "config", p->config);
	if (j && p->deadline_ns != TIME_NEVER)
		bad |= json_object_set_new(
			j, "deadlineNs", json_integer((json_int_t)p->deadline_ns));
	if (j && p->ended)
		bad |= json_object_set_new(j, "end", save_end(p));
	if (!bad)
		return j;
	json_decref(j);
	return NULL;
}

json_t *process_table_save(struct process_table *t)
{
	json_t *list = json_array();
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&t->lock);
	// The list is read from its end: the one that is loaded last is the newest again.
	for (struct process *p = t->list; list && p; p = p->next)
		if (json_array_insert_new(list, 0, save_one(p)) < 0) {
			json_decref(list);
			list = NULL;
		}
	return list ? json_pack("{s:o, s:I, s:I}", "processes", list, "filesSoft",
			      (json_int_t)MIN(t->nofile.rlim_cur, (rlim_t)INT64_MAX), "filesHard",
			      (json_int_t)MIN(t->nofile.rlim_max, (rlim_t)INT64_MAX))
		    : NULL;
}

static void set_inherit(int fd, bool on)
{
	if (fd >= 0)
		fcntl(fd, F_SETFD, on ? 0 : FD_CLOEXEC);
}

void process_table_inherit(struct process_table *t, bool on)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&t->lock);
	for (struct process *p = t->list; p; p = p->next) {
		set_inherit(p->pidfd, on);
		set_inherit(p->out[0], on);
		set_inherit(p->out[1], on);
		set_inherit(p->stdin_fd, on);
	}
}

// --- the new one

// What is read of one before anything is done with it.
struct saved {
	int pid, pidfd, out, err, in, status;
	bool pty, ends_on_exit, reaped, forced, timed_out, attached;
	uint64_t reaped_ns, output_ns, owed, deadline_ns;
	const char *tag;
	json_t *config, *end;
	struct process_end how;
	uint64_t ended_ns;
};

static int read_end(struct saved *s, struct err *e)
{
	const char *status = "";
	const struct json_field f[] = {
		{"exitCode", JF_INT, &s->how.exit_code, .required = true, .max = 65535},
		{"exited", JF_BOOL, &s->how.exited, .required = true},
		{"killed", JF_BOOL, &s->how.killed, .required = true},
		{"timedOut", JF_BOOL, &s->how.timed_out, .required = true},
		{"outputOpen", JF_BOOL, &s->how.output_open, .required = true},
		{"status", JF_STRING, &status, .required = true, .max = sizeof s->how.status - 1},
		{"atNs", JF_U64, &s->ended_ns, .required = true, .max = INT64_MAX},
	};
	int rc = json_read_fields(s->end, f, ARRAY_SIZE(f), true, e);
	if (rc == 0)
		snprintf(s->how.status, sizeof s->how.status, "%s", status);
	return rc;
}

static int read_one(json_t *j, struct saved *s, struct err *e)
{
	*s = (struct saved){.pidfd = -1, .out = -1, .err = -1, .in = -1, .deadline_ns = TIME_NEVER};
	const struct json_field f[] = {
		{"pid", JF_INT, &s->pid, .required = true, .max = INT32_MAX},
		{"pidfd", JF_INT, &s->pidfd, .max = INT32_MAX},
		{"out", JF_INT, &s->out, .max = INT32_MAX},
		{"err", JF_INT, &s->err, .max = INT32_MAX},
		{"in", JF_INT, &s->in, .max = INT32_MAX},
		{"pty", JF_BOOL, &s->pty},
		{"endsOnExit", JF_BOOL, &s->ends_on_exit},
		{"reaped", JF_BOOL, &s->reaped},
		{"forced", JF_BOOL, &s->forced},
		{"timedOut", JF_BOOL, &s->timed_out},
		{"attached", JF_BOOL, &s->attached},
		{"status", JF_INT, &s->status, .max = INT32_MAX},
		{"reapedNs", JF_U64, &s->reaped_ns, .max = INT64_MAX},
		{"outputNs", JF_U64, &s->output_ns, .max = INT64_MAX},
		{"owed", JF_U64, &s->owed, .max = INT64_MAX},
		{"deadlineNs", JF_U64, &s->deadline_ns, .max = INT64_MAX},
		{"tag", JF_STRING, &s->tag, .max = MAX_TAG},
		{"config", JF_OBJECT, &s->config},
		{"end", JF_OBJECT, &s->end},
	};
	int rc = json_is_object(j) ? json_read_fields(j, f, ARRAY_SIZE(f), true, e)
				   : err_set(e, ERR_INVALID, "a process must be an object");
	if (rc == 0 && s->end)
		rc = read_end(s, e);
	if (rc == 0 && s->pid < 1)
		rc = err_set(e, ERR_INVALID, "pid: must be over 0");
	const int fds[] = {s->pidfd, s->out, s->err, s->in};
	for (size_t i = 0; rc == 0 && i < ARRAY_SIZE(fds); i++)
		if (fds[i] != -1 && fds[i] < 3)
			rc = err_set(e, ERR_INVALID, "a descriptor of process %d is none", s->pid);
	if (rc == 0 && !s->end && s->pidfd < 0)
		rc = err_set(e, ERR_INVALID, "process %d has no pidfd", s->pid);
	return rc;
}

// It is there, and our child.
static int check_one(const struct saved *s, struct err *e)
{
	siginfo_t si = {0};
	const int fds[] = {s->pidfd, s->out, s->err, s->in};
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		if (fds[i] >= 0 && fcntl(fds[i], F_GETFD) < 0)
			return err_errno(e, errno, "descriptor %d of process %d", fds[i], s->pid);
	if (!s->end && !s->reaped &&
		waitid(P_PID, (id_t)s->pid, &si, WEXITED | WNOWAIT | WNOHANG) < 0)
		return err_errno(e, errno, "process %d", s->pid);
	return 0;
}

static int take_one(struct process_table *t, const struct saved *s, struct err *e)
{
	struct process *p = process_blank(t);
	if (!p || (s->tag && !(p->tag = strdup(s->tag)))) {
		if (p)
			process_drop(p);
		return err_errno(e, ENOMEM, "process %d", s->pid);
	}
	p->pid = s->pid;
	p->pidfd = s->pidfd;
	p->out[0] = s->out;
	p->out[1] = s->err;
	p->stdin_fd = s->in;
	p->pty = s->pty;
	p->ends_on_exit = s->ends_on_exit;
	p->reaped = s->reaped;
	p->forced = s->forced;
	p->timed_out = s->timed_out;
	p->status = s->status;
	p->reaped_ns = s->reaped_ns;
	p->output_ns = s->output_ns;
	p->owed = (int64_t)s->owed;
	p->deadline_ns = s->deadline_ns;
	p->config = json_incref(s->config);
	p->ended = s->end != NULL;
	p->end = s->how;
	p->ended_ns = s->ended_ns;
	p->attached = s->attached;
	await_client_locked(p);
	int rc = process_adopt(t, p);
	if (rc < 0) {
		process_drop(p);
		return err_errno(e, rc, "process %d", s->pid);
	}
	return 0;
}

int process_table_load(struct process_table *t, json_t *saved, bool check, struct err *e)
{
	json_t *list = NULL, *one = NULL;
	uint64_t soft = 0, hard = 0;
	size_t i;
	const struct json_field f[] = {
		{"processes", JF_ARRAY, &list, .required = true},
		{"filesSoft", JF_U64, &soft, .required = true, .max = INT64_MAX},
		{"filesHard", JF_U64, &hard, .required = true, .max = INT64_MAX},
	};
	int rc = json_read_fields(saved, f, ARRAY_SIZE(f), true, e);
	struct saved s;
	if (rc < 0)
		return rc;
	json_array_foreach (list, i, one)
		if ((rc = read_one(one, &s, e)) < 0 || (!check && (rc = check_one(&s, e)) < 0))
			return rc;
	if (check)
		return 0;
	t->nofile.rlim_cur = soft == INT64_MAX ? RLIM_INFINITY : (rlim_t)soft;
	t->nofile.rlim_max = hard == INT64_MAX ? RLIM_INFINITY : (rlim_t)hard;
	json_array_foreach (list, i, one)
		if ((rc = read_one(one, &s, e)) < 0 || (rc = take_one(t, &s, e)) < 0)
			return rc;
	return 0;
}
