// SPDX-License-Identifier: Apache-2.0
// One job a sandbox, in the pool: settle chooses by the row's state, what it calls looks at the
// journal and at the files. What cannot be told now, since a VMM or a disk does not answer, is
// tried again.
#include "sandbox/capture/settle.h"
#include "sandbox/watch/settle.h"
#include <fcntl.h>
#include <string.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/json.h"
#include "sandbox/capture/capture.h"
#include "sandbox/capture/snapshots.h"
#include "sandbox/life/end.h"
#include "sandbox/life/free.h"
#include "sandbox/life/silent.h"
#include "sandbox/machine/reach.h"
#include "sandbox/table/bells.h"
#include "sandbox/table/state.h"
#include "sandbox/table/store.h"

#define AGAIN_MAX_MS 10000

void unsettled_read(const char *kind, const char *id, const char *data, struct unsettled *ret)
{
	_cleanup_json_ json_t *j = json_loads(data && *data ? data : "{}", 0, NULL);
	const char *snapshot = json_string_value(json_object_get(j, "snapshot"));
	const char *layer = json_string_value(json_object_get(j, "layer"));
	const char *token = json_string_value(json_object_get(j, "token"));
	*ret = (struct unsettled){.full = json_is_true(json_object_get(j, "full")),
		.once = json_is_true(json_object_get(j, "once")),
		.ends_at_ns = (uint64_t)json_integer_value(json_object_get(j, "ends_at_ns"))};
	snprintf(ret->token, sizeof ret->token, "%s", token ? token : "");
	snprintf(ret->kind, sizeof ret->kind, "%s", kind);
	snprintf(ret->id, sizeof ret->id, "%s", id);
	snprintf(ret->snapshot, sizeof ret->snapshot, "%s", snapshot ? snapshot : "");
	snprintf(ret->layer, sizeof ret->layer, "%s", layer ? layer : "");
}

static int snapshot_is_there(const struct host *h, const char *id)
{
	char path[sizeof "snapshots//snapshot.json" + UUID_SIZE];
	snprintf(path, sizeof path, "snapshots/%.36s/snapshot.json", id);
	return id[0] ? file_there(h->data_fd, path) : 0;
}

// The remains of a snapshot that was not finished, or whose row was not written. What a capture has
// staged of it is the settling's, where the machine runs on.
static void drop_unfinished(struct host *h, const struct unsettled *u, bool staged)
{
	struct err e = {0};
	struct store_snapshot row;
	struct stage g = {0};
	if (!u->snapshot[0] || store_get_snapshot(h, u->snapshot, &row, &e) == 0 ||
		e.code != ERR_NOT_FOUND)
		return;
	snapshot_discard(h, u->snapshot);
	stage_names(u->snapshot, u->layer, &g);
	if (staged)
		stage_drop(h, -1, &g);
}

// The row of a snapshot whose files are all there: the server died between the two.
static int remember_snapshot(struct host *h, const struct sandbox *s, const struct unsettled *op,
	struct store_snapshot *ret, bool *ret_quiesced, struct err *e)
{
	struct snapshot_info info;
	_cleanup_(header_freep) struct header *hd = NULL;
	int rc = snapshot_read(h->data_fd, op->snapshot, &info, &hd, e);
	if (rc < 0)
		return rc;
	struct store_snapshot row = {.info.vcpus = info.vcpus,
		.info.memory_mb = (unsigned)(info.memory_bytes >> 20),
		.info.disk_mb = s->info.disk_mb,
		.info.memory_bytes = header_data_bytes(hd),
		.info.created_ns = info.created_ns};
	snprintf(row.info.id, sizeof row.info.id, "%s", op->snapshot);
	snprintf(row.info.kind, sizeof row.info.kind, "pause");
	snprintf(row.info.sandbox, sizeof row.info.sandbox, "%s", s->info.id);
	snprintf(row.info.template, sizeof row.info.template, "%s", s->info.template);
	snprintf(row.info.parent, sizeof row.info.parent, "%s", s->parent);
	snprintf(row.token, sizeof row.token, "%s", s->token);
	if ((rc = refs_add_snapshot(h->refs, op->snapshot, hd)) < 0 ||
		(rc = refs_name_runtime(h->refs, op->snapshot, info.runtime)) < 0)
		return err_errno(e, rc, "snapshot %s", op->snapshot);
	*ret = row;
	*ret_quiesced = info.quiesced;
	return 0;
}

