// SPDX-License-Identifier: Apache-2.0
// Retention: what the rules say (a pure function), and what is done, on a model host.
#include "fixture.h"
#include <string.h>
#include "base/clock.h"
#include "base/fault.h"
#include "base/json.h"
#include "base/str.h"
#include "control/api/context.h"
#include "control/engine/retention.h"
#include "control/engine/run.h"

#define GIB (1ull << 30)
#define DAY 86400ull

// --- the rules

static struct retention_subject subject(
	const char *id, uint64_t age_days, uint64_t gib, const char *key, const char *template)
{
	struct retention_subject s = {.age_sec = age_days * DAY, .unique_bytes = gib * GIB};
	snprintf(s.id, sizeof s.id, "%s", id);
	snprintf(s.api_key, sizeof s.api_key, "%s", key);
	snprintf(s.template, sizeof s.template, "%s", template);
	return s;
}

// Who goes, in the order of the list; rules with bytes know them.
static void judge(const struct retention_rule *r, size_t n, bool known, const char *want)
{
	struct retention_subject list[] = {
		subject("a", 40, 5, "k1", "base"),
		subject("b", 30, 10, "k1", "base"),
		subject("c", 20, 1, "k2", "base"),
		subject("d", 10, 20, "k2", "warm"),
		subject("e", 1, 3, "k1", "warm"),
		subject("f", 99, 50, "k1", "base"),
	};
	char is[16] = "";
	list[5].kept = true;
	assert_int_equal(retention_judge(list, ARRAY_SIZE(list), r, n, known), 0);
	for (size_t i = 0; i < ARRAY_SIZE(list); i++)
		if (list[i].rule != SIZE_MAX) {
			strcat(is, list[i].id);
			assert_true(list[i].reason[0]);
		}
	if (!str_eq(is, want))
		fail_msg("rule '%s' takes '%s', not '%s'", r->name, is, want);
}

#define AGE(days) .has_age = true, .max_age_sec = (days)*DAY
#define NEWEST(n) .has_newest = true, .keep_newest = (n)
#define BYTES(gib) .has_bytes = true, .max_bytes = (gib)*GIB

