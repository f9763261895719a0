// SPDX-License-Identifier: Apache-2.0
// How a sandbox ends: by a destroy (a call, a time-out), or by itself.
//
// A destroy does not wait for the guest, its VMM, or an operation that has the sandbox. Whatever
// these do, it is answered in a few seconds, and the sandbox is stopped for good. In this order:
//
// 1. The journal has the destroy. The operation that has the sandbox is told to give up
//    (sandbox.ending), a start that waits for its turn is sent away, and the processes are killed,
//    which ends calls to them.
// 2. The claim is waited for, WAIT_MS at most. An operation that does not let go in time keeps the
//    claim and loses its say: sandbox.removed makes the database refuse its commit (store_apply),
//    and what is there when it ends is freed then (sandbox_free_later).
// 3. The row says stopped, and the snapshots of its pauses are dropped.
// 4. What is left is freed; FREE_MS of that is waited for (free.h).
#include "sandbox/life/end.h"
#include <string.h>
#include "base/clock.h"
#include "base/fault.h"
#include "base/json.h"
#include "base/log.h"
#include "sandbox/life/free.h"
#include "sandbox/machine/host_oom.h"
#include "sandbox/machine/console.h"
#include "sandbox/table/bells.h"
#include "sandbox/table/claim.h"
#include "sandbox/table/state.h"
#include "sandbox/table/store.h"
#include "shim/shim.h"

#define WAIT_MS 2000

// What is asked for afterwards (why), when neither row nor console are there any more. Of one that
// was ended on purpose the console tells nothing, and those are many.
static json_t *end_data(struct host *h, const struct host_sandbox *s)
{
	enum end_cause cause = end_cause_parse(s->cause);
	bool meant = cause == END_KILLED || cause == END_TIMEOUT || cause == END_RETENTION ||
		     cause == END_SERVER_STOPPED;
	json_t *data = meant ? NULL : console_event(h, s->id);
	if (!data)
		data = json_object();
	if (s->detail[0])
		json_object_set_new(data, "detail", json_string(s->detail));
	return data;
}

// *s becomes stopped in the database and in the table.
static int record_end(struct host *h, struct sandbox *s, const char *op_id, const char *cause,
	const char *detail, struct err *e)
{
	pthread_mutex_lock(&h->lock);
	struct sandbox done = *s;
	pthread_mutex_unlock(&h->lock);
	if (done.info.state == SANDBOX_STOPPED) // by another end: that one counts
		return op_id ? store_op_end(h, op_id, s->info.id, NULL) : 0;
	if (done.info.state != SANDBOX_STOPPING)
		sandbox_move(&done.info, SANDBOX_STOPPING, cause);
	sandbox_move(&done.info, SANDBOX_STOPPED, cause);
	done.info.stopped_ns = clock_realtime_ns();
	done.info.address[0] = done.info.backend[0] = done.info.snapshot[0] = '\0';
	done.has_slot = false;
	snprintf(done.info.cause, sizeof done.info.cause, "%s", cause);
	snprintf(done.info.detail, sizeof done.info.detail, "%s", detail ? detail : "");
	_cleanup_json_ json_t *data = end_data(h, &done.info);
	const struct store_event ev = {.kind = "stopped", .cause = cause, .data = data};
	const struct store_change c = {
		.op_id = op_id, .row = &done, .removes = true, .drop_pauses = true, .event = &ev};
	int rc = store_apply(h, &c, e);
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&h->lock);
	s->info = done.info;
	s->due_ns = 0;
	pthread_mutex_unlock(&h->lock);
	return 0;
}

// --- destroy

// Of one that ended by itself only the console and the row are left.
static int forget_ended(struct host *h, struct sandbox *s)
{
	sandbox_free(h, s, FREE_ALL, FREE_MS);
	sandbox_forget(h, s);
	return 0;
}