// next becomes row and sandbox; the operation has failed.
static int commit(struct host *h, struct sandbox *s, struct sandbox *next,
	const struct store_change *change, struct err *e)
{
	struct store_change c = *change;
	c.row = next;
	if (s->unsettled->id[0])
		c.op_id = s->unsettled->id;
	int rc = store_apply(h, &c, e);
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&h->lock);
	uint64_t ends_at = s->info.ends_at_ns;
	enum on_timeout on_timeout = s->info.on_timeout;
	s->full_next = next->full_next;
	s->owed = next->owed;
	if (!s->removed) {
		s->info = next->info;
		s->info.on_timeout = on_timeout; // settings change meanwhile
		s->info.ends_at_ns = ends_at;
		if (c.sets_time)
			sandbox_set_end(s, next->info.ends_at_ns);
	}
	pthread_mutex_unlock(&h->lock);
	return 0;
}

static int cut_off(
	struct host *h, struct sandbox *s, enum sandbox_state now, const char *text, struct err *e)
{
	const struct unsettled *u = s->unsettled;
	struct sandbox next = *s;
	struct err why = {0};
	sandbox_move(&next.info, now, "server restarted");
	next.info.detail[0] = '\0';
	_cleanup_free_ char *kind = str_printf("%s_failed", u->kind[0] ? u->kind : "operation");
	err_set(&why, ERR_INTERNAL, "the server was restarted during the %s; %s",
		u->kind[0] ? u->kind : "operation", text);
	const struct store_event ev = {
		.kind = kind ? kind : "failed", .cause = "server_restarted", .failed = &why};
	return commit(h, s, &next, &(struct store_change){.event = &ev}, e);
}

// The pause got as far as its snapshot: the row is written now, the machine freed.
static int finish_pause(struct host *h, struct sandbox *s, struct err *e)
{
	struct store_snapshot row;
	bool quiesced = true;
	int rc = remember_snapshot(h, s, s->unsettled, &row, &quiesced, e);
	if (rc < 0)
		return rc;
	struct sandbox next = *s;
	sandbox_move(&next.info, SANDBOX_PAUSED, "server restarted");
	next.info.address[0] = next.info.backend[0] = next.info.detail[0] = '\0';
	next.info.ends_at_ns = 0;
	next.full_next = next.has_slot = false;
	next.owed = (struct sandbox_owed){0};
	next.info.agent_silent = false;
	next.info.unquiesced = !quiesced;
	snprintf(next.info.snapshot, sizeof next.info.snapshot, "%s", s->unsettled->snapshot);
	const struct store_event ev = {.kind = "paused", .cause = "server_restarted"};
	rc = commit(h, s, &next,
		&(struct store_change){.sets_time = true, .add = &row, .event = &ev}, e);
	if (rc < 0)
		return rc;
	sandbox_free(h, s, FREE_BUT_CONSOLE, 0);
	log_info("pause finished sandbox=%s", s->info.id);
	return 0;
}

// A capture was under way, or a guest stood still: the machine goes on from wherever it stands.
static int take_back(struct host *h, struct sandbox *s, struct err *e)
{
	const struct unsettled *u = s->unsettled;
	struct capture c = {.asked = true};
	_cleanup_(vmm_freep) struct vmm *v = NULL;
	enum vmm_state state;
	// Its answer comes when it is done with what it was told before.
	int rc = machine_vmm(h, s, &v, e);
	if (rc == 0)
		rc = vmm_get_state(v, &state, e);
	if (rc < 0)
		return rc;
	if (u->layer[0]) {
		snprintf(c.snapshot, sizeof c.snapshot, "%s", u->snapshot);
		snprintf(c.layer, sizeof c.layer, "%s", u->layer);
		stage_names(c.snapshot, c.layer, &c.stage);
		id_new_uuid(c.image);
		drop_unfinished(h, u, false);
		s->full_next = u->full; // the row's stood for "uncertain"
		capture_settle(h, s, &c);
	}
	rc = capture_let_go(h, s, &c, e);
	c.header = header_free(c.header);
	c.agent = http_client_free(c.agent);
	if (rc < 0)
		return rc;
	s->info.snapshot[0] = '\0';
	rc = cut_off(h, s, SANDBOX_RUNNING, "the sandbox runs on", e);
	if (rc == 0)
		log_info("unfinished %s taken back sandbox=%s", u->kind, s->info.id);
	return rc;
}