static void rules_take_what_they_say(void **state)
{
	static const struct {
		struct retention_rule r;
		const char *want;
	} cases[] = {
		{{"age", AGE(20)}, "abc"},
		{{"age of none", AGE(50)}, ""},
		{{"all", AGE(0)}, "abcde"},
		{{"number", NEWEST(2)}, "abc"},
		{{"number of none", NEWEST(5)}, ""},
		{{"none is kept", NEWEST(0)}, "abcde"},
		{{"age but the newest", AGE(1), NEWEST(3)}, "ab"},
		{{"bytes", BYTES(24)}, "ab"}, // 39 in all
		{{"bytes at its edge", BYTES(39)}, ""},
		{{"bytes keep the newest", BYTES(0)}, "abcd"},
		{{"bytes but the newest", BYTES(0), NEWEST(4)}, "a"},
		{{"age or bytes", AGE(40), BYTES(30)}, "ab"},
		{{"a key's", AGE(20), .api_key = "k1"}, "ab"},
		{{"a template's", AGE(0), .template = "warm"}, "de"},
		{{"number per key", NEWEST(1), .per = RETENTION_PER_KEY}, "abc"},
		{{"number per template", NEWEST(1), .per = RETENTION_PER_TEMPLATE}, "abd"},
		{{"bytes per key", BYTES(10), .per = RETENTION_PER_KEY}, "abc"},
		{{"another kind's", AGE(0), .kind = RETENTION_SNAPSHOT}, ""},
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		judge(&cases[i].r, 1, true, cases[i].want);
	// Where it is not known what they hold, bytes take nothing, and ages go on.
	const struct retention_rule bytes = {"bytes", BYTES(1)}, both = {"both", BYTES(1), AGE(30)};
	judge(&bytes, 1, false, "");
	judge(&both, 1, false, "ab");
	const struct retention_rule two[] = {{"1", NEWEST(4)}, {"2", AGE(10)}};
	judge(two, 2, true, "abcd");
	// What an earlier rule takes is gone from the bytes, be it among the newest: 16 are left.
	const struct retention_rule newest[] = {
		{"1", AGE(0), .template = "warm"}, {"2", BYTES(16)}, {"3", BYTES(15)}};
	judge(newest, 2, true, "de");
	judge(newest, 3, true, "ade");
	assert_int_equal(retention_judge(NULL, 0, two, 2, true), 0);
}

// Whatever the time of day says.
static void the_clock_cannot_be_set(void **state)
{
	const uint64_t year = 365 * DAY * NSEC_PER_SEC, second = NSEC_PER_SEC;
	struct retention_clock c = {0, 100 * year, 50 * year};
	retention_advance(&c, 60 * second, 51 * year, false); // set forward while it serves
	assert_int_equal(c.served_ns, 60 * second);
	assert_int_equal(c.age_ns, 100 * year + 60 * second);
	retention_advance(&c, 60 * second, 3 * second, false); // and back
	assert_int_equal(c.age_ns, 100 * year + 120 * second);
	// Away for a year, or for a moment with another clock: a week at most, and no grace at all.
	struct retention_clock away = {5, 100 * year, 50 * year};
	retention_advance(&away, 0, 51 * year, true);
	assert_int_equal(away.age_ns, 100 * year + 7 * DAY * second);
	assert_int_equal(away.served_ns, 5);
	struct retention_clock back = {5, 100 * year, 50 * year};
	retention_advance(&back, 0, second, true); // no battery: 1970 at the start
	assert_int_equal(back.age_ns, 100 * year);
	retention_advance(&back, 60 * second, 50 * year + 10 * second, false); // then set right
	assert_int_equal(back.age_ns, 100 * year + 60 * second);
}

// --- what is done

static void add_rule(struct fixture *f, const char *name, const char *body)
{
	char path[100];
	snprintf(path, sizeof path, "/v1/retention/rules/%s", name);
	call_drop(f, "PUT", path, body, 200);
}

// A pass; what it says: "warn id, ..." by kind and name in the order of the list.
static json_t *pass(struct fixture *f, bool dry_run)
{
	json_t *j =
		call(f, "POST", "/v1/retention/run", dry_run ? "{\"dry_run\":true}" : NULL, 200);
	assert_int_equal(json_is_true(json_object_get(j, "dry_run")), dry_run);
	json_t *items = json_incref(json_object_get(j, "items"));
	json_decref(j);
	return items;
}

static void expect(struct fixture *f, bool dry_run, size_t n, const char *action)
{
	_cleanup_json_ json_t *items = pass(f, dry_run);
	if (json_array_size(items) != n) {
		_cleanup_free_ char *all = json_dumps(items, JSON_INDENT(1));
		fail_msg("%zu items, not %zu: %s", json_array_size(items), n, all);
	}
	for (size_t i = 0; i < n; i++)
		assert_string_equal(text(json_array_get(items, i), "action"), action);
}

static unsigned events(struct fixture *f, const char *kind, const char *cause)
{
	_cleanup_json_ json_t *j = call(f, "GET", "/v1/events?limit=100", NULL, 200);
	size_t i;
	json_t *ev;
	unsigned n = 0;
	json_array_foreach (json_object_get(j, "events"), i, ev)
		n += str_eq(text(ev, "kind"), kind) && (!cause || str_eq(text(ev, "cause"), cause));
	return n;
}

static void paused(struct fixture *f, char id[64])
{
	char path[200];
	create_box(f, "{}", id);
	call_drop(f, "POST", path_of(id, "/pause", path), NULL, 200);
}

static bool is_there(struct fixture *f, const char *id)
{
	char path[200];
	_cleanup_json_ json_t *j = call(f, "GET", path_of(id, "", path), NULL, 200);
	return !str_eq(text(j, "state"), "stopped");
}

// Time in which a server is there to be asked, passed by.
static void serve_for(struct fixture *f, uint64_t sec)
{
	struct err e = {0};
	struct retention_clock c;
	assert_int_equal(retention_get_clock(f->control->db, &c, &e), 0);
	c.served_ns += sec * NSEC_PER_SEC;
	c.age_ns += sec * NSEC_PER_SEC;
	assert_int_equal(retention_put_clock(f->control->db, &c, &e), 0);
}

static void without_a_rule_nothing_goes(void **state)
{
	struct fixture *f = *state;
	char id[64];
	paused(f, id);
	serve_for(f, 1000 * DAY);
	expect(f, false, 0, "");
	expect(f, true, 0, "");
	assert_true(is_there(f, id));
	refused(f, "PUT", "/v1/retention/rules/x", "{\"what\":\"paused\"}", 400, "take everything");
	refused(f, "PUT", "/v1/retention/rules/x", "{\"what\":\"running\",\"max_age_sec\":1}", 400,
		"paused or snapshots");
	refused(f, "PUT", "/v1/retention/rules/x",
		"{\"what\":\"paused\",\"max_age_sec\":1,\"key\":\"nobody\"}", 400, "no key");
	refused(f, "PUT", "/v1/retention/rules/x",
		"{\"what\":\"paused\",\"max_age_sec\":1,\"per\":\"day\"}", 400, "per");
	refused(f, "PUT", "/v1/retention/rules/A%20b", "{\"what\":\"paused\",\"max_age_sec\":1}",
		400, "name");
	refused(f, "PUT", "/v1/retention/rules/x", "{\"what\":\"paused\",\"max_age_sec\":-1}", 400,
		"max_age_sec");
	refused(f, "DELETE", "/v1/retention/rules/x", NULL, 404, "no rule");
}

static void it_warns_waits_and_removes(void **state)
{
	struct fixture *f = *state;
	char id[64], young[64], path[200];
	paused(f, id);
	expect(f, false, 0, "");
	serve_for(f, 30 * DAY);
	paused(f, young);
	add_rule(f, "old", "{\"what\":\"paused\",\"max_age_sec\":2592000}");
	expect(f, true, 1, "warn");
	_cleanup_json_ json_t *dry = pass(f, true); // a dry run leaves no trace
	assert_string_equal(text(json_array_get(dry, 0), "action"), "warn");
	assert_string_equal(
		text(json_array_get(dry, 0), "reason"), "not used for 30 d, the rule says 30 d");
	assert_int_equal(events(f, "retention_due", NULL), 0);
	expect(f, false, 1, "warn");
	assert_int_equal(events(f, "retention_due", "old"), 1);
	expect(f, false, 1, "wait");
	serve_for(f, DAY - 60);
	expect(f, false, 1, "wait");
	fixture_stop(f); // over a restart too
	fixture_start(f);
	expect(f, false, 1, "wait");
	assert_true(is_there(f, id));
	serve_for(f, 61);
	expect(f, true, 1, "remove");
	assert_true(is_there(f, id));
	expect(f, false, 1, "remove");
	_cleanup_json_ json_t *j = call(f, "GET", path_of(id, "", path), NULL, 200);
	assert_string_equal(text(j, "state"), "stopped");
	assert_string_equal(text(j, "cause"), "retention");
	_cleanup_json_ json_t *why = call(f, "GET", path_of(id, "/why", path), NULL, 200);
	assert_string_equal(text(why, "cause"), "retention");
	assert_non_null(strstr(text(why, "advice"), "stasis retention keep"));
	assert_true(is_there(f, young));
	assert_int_equal(events(f, "retention_removed", "old"), 1);
	assert_int_equal(events(f, "retention_due", "old"), 1); // told once
	expect(f, false, 0, "");
}

static void a_use_begins_it_anew(void **state)
{
	struct fixture *f = *state;
	char id[64], path[200];
	paused(f, id);
	add_rule(f, "old", "{\"what\":\"paused\",\"max_age_sec\":86400,\"grace_sec\":3600}");
	expect(f, false, 0, "");
	serve_for(f, 2 * DAY);
	expect(f, false, 1, "warn");
	serve_for(f, 2 * 3600);
	call_drop(f, "POST", path_of(id, "/resume", path), NULL, 200);
	call_drop(f, "POST", path_of(id, "/pause", path), NULL, 200);
	expect(f, false, 0, "");
	// A fork of it is a use, too.
	serve_for(f, 2 * DAY);
	expect(f, false, 1, "warn");
	call_drop(f, "POST", path_of(id, "/fork", path), "{\"count\":1}", 200);
	serve_for(f, 2 * 3600);
	expect(f, false, 0, "");
	assert_true(is_there(f, id));
	// So is a rule that is set anew: whoever changes it is warned by its new words.
	serve_for(f, 2 * DAY);
	expect(f, false, 1, "warn");
	serve_for(f, 2 * 3600);
	add_rule(f, "old", "{\"what\":\"paused\",\"max_age_sec\":86400,\"grace_sec\":60}");
	expect(f, false, 1, "warn");
	// A rule that is gone takes nothing, and that is said.
	call_drop(f, "DELETE", "/v1/retention/rules/old", NULL, 204);
	expect(f, false, 0, "");
	assert_int_equal(events(f, "retention_kept", "old"), 1);
	assert_true(is_there(f, id));
}

struct meddler {
	struct fixture *f;
	const char *id;
	bool done;
};

// Resumed after it was decided and before it is done.
static void resume_it(void *ctx, const char *call)
{
	struct meddler *m = ctx;
	if (!str_eq(call, "expire") || m->done)
		return;
	m->done = true;
	pthread_mutex_lock(&m->f->model.lock);
	for (size_t i = 0; i < m->f->model.n; i++)
		if (str_eq(m->f->model.box[i].id, m->id)) {
			m->f->model.box[i].state = SANDBOX_RUNNING;
			m->f->model.box[i].generation++;
		}
	pthread_mutex_unlock(&m->f->model.lock);
}

static void what_is_used_at_the_last_moment_stays(void **state)
{
	struct fixture *f = *state;
	char id[64], path[200];
	paused(f, id);
	add_rule(f, "now", "{\"what\":\"paused\",\"max_age_sec\":0,\"grace_sec\":0}");
	expect(f, false, 1, "warn");
	struct meddler m = {f, id, false};
	f->model.before = resume_it;
	f->model.ctx = &m;
	expect(f, false, 1, "failed");
	f->model.before = NULL;
	assert_true(m.done);
	look_and_apply(f);
	_cleanup_json_ json_t *j = call(f, "GET", path_of(id, "", path), NULL, 200);
	assert_string_equal(text(j, "state"), "running");
	expect(f, false, 0, "");
	assert_int_equal(events(f, "retention_removed", NULL), 0);
}

// What somebody asked for while the pass looked at all files, and was answered.
struct caller {
	struct fixture *f;
	const char *method, *path, *body;
	int status;
	bool done;
};

static void ask_meanwhile(void *ctx, const char *call)
{
	struct caller *c = ctx;
	if (!str_eq(call, "usage") || c->done)
		return;
	c->done = true;
	call_drop(c->f, c->method, c->path, c->body, c->status);
}

// The pass is this thread's: the client is free to ask.
static void meanwhile(
	struct fixture *f, const char *method, const char *path, const char *body, int status)
{
	_cleanup_free_ struct retention_outcome *list = NULL;
	struct caller c = {f, method, path, body, status, false};
	struct err e = {0};
	size_t n = 0;
	f->model.ctx = &c;
	f->model.before = ask_meanwhile;
	assert_int_equal(
		engine_retention(&f->control->engine, f->control->feed, false, &list, &n, &e), 0);
	f->model.before = NULL;
	assert_true(c.done);
	assert_int_equal(n, 1);
	assert_int_equal(list[0].action, RETENTION_FAILED);
	assert_int_equal(list[0].e.code, ERR_CONFLICT);
	assert_int_equal(events(f, "retention_removed", NULL), 0);
}

static void what_is_done_while_a_pass_looks_counts(void **state)
{
	static const char boxes[] =
		"{\"what\":\"paused\",\"max_age_sec\":0,\"max_bytes\":1,\"grace_sec\":0}";
	static const char snaps[] =
		"{\"what\":\"snapshots\",\"max_age_sec\":0,\"max_bytes\":1,\"grace_sec\":0,"
		"\"keep_newest\":0}";
	struct fixture *f = *state;
	char id[64], path[200], body[200], keep[200];
	paused(f, id);
	expect(f, false, 0, "");
	serve_for(f, 60);
	paused(f, body); // the newest stays where bytes count
	snprintf(keep, sizeof keep, "/v1/retention/kept/%s", id);
	add_rule(f, "boxes", boxes);
	expect(f, false, 1, "warn");
	meanwhile(f, "PUT", keep, NULL, 200);
	expect(f, false, 0, "");
	call_drop(f, "DELETE", keep, NULL, 200);
	expect(f, false, 1, "warn");
	meanwhile(f, "DELETE", "/v1/retention/rules/boxes", NULL, 204);
	add_rule(f, "boxes", boxes);
	expect(f, false, 1, "warn");
	meanwhile(f, "PUT", "/v1/retention/rules/boxes", boxes, 200);
	expect(f, false, 1, "warn");
	meanwhile(f, "POST", path_of(id, "/fork", path), "{\"count\":1}", 200);
	assert_true(is_there(f, id));
	call_drop(f, "DELETE", "/v1/retention/rules/boxes", NULL, 204);
	// Of two snapshots the newest stays.
	static const char *const names[] = {"warm", "hot"};
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		snprintf(
			body, sizeof body, "{\"sandbox_id\":\"%s\",\"name\":\"%s\"}", id, names[i]);
		call_drop(f, "POST", "/v1/snapshots", body, 201);
		expect(f, false, 0, "");
		serve_for(f, 60);
	}
	add_rule(f, "snaps", snaps);
	expect(f, false, 1, "warn");
	meanwhile(f, "POST", "/v1/sandboxes", "{\"template\":\"warm\"}", 201);
	call_drop(f, "GET", "/v1/snapshots/warm", NULL, 200);
}

