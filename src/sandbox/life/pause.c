// SPDX-License-Identifier: Apache-2.0
// Pause: the sandbox becomes a snapshot, then everything it has on the machine is freed.
//
// What if the power, or the server, goes at a given line:
//	before snapshot.json exists	it was never paused: the next start lets it go on
//	after that			it is paused: the next start frees the rest
// snapshot.json is the line between the two, the database comes after it (recover.c).
#include <string.h>
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "http/json.h"
#include "sandbox/capture/capture.h"
#include "sandbox/capture/harvest.h"
#include "sandbox/life/end.h"
#include "sandbox/table/bells.h"
#include "sandbox/table/claim.h"
#include "sandbox/table/state.h"
#include "shim/shim.h"

static void set_state(struct host *h, struct sandbox *s, enum sandbox_state to, const char *why)
{
	pthread_mutex_lock(&h->lock);
	sandbox_move(&s->info, to, why);
	pthread_mutex_unlock(&h->lock);
}

// The sandbox runs on; the reason is in e.
static void fail_back(struct host *h, struct sandbox *s, const char *op_id, struct capture *c,
	const struct err *why)
{
	struct err e = {0};
	if (!c->went_on && c->stopped_ns && capture_let_go(h, s, c, &e) < 0)
		log_error("guest does not go on after a failed pause sandbox=%s error=%s",
			s->info.id, e.text);
	capture_settle(h, s, c);
	struct sandbox done = *s;
	sandbox_move(&done.info, SANDBOX_RUNNING, "pause failed");
	done.info.snapshot[0] = '\0';
	_cleanup_json_ json_t *data =
		json_pack("{s:s%}", "error", why->text, MIN(strlen(why->text), (size_t)400));
	struct store_event ev = {
		.kind = "pause_failed", .cause = "pause_failed", .data = data, .failed = why};
	if (store_commit(h, op_id, &done, &ev, &e) < 0) {
		log_error("failed pause not recorded sandbox=%s error=%s", s->info.id, e.text);
		done.full_next = true; // as the row still says
	}
	pthread_mutex_lock(&h->lock);
	s->info = done.info;
	s->full_next = done.full_next;
	pthread_mutex_unlock(&h->lock);
}

static int finish(struct host *h, struct sandbox *s, const char *op_id, struct capture *c,
	uint64_t started, uint64_t *since, struct err *e)
{
	int rc = 0;
	// From here on there is no way back: the snapshot is the sandbox.
	fault_hit("pause.after_publish", NULL);
	int freed = sandbox_free_resources(h, s, true);
	if (freed < 0)
		return err_errno(e, freed, "paused, but not all of it could be freed");
	sandbox_phase(&s->info, "free", since);
	fault_hit("pause.after_free", NULL);
	struct sandbox done = *s;
	sandbox_move(&done.info, SANDBOX_PAUSED, op_id);
	done.info.address[0] = done.info.backend[0] = '\0';
	done.info.ends_at_ns = 0; // its time does not run
	done.full_next = false;
	snprintf(done.info.snapshot, sizeof done.info.snapshot, "%s", c->snapshot);
	_cleanup_json_ json_t *data = json_pack("{s:I, s:I, s:I, s:o}", "duration_us",
		(json_int_t)((clock_monotonic_ns() - started) / 1000), "memory_bytes",
		(json_int_t)c->row.info.memory_bytes, "generation",
		(json_int_t)done.info.generation, "phases", sandbox_phases_json(&done.info));
	struct store_event ev = {.kind = "paused", .data = data};
	struct err why = {0};
	int committed = store_commit_snapshot(h, op_id, &done, &c->row, NULL, &ev, &why);
	if (committed < 0) {
		// The open journal entry leads the next start to the same end.
		log_error("pause not recorded sandbox=%s error=%s", s->info.id, why.text);
		if (rc == 0) {
			*e = why;
			rc = committed;
		}
	}
	sandbox_phase(&done.info, "commit", since);
	pthread_mutex_lock(&h->lock);
	s->info = done.info;
	s->full_next = false;
	h->pauses++;
	pthread_mutex_unlock(&h->lock);
	return rc;
}

static int pause_steps(struct host *h, struct sandbox *s, const char *op_id, struct err *e)
{
	_cleanup_(capture_done) struct capture c;
	char journal[160];
	uint64_t t = clock_monotonic_ns(), started = t;
	bool full = s->full_next;
	int rc = capture_init(&c, "pause", NULL, full, journal);
	if (rc < 0)
		return err_set(e, ERR_INTERNAL, "journal entry too long");
	// What this run touched at its start is the next one's working set. The pager has written
	// it by the time that memory is written.
	if (str_eq(s->info.backend, "uffd"))
		shim_poke_pager(s->pidfd);
	set_state(h, s, SANDBOX_PAUSING, op_id);
	s->full_next = true; // in the row; the capture goes by what was before
	rc = store_op_begin(h, op_id, "pause", s, journal, e);
	s->full_next = full;
	if (rc < 0) { // nothing was touched yet
		set_state(h, s, SANDBOX_RUNNING, "journal failed");
		return rc;
	}
	sandbox_phase(&s->info, "journal", &t);
	rc = fault_hit("pause.after_journal", e);
	if (rc == 0)
		rc = capture_take(h, s, &c, &t, e);
	harvest(h, s);
	if (rc == 0)
		rc = capture_publish(h, s, &c, &t, e);
	if (rc < 0) {
		fail_back(h, s, op_id, &c, e);
		return rc;
	}
	return finish(h, s, op_id, &c, started, &t, e);
}

int host_pause(
	struct host *h, const char *op_id, const char *id, struct host_sandbox *ret, struct err *e)
{
	struct err local = {0};
	struct sandbox *s = NULL;
	if (!e)
		e = &local;
	int rc = sandbox_claim(h, op_id, id, "pause", 1u << SANDBOX_RUNNING, &s, ret, e);
	if (rc != 0)
		return rc < 0 ? rc : 0;
	// The end of the VM during a pause is seen by the calls to it; it is judged afterwards.
	pthread_mutex_lock(&h->lock);
	monitor_unwatch(h, s);
	pthread_mutex_unlock(&h->lock);
	rc = pause_steps(h, s, op_id, e);
	if (rc < 0)
		log_warn("pause failed sandbox=%s error=%s", id, err_text(e, rc));
	else
		log_info("paused sandbox=%s", id);
	pthread_mutex_lock(&h->lock);
	s->layer[0] = '\0';
	if (s->pidfd >= 0)
		monitor_watch(h, s);
	*ret = s->info;
	host_release(h, s);
	pthread_mutex_unlock(&h->lock);
	upkeep_wake(h);
	return rc;
}