static int settle_running(struct host *h, struct sandbox *s, struct err *e)
{
	const struct unsettled *u = s->unsettled;
	int there = str_eq(u->kind, "pause") ? snapshot_is_there(h, u->snapshot) : 0;
	if (there < 0)
		return err_errno(e, there, "snapshot %s", u->snapshot);
	if (s->info.state == SANDBOX_PAUSING && there)
		return finish_pause(h, s, e);
	if (s->pidfd >= 0 && machine_is_gone(s))
		s->pidfd = safe_close(s->pidfd);
	if (s->pidfd < 0) {
		drop_unfinished(h, u, true);
		if (s->info.state != SANDBOX_STOPPING)
			sandbox_move(&s->info, SANDBOX_STOPPING, "shim ended");
		sandbox_ended(h, s); // the claim ends
		return 1;
	}
	if (u->layer[0] || s->info.state == SANDBOX_PAUSING || s->info.state == SANDBOX_ERROR)
		return take_back(h, s, e);
	drop_unfinished(h, u, true); // a roll-back before its commit
	return cut_off(h, s, SANDBOX_RUNNING, "the sandbox runs on", e);
}

// Its memory is resumed once, and that was done: it is the machine that runs. What its agent was
// told is not known.
static int finish_resume(struct host *h, struct sandbox *s, struct err *e)
{
	const struct unsettled *u = s->unsettled;
	struct sandbox next = *s;
	_cleanup_(vmm_freep) struct vmm *v = NULL;
	enum vmm_state state = VMM_NOT_STARTED;
	int rc = machine_vmm(h, s, &v, e);
	if (rc == 0)
		rc = vmm_get_state(v, &state, e);
	if (rc == 0 && state == VMM_PAUSED)
		rc = vmm_resume(v, e);
	if (rc < 0)
		return rc;
	sandbox_move(&next.info, SANDBOX_RUNNING, "server restarted");
	snprintf(next.parent, sizeof next.parent, "%s", s->info.snapshot);
	snprintf(next.info.backend, sizeof next.info.backend, "uffd");
	next.info.snapshot[0] = next.info.detail[0] = '\0';
	next.info.unquiesced = false;
	next.info.agent_silent = next.owed.init = true;
	snprintf(next.owed.token, sizeof next.owed.token, "%s", u->token);
	next.info.started_ns = clock_realtime_ns();
	next.info.ends_at_ns = u->ends_at_ns;
	_cleanup_json_ json_t *data = json_pack("{s:s}", "agent", "silent");
	const struct store_event ev = {
		.kind = "resumed", .cause = "server_restarted", .data = data};
	char of[UUID_SIZE];
	memcpy(of, s->info.snapshot, sizeof of);
	rc = commit(h, s, &next,
		&(struct store_change){.sets_time = true, .drop = of, .event = &ev}, e);
	if (rc < 0)
		return rc;
	memcpy(s->parent, of, sizeof s->parent);
	log_info("resume finished sandbox=%s", s->info.id);
	return 0;
}

// Of a paused one nothing runs; what a resume had made goes.
static int settle_paused(struct host *h, struct sandbox *s, struct err *e)
{
	const struct unsettled *u = s->unsettled;
	if (u->once && s->pidfd >= 0 && !machine_is_gone(s) &&
		snapshot_was_resumed(h->data_fd, s->info.snapshot) == 1)
		return finish_resume(h, s, e);
	sandbox_free(h, s, FREE_BUT_CONSOLE, 0);
	if (!str_eq(u->snapshot, s->info.snapshot))
		drop_unfinished(h, u, true);
	s->info.address[0] = s->info.backend[0] = '\0';
	if (!u->id[0] && s->info.state == SANDBOX_PAUSED)
		return 0;
	return cut_off(h, s, SANDBOX_PAUSED, "it is still paused", e);
}

static int settle_pending(struct host *h, struct sandbox *s, struct err *e)
{
	const struct store_event ev = {.kind = "create_failed", .cause = "server_lost"};
	struct sandbox next = *s;
	drop_unfinished(h, s->unsettled, true);
	sandbox_move(&next.info, SANDBOX_STOPPED, "server restarted");
	next.info.stopped_ns = clock_realtime_ns();
	snprintf(next.info.cause, sizeof next.info.cause, "create_failed");
	int rc = commit(h, s, &next, &(struct store_change){.event = &ev}, e);
	if (rc < 0)
		return rc;
	sandbox_free(h, s, FREE_ALL, 0);
	sandbox_forget(h, s); // the claim ends
	log_info("unfinished create undone");
	return 1;
}