// The end of a removal cannot be written, or the server is killed before it is: another hand brings
// it to its end, and that is told once.
static void a_removal_that_was_cut_off_is_finished(void **state)
{
	struct fixture *f = *state;
	char id[64], path[200], body[200];
	struct err e = {0};
	paused(f, id);
	snprintf(body, sizeof body, "{\"sandbox_id\":\"%s\",\"name\":\"warm\"}", id);
	call_drop(f, "POST", "/v1/snapshots", body, 201);
	add_rule(f, "boxes", "{\"what\":\"paused\",\"max_age_sec\":0,\"grace_sec\":0}");
	add_rule(f, "snaps", "{\"what\":\"snapshots\",\"max_age_sec\":0,\"grace_sec\":0}");
	expect(f, false, 2, "warn");
	assert_int_equal(fault_setup("control.before_finish:fail", &e), 0);
	_cleanup_json_ json_t *items = pass(f, false);
	assert_int_equal(json_array_size(items), 2);
	fault_setup("", &e);
	fixture_stop(f);
	fixture_start(f);
	look_and_apply(f);
	expect(f, false, 0, "");
	_cleanup_json_ json_t *j = call(f, "GET", path_of(id, "", path), NULL, 200);
	assert_string_equal(text(j, "cause"), "retention");
	refused(f, "GET", "/v1/snapshots/warm", NULL, 404, "warm");
	assert_int_equal(events(f, "retention_removed", "boxes"), 1);
	assert_int_equal(events(f, "retention_removed", "snaps"), 1);
}

