// SPDX-License-Identifier: Apache-2.0
// How this works. An answer is put together from what there is: the row and the host's report of a
// sandbox that is known, the journal of operations (a week), the events (100,000 of all sandboxes),
// the console (until an hour after the end; the event of an end has its last lines). So a sandbox
// that is forgotten still has an answer for as long as its events are kept. A running one's agent
// is asked for kills that have not been told yet.
#include "control/api/why.h"
#include <string.h>
#include "agentclient/client.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/printable.h"
#include "control/api/causes.h"
#include "control/api/find.h"
#include "control/api/operations.h"
#include "control/api/reply.h"
#include "control/state/event_log.h"
#include "control/state/render.h"

#define MAX_EVENTS 100 // of the newest, which are looked through
#define MAX_OPERATIONS 5
#define MAX_KILLS 5 // events of kills
#define ASK_MS 2000

struct why {
	struct control *c;
	char id[64], name[64];
	struct sandbox_row *row; // NULL: forgotten, or never there
	struct host_sandbox info;
	bool ended;
	uint64_t ended_ns;
	char cause[64], detail[256];
	json_t *operations, *failure, *kills, *console; // owned; failure: NULL, none
	uint64_t failed_ns, failed_from_ns; // of the failure: its end, and its operation's begin
	uint64_t n_kills;
	bool any_event;
};

static void why_done(struct why *w)
{
	row_unref(w->row);
	json_decref(w->operations);
	json_decref(w->failure);
	json_decref(w->kills);
	json_decref(w->console);
}

static void set_text(char *out, size_t size, const char *text)
{
	printable_copy(out, size, text ? text : "", text ? strlen(text) : 0);
}

// --- what failed

static void set_failure(struct why *w, uint64_t at_ns, const char *kind, const json_t *operation,
	json_t *error, json_t *phases)
{
	const char *code = json_string_value(json_object_get(error, "code"));
	json_decref(w->failure);
	w->failed_ns = at_ns;
	w->failure = json_pack("{s:s, s:o, s:o, s:o, s:o, s:s}", "kind", kind, "operation",
		operation ? json_deep_copy(operation) : json_null(), "at", render_time(at_ns),
		"error", error, "phases", phases, "advice",
		causes_advice(code ? err_code_from_name(code) : ERR_INTERNAL));
}

// The host writes phases of an event as [["freeze", 120], ...].
static json_t *event_phases(const json_t *data)
{
	json_t *out = json_array(), *phase;
	size_t i;
	json_array_foreach (json_object_get(data, "phases"), i, phase)
		json_array_append_new(
			out, json_pack("{s:O?, s:O?}", "name", json_array_get(phase, 0), "us",
				     json_array_get(phase, 1)));
	return out;
}

// One of the host's events says that an operation failed there: of a time-out's pause nothing else
// does. For an operation of the journal it has the phases.
static void take_failed_event(struct why *w, const struct host_event *ev)
{
	static const char suffix[] = "_failed";
	char kind[sizeof ev->kind];
	const char *text = json_string_value(json_object_get(ev->data, "error"));
	size_t len = strlen(ev->kind) - (sizeof suffix - 1);
	snprintf(kind, sizeof kind, "%.*s", (int)len, ev->kind);
	if (w->failed_ns > ev->at_ns) {
		// The journal ends the operation a moment after the host has.
		if (ev->at_ns >= w->failed_from_ns &&
			str_eq(json_string_value(json_object_get(w->failure, "kind")), kind) &&
			json_array_size(json_object_get(w->failure, "phases")) == 0)
			json_object_set_new(w->failure, "phases", event_phases(ev->data));
		return;
	}
	set_failure(w, ev->at_ns, kind, NULL,
		json_pack("{s:n, s:s}", "code", "message", text ? text : ev->cause),
		event_phases(ev->data));
}

static int read_operations(struct why *w, struct err *e)
{
	struct operation *list = NULL;
	size_t n = 0;
	w->operations = json_array();
	int rc = operations_list(w->c->db, w->id, NULL, INT64_MAX, MAX_OPERATIONS, &list, &n, e);
	for (size_t i = 0; rc == 0 && i < n; i++) {
		json_t *op = operations_json(&list[i]);
		json_array_append_new(w->operations, op);
		if (list[i].state != OPERATION_FAILED || w->failure)
			continue;
		w->failed_from_ns = list[i].created_ns;
		set_failure(w, list[i].ended_ns, operation_kind_name(list[i].kind),
			json_object_get(op, "id"), json_incref(json_object_get(op, "error")),
			json_incref(json_object_get(op, "phases")));
	}
	for (size_t i = 0; i < n; i++)
		operation_done(&list[i]);
	free(list);
	return rc;
}

// --- what the host told