// There, and something of it can still be removed. host.lock held.
static struct sandbox *find(struct host *h, const char *id)
{
	struct sandbox *s = host_find(h, id);
	bool over = s && s->info.state == SANDBOX_STOPPED;
	return over && (s->removed || (!s->operation && !s->has_files)) ? NULL : s;
}

// Claims it, or takes the last word from who has it. host.lock held, but not all the time. 0:
// claimed, 1: taken, -ENOENT: it went meanwhile.
static int take_over(struct host *h, const char *id, struct sandbox **ret)
{
	uint64_t until = deadline_in_ms(WAIT_MS);
	char dir[512];
	struct sandbox *s;
	if (host_run_path(h, id, dir) < 0)
		return -ENOENT;
	while ((s = find(h, id)) && s->operation && !deadline_over(until)) {
		s->ending = true;
		gate_cancel(&h->gate, &s->ticket);
		// Again each time: what was about to start processes has them now. They are found
		// by their directory: the descriptor is whose operation it is.
		pthread_mutex_unlock(&h->lock);
		shim_kill(dir, -1);
		pthread_mutex_lock(&h->lock);
		if ((s = find(h, id)) && s->operation)
			cond_wait_until(&h->changed, &h->lock, MIN(until, deadline_in_ms(50)));
	}
	// It is over, and what has it frees or forgets it: there is no last word to take.
	if (!s || (s->operation && s->info.state == SANDBOX_STOPPED))
		return -ENOENT;
	*ret = s;
	if (s->operation) {
		s->removed = true;
		return 1;
	}
	s->operation = "destroy";
	s->ending = false;
	return 0;
}

static int finish_destroy(struct host *h, struct sandbox *s, const char *op_id, const char *cause,
	bool claimed, struct err *e)
{
	char dir[512];
	int rc = fault_hit("destroy.after_journal", e);
	if (claimed && host_run_path(h, s->info.id, dir) == 0)
		shim_kill(dir, s->pidfd);
	if (rc == 0)
		rc = fault_hit("destroy.before_commit", e);
	// Told to fail, all the same: the machine is dead.
	struct err why = {0};
	int committed = record_end(h, s, op_id, cause, NULL, &why);
	if (committed < 0 && rc == 0) {
		rc = committed;
		if (e)
			*e = why;
	}
	if (!claimed)
		sandbox_free_later(h, s);
	else if (sandbox_free(h, s, FREE_ALL, FREE_MS) < 0)
		log_info("destroyed, its processes have not ended yet sandbox=%s", s->info.id);
	pthread_mutex_lock(&h->lock);
	if (committed == 0)
		h->destroys++;
	else if (claimed)
		sandbox_move(&s->info, SANDBOX_ERROR, "destroy not recorded");
	if (claimed)
		host_release(h, s);
	pthread_mutex_unlock(&h->lock);
	return rc;
}

int host_destroy(
	struct host *h, const char *op_id, const char *id, const char *cause, struct err *e)
{
	char op_state[8], op_sandbox[64];
	int rc = store_op_find(h, op_id, op_state, op_sandbox, NULL, e);
	if (rc < 0)
		return rc;
	if (op_state[0] && !str_eq(op_sandbox, id))
		return err_set(
			e, ERR_CONFLICT, "operation id was used for sandbox '%s'", op_sandbox);
	if (str_eq(op_state, "done"))
		return 0;
	pthread_mutex_lock(&h->lock);
	struct sandbox *s = find(h, id);
	bool ended = s && s->info.state == SANDBOX_STOPPED;
	pthread_mutex_unlock(&h->lock);
	if (!s)
		return err_set(e, ERR_NOT_FOUND, "no sandbox '%s'", id);
	if (!ended && (rc = store_op_begin(h, op_id, "destroy", id, NULL, NULL, NULL, e)) < 0)
		return rc; // nothing was touched yet
	pthread_mutex_lock(&h->lock);
	rc = take_over(h, id, &s);
	if (rc == 0 && s->info.state != SANDBOX_STOPPED) {
		sandbox_move(&s->info, SANDBOX_STOPPING, cause);
		monitor_unwatch(h, s);
	}
	ended = rc >= 0 && s->info.state == SANDBOX_STOPPED;
	pthread_mutex_unlock(&h->lock);
	if (rc < 0) {
		// What made it has undone it, or it ended: gone is what the caller wants.
		store_op_end(h, op_id, id, NULL);
		return 0;
	}
	if (ended && rc == 0)
		return forget_ended(h, s);
	return finish_destroy(h, s, op_id, cause, rc == 0, e);
}