static void what_is_kept_stays(void **state)
{
	struct fixture *f = *state;
	char id[64], path[200], body[200];
	paused(f, id);
	call_drop(f, "PATCH", path_of(id, "", path), "{\"name\":\"mine\"}", 200);
	snprintf(body, sizeof body, "{\"sandbox_id\":\"%s\",\"name\":\"warm\"}", id);
	call_drop(f, "POST", "/v1/snapshots", body, 201);
	call_drop(f, "PUT", "/v1/retention/kept/mine", NULL, 200);
	call_drop(f, "PUT", "/v1/retention/kept/warm", NULL, 200);
	refused(f, "PUT", "/v1/retention/kept/nobody", NULL, 404, "nobody");
	add_rule(f, "boxes", "{\"what\":\"paused\",\"max_age_sec\":0,\"grace_sec\":0}");
	add_rule(f, "snaps", "{\"what\":\"snapshots\",\"max_age_sec\":0,\"grace_sec\":0}");
	expect(f, false, 0, "");
	char other[64];
	create_box(f, "{}", other);
	snprintf(body, sizeof body, "/v1/retention/kept/%s", other);
	call_drop(f, "PUT", body, NULL, 200);
	call_drop(f, "DELETE", path_of(other, "", path), NULL, 204);
	expect(f, false, 0, ""); // what is gone is not kept any more
	_cleanup_json_ json_t *all = call(f, "GET", "/v1/retention", NULL, 200);
	assert_int_equal(json_array_size(json_object_get(all, "rules")), 2);
	assert_int_equal(json_array_size(json_object_get(all, "kept")), 2);
	call_drop(f, "DELETE", "/v1/retention/kept/mine", NULL, 200);
	call_drop(f, "DELETE", "/v1/retention/kept/warm", NULL, 200);
	expect(f, false, 2, "warn");
	expect(f, false, 2, "remove");
	assert_false(is_there(f, id));
	refused(f, "GET", "/v1/snapshots/warm", NULL, 404, "warm");
	assert_int_equal(events(f, "retention_removed", NULL), 2);
}

