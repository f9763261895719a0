// SPDX-License-Identifier: Apache-2.0
// GET /v1/sandboxes/{id}/why on a model of the host: what is said of a sandbox that runs, failed,
// ended, is forgotten, or never was.
#include "fixture.h"
#include <string.h>
#include "agentclient/client.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/str.h"
#include "control/api/context.h"
#include "control/state/rows.h"

static struct envd_oom_report untold; // what the guest has not told yet

int envd_call_oom(struct http_client *c, const struct envd_target *t,
	const struct envd_oom_report *told, int timeout_ms, struct envd_oom_report *ret,
	struct err *e)
{
	assert_null(told); // who asks takes nothing away from the host
	*ret = untold;
	return 0;
}

static int setup(void **state)
{
	untold = (struct envd_oom_report){0};
	return fixture_setup(state);
}

static json_t *why(struct fixture *f, const char *id)
{
	char path[200];
	// The events are brought over by a thread of their own.
	assert_int_equal(feed_catch_up(f->control->feed, NULL), 0);
	return call(f, "GET", path_of(id, "/why", path), NULL, 200);
}

static void has(json_t *j, const char *key, const char *part)
{
	if (!strstr(text(j, key), part))
		fail_msg("%s: '%s' has no '%s'", key, text(j, key), part);
}

static json_t *first(json_t *j, const char *key)
{
	return json_array_get(json_object_get(j, key), 0);
}

static void test_a_healthy_one(void **state)
{
	struct fixture *f = *state;
	char id[64], path[200];
	create_box(f, "{\"name\":\"web\"}", id);
	_cleanup_json_ json_t *j = why(f, "web");
	assert_string_equal(text(j, "id"), id);
	assert_string_equal(text(j, "name"), "web");
	assert_string_equal(text(j, "state"), "running");
	has(j, "summary", "It is running. Nothing failed.");
	assert_true(json_is_null(json_object_get(j, "cause")));
	assert_true(json_is_null(json_object_get(j, "failure")));
	assert_true(json_is_null(json_object_get(j, "advice")));
	assert_string_equal(text(first(j, "operations"), "kind"), "create");
	_cleanup_free_ char *console = str_printf("console of %s", id);
	assert_string_equal(json_string_value(first(j, "console")), console);
	call_drop(f, "POST", path_of(id, "/pause", path), NULL, 200);
	_cleanup_json_ json_t *paused = why(f, id);
	has(paused, "summary", "It is paused. Nothing failed.");
	assert_string_equal(text(first(paused, "operations"), "kind"), "pause");
}

static void test_a_console_does_nothing_to_a_terminal(void **state)
{
	struct fixture *f = *state;
	char id[64];
	create_box(f, NULL, id);
	f->model.log = "\033[2Jone\n\033]0;title\a\r\n\xff two\033[31m\n";
	_cleanup_json_ json_t *j = why(f, id);
	json_t *console = json_object_get(j, "console");
	assert_int_equal(json_array_size(console), 2);
	assert_string_equal(json_string_value(json_array_get(console, 0)), "one");
	assert_string_equal(json_string_value(json_array_get(console, 1)), "? two");
}

static void test_a_failed_operation_with_its_steps(void **state)
{
	struct fixture *f = *state;
	char id[64], path[200];
	create_box(f, NULL, id);
	f->model.fail_pause = ERR_NO_SPACE;
	call_drop(f, "POST", path_of(id, "/pause", path), NULL, 507);
	_cleanup_json_ json_t *j = why(f, id);
	json_t *failure = json_object_get(j, "failure");
	has(j, "summary", "An operation on it failed.");
	assert_string_equal(text(failure, "kind"), "pause");
	assert_string_equal(text(json_object_get(failure, "error"), "code"), "no_space");
	has(json_object_get(failure, "error"), "message", "ordered failure");
	has(failure, "advice", "stasis du");
	assert_string_equal(text(j, "advice"), text(failure, "advice"));
	assert_string_equal(text(failure, "operation"), text(first(j, "operations"), "id"));
	// Nobody but the host knows of a pause by a time-out.
	model_tell(&f->model, id, "pause_failed", "pause_failed",
		json_pack("{s:s, s:[[s,i],[s,i]]}", "error", "the guest does not stand still",
			"phases", "journal", 10, "freeze", 2000));
	_cleanup_json_ json_t *later = why(f, id);
	failure = json_object_get(later, "failure");
	assert_true(json_is_null(json_object_get(failure, "operation")));
	has(json_object_get(failure, "error"), "message", "does not stand still");
	json_t *phases = json_object_get(failure, "phases");
	assert_int_equal(json_array_size(phases), 2);
	assert_string_equal(text(json_array_get(phases, 1), "name"), "freeze");
	assert_int_equal(
		json_integer_value(json_object_get(json_array_get(phases, 1), "us")), 2000);
}