static void take_end(struct why *w, const struct host_event *ev)
{
	w->console = json_incref(json_object_get(ev->data, "console"));
	if (w->ended)
		return;
	w->ended = true;
	w->ended_ns = ev->at_ns;
	set_text(w->cause, sizeof w->cause, ev->cause);
	set_text(w->detail, sizeof w->detail,
		json_string_value(json_object_get(ev->data, "detail")));
}

static void take_kills(struct why *w, const struct host_event *ev)
{
	json_t *kill = json_object();
	json_object_set_new(kill, "at", render_time(ev->at_ns));
	json_object_set_new(kill, "cause", render_text(ev->cause));
	json_object_update_missing(kill, ev->data);
	json_array_append_new(w->kills, kill);
}

// Newest first.
static int take_event(void *ctx, const struct host_event *ev)
{
	struct why *w = ctx;
	bool failed = str_ends(ev->kind, "_failed");
	w->any_event = true;
	if (str_eq(ev->kind, "create_failed") && !w->ended && !w->row) {
		take_end(w, ev);
		snprintf(w->cause, sizeof w->cause, "%s", end_cause_name(END_CREATE_FAILED));
	}
	if (failed && (!w->failure || json_is_string(json_object_get(w->failure, "operation"))))
		take_failed_event(w, ev);
	if (failed && !w->console)
		w->console = json_incref(json_object_get(ev->data, "console"));
	if (str_eq(ev->kind, "stopped") && !w->console)
		take_end(w, ev);
	if (str_eq(ev->kind, "oom") && json_array_size(w->kills) < MAX_KILLS)
		take_kills(w, ev);
	return 0;
}

// --- what is there now

// What the agent knows and the host has not asked for yet.
static void ask_agent(struct why *w)
{
	struct host_place at;
	char url[80];
	_cleanup_(http_client_freep) struct http_client *client = NULL;
	struct envd_oom_report r;
	if (w->c->host.ops->address(w->c->host.host, w->id, &at, NULL) < 0)
		return;
	snprintf(url, sizeof url, "http://%s:%d", at.address, ENVD_PORT);
	char token[SHA256_HEX_SIZE];
	row_get_token(w->row, token);
	const struct envd_target t = {.base_url = url, .token = token};
	if (agents_take(w->c->agents, w->id, url, &client, NULL) < 0 ||
		envd_call_oom(client, &t, NULL, ASK_MS, &r, NULL) < 0)
		return;
	agents_give(w->c->agents, w->id, url, TAKE_PTR(client));
	uint64_t count = MAX(r.untold, (uint64_t)r.n);
	// The host may be telling of them at this moment, and have the agent's word still to take.
	json_int_t told = json_integer_value(json_object_get(json_array_get(w->kills, 0), "total"));
	if (count == 0 || (told > 0 && r.total == (uint64_t)told))
		return;
	json_t *list = json_array();
	for (size_t i = 0; i < r.n; i++)
		json_array_append_new(list, envd_oom_json(&r.kills[i]));
	const struct envd_oom *last = r.n ? &r.kills[r.n - 1] : NULL;
	w->n_kills += count;
	json_array_insert_new(w->kills, 0,
		json_pack("{s:s?, s:s, s:I, s:I, s:I, s:I, s:o}", "at", last ? last->at : NULL,
			"cause", last && last->cgroup[0] ? "cgroup_limit" : "guest_memory", "count",
			(json_int_t)count, "total", (json_int_t)r.total, "memory_mb",
			(json_int_t)w->info.memory_mb, "memory_bytes", (json_int_t)r.memory_bytes,
			"kills", list));
}

static void read_console(struct why *w)
{
	int fd_or = -1;
	char raw[PRINTABLE_TAIL_READ];
	_cleanup_strbuf_ struct strbuf text = {0};
	if (w->c->host.ops->open_log(w->c->host.host, w->id, &fd_or, NULL) < 0)
		return;
	_cleanup_close_ int fd = fd_or;
	off_t size = lseek(fd, 0, SEEK_END);
	off_t from = size > (off_t)sizeof raw ? size - (off_t)sizeof raw : 0;
	ssize_t n = size > 0 ? pread(fd, raw, sizeof raw, from) : 0;
	if (n > 0)
		printable_tail(&text, raw, (size_t)n);
	w->console = json_array();
	for (const char *p = text.data, *end; p && (end = strchr(p, '\n')); p = end + 1)
		json_array_append_new(w->console, json_stringn(p, (size_t)(end - p)));
}

static int read_row(struct why *w, struct err *e)
{
	int rc = find_report(w->c, w->row, &w->info, e);
	if (rc < 0)
		return rc;
	row_get_name(w->row, w->name);
	w->ended = w->info.state == SANDBOX_STOPPED;
	w->ended_ns = w->info.stopped_ns;
	set_text(w->cause, sizeof w->cause, w->info.cause);
	set_text(w->detail, sizeof w->detail, w->info.detail);
	return 0;
}