// A sandbox and a snapshot may have the same name.
static void of_one_name_both_are_kept(void **state)
{
	struct fixture *f = *state;
	char id[64], path[200], body[200];
	paused(f, id);
	call_drop(f, "PATCH", path_of(id, "", path), "{\"name\":\"web\"}", 200);
	snprintf(body, sizeof body, "{\"sandbox_id\":\"%s\",\"name\":\"web\"}", id);
	call_drop(f, "POST", "/v1/snapshots", body, 201);
	add_rule(f, "boxes", "{\"what\":\"paused\",\"max_age_sec\":0,\"grace_sec\":0}");
	add_rule(f, "snaps", "{\"what\":\"snapshots\",\"max_age_sec\":0,\"grace_sec\":0}");
	_cleanup_json_ json_t *kept = call(f, "PUT", "/v1/retention/kept/web", NULL, 200);
	assert_int_equal(json_array_size(json_object_get(kept, "kept")), 2);
	expect(f, false, 0, "");
	_cleanup_json_ json_t *gone = call(f, "DELETE", "/v1/retention/kept/web", NULL, 200);
	assert_int_equal(json_array_size(json_object_get(gone, "released")), 2);
	expect(f, false, 2, "warn");
	refused(f, "DELETE", "/v1/retention/kept/web", NULL, 404, "nothing is kept");
	refused(f, "DELETE", "/v1/retention/kept/nosuch", NULL, 404, "nosuch");
	// Of the two each alone, by what is its own.
	snprintf(body, sizeof body, "/v1/retention/kept/%s", id);
	_cleanup_json_ json_t *one = call(f, "PUT", body, NULL, 200);
	json_t *items = json_object_get(one, "kept");
	assert_int_equal(json_array_size(items), 1);
	assert_string_equal(text(json_array_get(items, 0), "kind"), "sandbox");
	expect(f, false, 1, "remove");
	assert_true(is_there(f, id));
	refused(f, "GET", "/v1/snapshots/web", NULL, 404, "web");
}