int host_expire(struct host *h, const char *op_id, const char *id, uint64_t generation,
	const char *cause, struct err *e)
{
	struct sandbox *s;
	struct host_sandbox info;
	int rc = sandbox_claim(h, op_id, id, "destroy", 1u << SANDBOX_PAUSED, &s, &info, e);
	if (rc != 0)
		return MIN(rc, 0);
	pthread_mutex_lock(&h->lock);
	uint64_t is = s->info.generation;
	pthread_mutex_unlock(&h->lock);
	if (is != generation)
		rc = err_set(e, ERR_CONFLICT, "sandbox '%s' was used meanwhile", id);
	else
		rc = store_op_begin(h, op_id, "destroy", id, NULL, NULL, NULL, e);
	pthread_mutex_lock(&h->lock);
	if (rc < 0)
		host_release(h, s);
	else
		sandbox_move(&s->info, SANDBOX_STOPPING, cause);
	pthread_mutex_unlock(&h->lock);
	return rc < 0 ? rc : finish_destroy(h, s, op_id, cause, true, e);
}

// --- an end by itself

// What the shim has written down, and what the console and the host's log say besides.
static const char *judge(struct host *h, const struct sandbox *s, struct shim_exit *x)
{
	char dir[512], console[512];
	const char *id = s->info.id;
	if (host_run_path(h, id, dir) < 0 || host_disk_path(h, id, "console.log", console) < 0)
		return end_cause_name(END_SHIM_LOST);
	int rc = shim_read_exit(dir, x, NULL);
	bool vmm_said = rc == 0 && str_eq(x->cause, "vmm_exit");
	if (!vmm_said && host_oom_find(s, dir, x->detail, sizeof x->detail))
		return end_cause_name(END_HOST_OOM);
	const char *judged = shim_judge_console(console);
	if (rc < 0) // killed hard: its namespace, and the VMM with it, is gone
		return end_cause_name(END_SHIM_LOST);
	if (judged && !str_eq(judged, end_cause_name(END_GUEST_POWEROFF)))
		console_line(h, id, "Kernel panic - not syncing", x->detail, sizeof x->detail);
	if (judged)
		return judged;
	if (vmm_said)
		return end_cause_name(END_GUEST_POWEROFF);
	return x->cause[0] ? x->cause : end_cause_name(END_VMM_CRASH);
}

void sandbox_ended(struct host *h, struct sandbox *s)
{
	struct shim_exit x = {0};
	struct err e = {0};
	const char *cause = judge(h, s, &x);
	log_info("sandbox ended sandbox=%s cause=%s detail=%s", s->info.id, cause, x.detail);
	// The console is kept for the hour in which the ended sandbox can still be asked about.
	sandbox_free(h, s, FREE_BUT_CONSOLE, FREE_MS);
	int rc = record_end(h, s, NULL, cause, x.detail, &e);
	if (rc < 0)
		log_error("end not recorded sandbox=%s error=%s", s->info.id, err_text(&e, rc));
	pthread_mutex_lock(&h->lock);
	h->guest_ends++;
	if (s->info.state != SANDBOX_STOPPED)
		sandbox_move(&s->info, SANDBOX_ERROR, "end not recorded");
	host_release(h, s);
	pthread_mutex_unlock(&h->lock);
}