static int collect(struct why *w, struct err *e)
{
	int rc = w->row ? read_row(w, e) : 0;
	w->kills = json_array();
	if (rc == 0)
		rc = read_operations(w, e);
	if (rc == 0)
		rc = event_log_newest(w->c->db, w->id, MAX_EVENTS, take_event, w, e);
	if (rc == 0)
		rc = event_log_kills(w->c->db, w->id, &w->n_kills, e);
	if (rc < 0)
		return rc;
	if (!w->row && !w->any_event && json_array_size(w->operations) == 0)
		return err_set(e, ERR_NOT_FOUND,
			"no sandbox '%.64s', and no operation or event of one: of one that is "
			"forgotten the id is taken, not the name, for as long as its events are "
			"kept",
			w->id);
	if (w->row && w->info.state == SANDBOX_RUNNING)
		ask_agent(w);
	if (w->row && (!w->ended || !w->console)) {
		json_decref(TAKE_PTR(w->console));
		read_console(w);
	}
	return 0;
}

// --- the answer

// What is said of one in which nothing has failed, and whose agent did not answer.
static const char *silence(const struct why *w)
{
	if (w->ended || !w->row)
		return NULL;
	if (w->info.state == SANDBOX_RUNNING && w->info.agent_silent)
		return "Its agent is silent: commands and files wait for it, all else works. The "
		       "host asks on, and an event agent_answers tells when it answers.";
	if (w->info.state == SANDBOX_PAUSED && w->info.unquiesced)
		return "It was paused without its agent, which did not answer (quiesced: false): "
		       "its memory is resumed once, and never copied.";
	return NULL;
}

static const char *silence_advice(const struct why *w)
{
	return w->info.state == SANDBOX_PAUSED
		       ? causes_advice(ERR_NOT_QUIESCED)
		       : "Look for what stopped envd in the guest, took its token or uses all of "
			 "its memory: stasis logs ID. If it stays so: pause it and boot anew from "
			 "its disk, stasis resume --disk-only ID.";
}

static void add_summary(const struct why *w, json_t *j)
{
	char at[32];
	const struct cause_text *t = w->ended ? causes_of_end(w->cause) : NULL;
	_cleanup_free_ char *text = NULL;
	clock_format_rfc3339(w->ended_ns, at);
	if (w->ended)
		text = str_printf("It ended at %s. %s", at, t ? t->what : w->cause);
	else if (!w->row)
		text = strdup("It is forgotten, and how it ended is not known any more.");
	else if (w->info.state == SANDBOX_RUNNING || w->info.state == SANDBOX_PAUSED)
		text = str_printf("It is %s. %s", render_state_name(w->info.state),
			silence(w)   ? silence(w)
			: w->failure ? "An operation on it failed."
				     : "Nothing failed.");
	else
		text = str_printf("It is %s.%s%s", render_state_name(w->info.state),
			w->detail[0] ? " " : "", w->detail);
	const char *advice =
		t	     ? t->advice
		: silence(w) ? silence_advice(w)
		: json_array_size(w->kills)
			? causes_oom_advice(str_eq(json_string_value(json_object_get(
							   json_array_get(w->kills, 0), "cause")),
				  "cgroup_limit"))
			: json_string_value(json_object_get(w->failure, "advice"));
	json_object_set_new(j, "summary", json_string(text ? text : ""));
	json_object_set_new(j, "by", t ? json_string(t->by) : json_null());
	json_object_set_new(j, "advice", advice ? json_string(advice) : json_null());
}

static json_t *answer(const struct why *w)
{
	json_t *j = json_pack("{s:s, s:o, s:s, s:o, s:o, s:o, s:O?, s:O, s:{s:I, s:O}, s:o}", "id",
		w->id, "name", render_text(w->name), "state",
		w->row ? render_state_name(w->info.state) : "forgotten", "cause",
		render_text(w->ended ? w->cause : ""), "detail", render_text(w->detail), "ended_at",
		render_time(w->ended ? w->ended_ns : 0), "failure", w->failure, "operations",
		w->operations, "oom", "kills", (json_int_t)w->n_kills, "last", w->kills, "console",
		w->console ? json_incref(w->console) : json_array());
	if (j)
		add_summary(w, j);
	return j;
}

void why_get(struct http_request *r, void *ctx)
{
	_cleanup_(why_done) struct why w = {.c = ctx};
	struct err e = {0};
	find_path_id(w.c, r, w.id);
	w.row = rows_get(w.c->rows, w.id);
	int rc = collect(&w, &e);
	json_t *j = rc == 0 ? answer(&w) : NULL;
	if (rc == 0 && !j)
		err_set(&e, ERR_INTERNAL, "out of memory");
	if (j)
		http_reply_json(r, 200, j);
	else
		reply_error(r, &e);
}