static void snapshots_go_by_number_and_use(void **state)
{
	struct fixture *f = *state;
	char id[64], body[200], made[64];
	static const char *const names[] = {"one", "two", "three"};
	create_box(f, "{}", id);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		snprintf(
			body, sizeof body, "{\"sandbox_id\":\"%s\",\"name\":\"%s\"}", id, names[i]);
		call_drop(f, "POST", "/v1/snapshots", body, 201);
		expect(f, false, 0, "");
		serve_for(f, 60);
	}
	create_box(f, "{\"template\":\"one\"}", made); // so it is the one that was used last
	add_rule(f, "few",
		"{\"what\":\"snapshots\",\"keep_newest\":2,\"per\":\"template\",\"grace_sec\":0}");
	_cleanup_json_ json_t *items = pass(f, false);
	assert_int_equal(json_array_size(items), 1);
	assert_string_equal(text(json_array_get(items, 0), "id"), "two");
	assert_string_equal(
		text(json_array_get(items, 0), "reason"), "2 newer ones, the rule keeps 2");
	// What it frees is known where it is told, though no rule is about bytes.
	assert_int_equal(
		json_integer_value(json_object_get(json_array_get(items, 0), "frees_bytes")), 60);
	// Another one of that name is another one.
	snprintf(body, sizeof body, "{\"sandbox_id\":\"%s\",\"name\":\"two\",\"overwrite\":true}",
		id);
	call_drop(f, "POST", "/v1/snapshots", body, 201);
	_cleanup_json_ json_t *next = pass(f, false);
	assert_int_equal(json_array_size(next), 1);
	assert_string_equal(text(json_array_get(next, 0), "id"), "three");
	assert_string_equal(text(json_array_get(next, 0), "action"), "warn");
	expect(f, false, 1, "remove");
	call_drop(f, "GET", "/v1/snapshots/two", NULL, 200);
	refused(f, "GET", "/v1/snapshots/three", NULL, 404, "three");
}