// Its destroy is in the journal.
static int settle_stopping(struct host *h, struct sandbox *s, struct err *e)
{
	struct sandbox next = *s;
	const struct store_event ev = {.kind = "stopped", .cause = "killed"};
	sandbox_move(&next.info, SANDBOX_STOPPED, "server restarted");
	next.info.stopped_ns = clock_realtime_ns();
	next.info.address[0] = next.info.snapshot[0] = '\0';
	next.has_slot = false;
	if (!next.info.cause[0])
		snprintf(next.info.cause, sizeof next.info.cause, "killed");
	int rc = commit(h, s, &next,
		&(struct store_change){.removes = true, .drop_pauses = true, .event = &ev}, e);
	if (rc == 0)
		sandbox_free(h, s, FREE_ALL, 0);
	return rc;
}

// What a destroy had cut off.
static void settle_second(struct host *h, struct sandbox *s)
{
	struct unsettled *u = &s->unsettled[1];
	struct err why = {0};
	if (!u->id[0])
		return;
	drop_unfinished(h, u, true);
	err_set(&why, ERR_CONFLICT, "sandbox '%s' was removed during the %s", s->info.id, u->kind);
	store_op_end(h, u->id, s->info.id, &why);
	if (u->layer[0])
		refs_release_layer(h->refs, u->layer);
	*u = (struct unsettled){0};
}

// 0: settled, the claim is the caller's to end; 1: settled, it has ended.
static int settle(struct host *h, struct sandbox *s, struct err *e)
{
	switch (s->info.state) {
	case SANDBOX_STOPPED:
		if (sandbox_is_no_create(&s->info)) {
			sandbox_free(h, s, FREE_ALL, 0);
			sandbox_forget(h, s); // the claim ends
			return 1;
		}
		sandbox_free(h, s, FREE_BUT_CONSOLE, 0);
		return 0;
	case SANDBOX_PAUSED:
	case SANDBOX_RESUMING:
		return settle_paused(h, s, e);
	case SANDBOX_PENDING:
		return settle_pending(h, s, e);
	case SANDBOX_STOPPING:
		return settle_stopping(h, s, e);
	default:
		return settle_running(h, s, e);
	}
}

struct job {
	struct host *h;
	struct sandbox *s;
};

static void end_job(struct job *j, bool claimed)
{
	if (claimed) {
		pthread_mutex_lock(&j->h->lock);
		struct sandbox *s = j->s;
		if (s->unsettled->layer[0])
			refs_release_layer(j->h->refs, s->unsettled->layer);
		free(s->unsettled);
		s->unsettled = NULL;
		host_release(j->h, s);
		silent_ask(j->h, s);
		pthread_mutex_unlock(&j->h->lock);
		monitor_wake(j->h);
		upkeep_wake(j->h);
	}
	free(j);
}

static void work(void *ctx)
{
	struct job *j = ctx;
	struct host *h = j->h;
	struct sandbox *s = j->s;
	struct err e = {0};
	pthread_mutex_lock(&h->lock);
	bool removed = s->removed;
	pthread_mutex_unlock(&h->lock);
	if (removed) { // a destroy did not wait, and frees it once it is let go
		drop_unfinished(h, s->unsettled, true);
		settle_second(h, s);
		end_job(j, true);
		return;
	}
	char id[64], layer[UUID_SIZE];
	memcpy(id, s->info.id, sizeof id);
	memcpy(layer, s->unsettled->layer, sizeof layer);
	settle_second(h, s);
	int rc = settle(h, s, &e);
	if (rc == 1 && layer[0])
		refs_release_layer(h->refs, layer);
	if (rc >= 0) {
		end_job(j, rc == 0);
		return;
	}
	log_error("not settled, tried again sandbox=%s error=%s", id, err_text(&e, rc));
	pthread_mutex_lock(&h->lock);
	snprintf(s->info.detail, sizeof s->info.detail,
		"not settled since the server's start: %.150s; it is tried again", e.text);
	unsigned tries = s->unsettled->tries++;
	pthread_mutex_unlock(&h->lock);
	int64_t ms = MIN((int64_t)500 << MIN(tries, 8u), AGAIN_MAX_MS);
	if (workers_add(h->workers, false, deadline_in_ms(ms), work, j) < 0)
		free(j);
}

int settle_later(struct host *h, struct sandbox *s)
{
	struct job *j = malloc(sizeof *j);
	if (!j)
		return -ENOMEM;
	*j = (struct job){h, s};
	int rc = workers_add(h->workers, false, 0, work, j);
	if (rc < 0)
		free(j);
	return rc;
}