static void test_every_end(void **state)
{
	struct fixture *f = *state;
	for (int i = 0; i < END_CAUSE_MAX; i++) {
		const char *cause = end_cause_name((enum end_cause)i);
		char id[64];
		create_box(f, NULL, id);
		model_end(&f->model, id, cause);
		_cleanup_json_ json_t *j = why(f, id);
		assert_string_equal(text(j, "state"), "stopped");
		assert_string_equal(text(j, "cause"), cause);
		has(j, "summary", "It ended at ");
		assert_true(strlen(text(j, "advice")) > 5 && strlen(text(j, "by")) > 2);
		assert_true(json_is_string(json_object_get(j, "ended_at")));
	}
	// Of a newer host, or one that lies.
	char id[64];
	create_box(f, NULL, id);
	model_end(&f->model, id, "eaten");
	_cleanup_json_ json_t *j = why(f, id);
	has(j, "summary", "eaten");
	assert_true(json_is_null(json_object_get(j, "by")));
}

static void test_one_that_is_forgotten(void **state)
{
	struct fixture *f = *state;
	struct err e = {0};
	char id[64], removed[64], path[200];
	create_box(f, "{\"name\":\"web\"}", id);
	create_box(f, NULL, removed);
	model_tell(&f->model, id, "stopped", "guest_oom",
		json_pack("{s:s, s:[s,s]}", "detail", "it was full", "console", "one", "two"));
	model_end(&f->model, id, "guest_oom");
	call_drop(f, "DELETE", path_of(removed, "", path), NULL, 204);
	json_decref(why(f, id));
	assert_int_equal(rows_expire(f->control->rows, clock_realtime_ns() + 1, &e), 0);
	_cleanup_json_ json_t *j = why(f, id);
	assert_string_equal(text(j, "state"), "forgotten");
	assert_string_equal(text(j, "cause"), "guest_oom");
	has(j, "summary", "memory was used up");
	has(j, "advice", "--memory");
	_cleanup_json_ json_t *gone = why(f, removed);
	assert_string_equal(text(gone, "cause"), "killed");
	assert_string_equal(text(gone, "by"), "api");
	refused(f, "GET", "/v1/sandboxes/web/why", NULL, 404, "the id is taken, not the name");
	refused(f, "GET", "/v1/sandboxes/i00000000000000000000/why", NULL, 404,
		"no operation or event of one");
	refused(f, "GET", "/v1/sandboxes/%1b%5b2J/why", NULL, 404, "no sandbox");
}

static void test_kills_for_lack_of_memory(void **state)
{
	struct fixture *f = *state;
	char id[64];
	create_box(f, NULL, id);
	for (int i = 0; i < 7; i++)
		model_tell(&f->model, id, "oom", "guest_memory",
			json_pack("{s:i, s:i, s:[{s:s}]}", "count", 10, "memory_mb", 512, "kills",
				"process", "python3"));
	untold = (struct envd_oom_report){
		.total = 71, .untold = 1, .n = 1, .seq = 9, .memory_bytes = 1 << 20};
	untold.kills[0] = (struct envd_oom){
		.process = "tail", .cgroup = "/box", .rss_bytes = 4096, .count = 1};
	_cleanup_json_ json_t *j = why(f, id);
	json_t *oom = json_object_get(j, "oom");
	assert_int_equal(json_integer_value(json_object_get(oom, "kills")), 71);
	json_t *last = json_object_get(oom, "last");
	assert_int_equal(json_array_size(last), 6);
	assert_string_equal(text(json_array_get(last, 0), "cause"), "cgroup_limit");
	assert_string_equal(text(first(json_array_get(last, 0), "kills"), "process"), "tail");
	assert_string_equal(text(first(json_array_get(last, 1), "kills"), "process"), "python3");
	has(j, "advice", "cgroup");
	untold = (struct envd_oom_report){0};
	_cleanup_json_ json_t *k = why(f, id);
	has(k, "advice", "--memory");
}

static void test_a_create_that_failed(void **state)
{
	struct fixture *f = *state;
	f->model.fail_create = ERR_TIMEOUT;
	call_drop(f, "POST", "/v1/sandboxes", "{}", 504);
	_cleanup_json_ json_t *all = call(f, "GET", "/v1/operations", NULL, 200);
	const char *id = text(first(all, "operations"), "sandbox_id");
	_cleanup_json_ json_t *j = why(f, id);
	assert_string_equal(text(j, "state"), "forgotten");
	assert_string_equal(text(json_object_get(j, "failure"), "kind"), "create");
	has(j, "advice", "too slow");
	model_tell(&f->model, id, "create_failed", "create_failed",
		json_pack("{s:s, s:[s], s:[[s,i]]}", "error", "no answer", "console", "panic",
			"phases", "boot", 7));
	_cleanup_json_ json_t *k = why(f, id);
	assert_string_equal(text(k, "cause"), "create_failed");
	has(k, "summary", "its create failed");
	assert_string_equal(json_string_value(first(k, "console")), "panic");
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_a_healthy_one),
		TEST(test_a_console_does_nothing_to_a_terminal),
		TEST(test_a_failed_operation_with_its_steps),
		TEST(test_every_end),
		TEST(test_one_that_is_forgotten),
		TEST(test_kills_for_lack_of_memory),
		TEST(test_a_create_that_failed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