static void a_snapshot_that_was_replaced_stays(void **state)
{
	struct fixture *f = *state;
	char id[64], body[200];
	struct err e = {0};
	struct task t = {.op.kind = OPERATION_SNAPSHOT_DELETE};
	create_box(f, "{}", id);
	snprintf(body, sizeof body, "{\"sandbox_id\":\"%s\",\"name\":\"warm\"}", id);
	call_drop(f, "POST", "/v1/snapshots", body, 201);
	t.op.request = json_pack(
		"{s:s, s:s}", "name", "warm", "snapshot", "11111111-1111-4111-8111-111111111111");
	assert_true(engine_begin(&f->control->engine, &t, NULL, 0, &e) < 0);
	assert_int_equal(e.code, ERR_CONFLICT);
	task_done(&t);
	call_drop(f, "GET", "/v1/snapshots/warm", NULL, 200);
}

static void a_pass_removes_a_few(void **state)
{
	struct fixture *f = *state;
	char id[64];
	for (unsigned i = 0; i < RETENTION_PER_PASS + 3; i++)
		paused(f, id);
	add_rule(f, "now", "{\"what\":\"paused\",\"max_age_sec\":0,\"grace_sec\":0}");
	expect(f, false, RETENTION_PER_PASS + 3, "warn");
	f->model.volume_gone = true;
	refused(f, "POST", "/v1/retention/run", NULL, 503, "volume");
	f->model.volume_gone = false;
	for (unsigned left = RETENTION_PER_PASS + 3; left; left -= MIN(left, RETENTION_PER_PASS)) {
		_cleanup_json_ json_t *items = pass(f, false);
		unsigned removed = 0;
		for (size_t i = 0; i < json_array_size(items); i++)
			removed += str_eq(text(json_array_get(items, i), "action"), "remove");
		assert_int_equal(json_array_size(items), left);
		assert_int_equal(removed, MIN(left, RETENTION_PER_PASS));
	}
	expect(f, false, 0, "");
}

static unsigned tried;
static void count_tries(void *ctx, const char *call)
{
	tried += str_eq(call, "expire");
}

// Those that always fail are of the newest, whom a pass comes to first.
static void those_that_fail_keep_nobody_back(void **state)
{
	struct fixture *f = *state;
	char id[64], last[64];
	paused(f, last);
	for (unsigned i = 0; i < 2 * RETENTION_PER_PASS; i++)
		paused(f, id);
	f->model.fail_expire_from = 1;
	add_rule(f, "now", "{\"what\":\"paused\",\"max_age_sec\":0,\"grace_sec\":0}");
	expect(f, false, 2 * RETENTION_PER_PASS + 1, "warn");
	f->model.before = count_tries;
	for (unsigned i = 0; i < 3; i++) {
		tried = 0;
		json_decref(pass(f, false));
		assert_in_range(tried, 1, 2 * RETENTION_PER_PASS);
	}
	f->model.before = NULL;
	assert_false(is_there(f, last));
}

// A dry run waits for no pass: it is answered while one is at the host.
static void dry_run_meanwhile(void *ctx, const char *call)
{
	struct caller *c = ctx;
	if (!str_eq(call, "expire") || c->done)
		return;
	c->done = true;
	expect(c->f, true, 1, "busy");
}

static void a_dry_run_waits_for_no_pass(void **state)
{
	struct fixture *f = *state;
	struct caller c = {f};
	_cleanup_free_ struct retention_outcome *list = NULL;
	struct err e = {0};
	char id[64];
	size_t n = 0;
	paused(f, id);
	add_rule(f, "now", "{\"what\":\"paused\",\"max_age_sec\":0,\"grace_sec\":0}");
	expect(f, false, 1, "warn");
	f->model.ctx = &c;
	f->model.before = dry_run_meanwhile;
	assert_int_equal(
		engine_retention(&f->control->engine, f->control->feed, false, &list, &n, &e), 0);
	f->model.before = NULL;
	assert_true(c.done);
	assert_false(is_there(f, id));
}

static void bytes_take_the_oldest(void **state)
{
	struct fixture *f = *state;
	char id[3][64];
	for (size_t i = 0; i < 3; i++) { // 60 bytes each
		paused(f, id[i]);
		expect(f, false, 0, "");
		serve_for(f, 60);
	}
	add_rule(f, "room", "{\"what\":\"paused\",\"max_bytes\":130,\"grace_sec\":0}");
	_cleanup_json_ json_t *items = pass(f, false);
	assert_int_equal(json_array_size(items), 1);
	assert_string_equal(text(json_array_get(items, 0), "id"), id[0]);
	assert_int_equal(
		json_integer_value(json_object_get(json_array_get(items, 0), "frees_bytes")), 60);
	expect(f, false, 1, "remove");
	expect(f, false, 0, "");
	assert_true(is_there(f, id[1]) && is_there(f, id[2]));
}

#define T(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rules_take_what_they_say),
		cmocka_unit_test(the_clock_cannot_be_set),
		T(without_a_rule_nothing_goes),
		T(it_warns_waits_and_removes),
		T(a_use_begins_it_anew),
		T(what_is_used_at_the_last_moment_stays),
		T(what_is_done_while_a_pass_looks_counts),
		T(a_removal_that_was_cut_off_is_finished),
		T(what_is_kept_stays),
		T(of_one_name_both_are_kept),
		T(snapshots_go_by_number_and_use),
		T(a_snapshot_that_was_replaced_stays),
		T(a_pass_removes_a_few),
		T(those_that_fail_keep_nobody_back),
		T(a_dry_run_waits_for_no_pass),
		T(bytes_take_the_oldest),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
