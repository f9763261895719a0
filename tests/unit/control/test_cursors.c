// SPDX-License-Identifier: Apache-2.0
// Cursors of events: those that would lead past events without a word are refused.
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include "base/file.h"
#include "base/log.h"
#include "base/str.h"
#include "control/api/context.h"
#include "fixture.h"
#include "base/json.h"

static json_t *from(struct fixture *f, const char *cursor, int status)
{
	char path[200];
	snprintf(path, sizeof path, "/v1/events?cursor=%s", cursor);
	return call(f, "GET", path, NULL, status);
}

static void gone(struct fixture *f, const char *cursor, const char *part)
{
	char path[200];
	_cleanup_json_ json_t *j = from(f, cursor, 410);
	assert_string_equal(text(json_object_get(j, "error"), "code"), "gone");
	snprintf(path, sizeof path, "/v1/events?cursor=%s", cursor);
	refused(f, "GET", path, NULL, 410, part);
	snprintf(path, sizeof path, "/v1/events?follow=1&cursor=%s", cursor);
	refused(f, "GET", path, NULL, 410, part);
}

static size_t count(json_t *page)
{
	return json_array_size(json_object_get(page, "events"));
}

static void test_what_is_ahead_or_not_kept(void **state)
{
	struct fixture *f = *state;
	char id[64];
	for (int i = 0; i < 5; i++)
		create_box(f, NULL, id);
	_cleanup_json_ json_t *all = call(f, "GET", "/v1/events", NULL, 200);
	assert_int_equal(count(all), 5);
	char next[64], third[64];
	snprintf(next, sizeof next, "%s", text(all, "next_cursor"));
	assert_true(str_starts(next, text(all, "feed")));
	snprintf(third, sizeof third, "%s",
		text(json_array_get(json_object_get(all, "events"), 2), "cursor"));
	// By a cursor and, as older clients do, by a number.
	_cleanup_json_ json_t *a = from(f, third, 200);
	_cleanup_json_ json_t *b = from(f, "3", 200);
	_cleanup_json_ json_t *c = from(f, next, 200);
	assert_int_equal(count(a), 2);
	assert_true(json_equal(a, b));
	assert_int_equal(count(c), 0);
	assert_string_equal(text(c, "next_cursor"), next);
	gone(f, "6", "has not been an event 6 yet, the last one is 5");
	gone(f, "999999999", "begin again");
	gone(f, "0123456789abcdef-3", "counted anew");
	call_drop(f, "GET", "/v1/events?cursor=x-1", NULL, 410);
	call_drop(f, "GET", "/v1/events?cursor=1-x", NULL, 400);
	// The oldest give way.
	struct err e = {0};
	assert_int_equal(
		DB_LOCKED(f->control->db,
			db_exec(f->control->db, &e, "DELETE FROM events WHERE seq <= 3", "")),
		0);
	gone(f, "2", "after 2 are not kept any more, the first one is 4");
	_cleanup_json_ json_t *d = from(f, third, 200);
	assert_int_equal(count(d), 2);
	_cleanup_json_ json_t *first = from(f, "0", 200);
	assert_int_equal(count(first), 2);
}

static void copy(const char *from, const char *to)
{
	_cleanup_strbuf_ struct strbuf data = {0};
	assert_int_equal(file_read(AT_FDCWD, from, 64u << 20, &data), 0);
	assert_int_equal(file_write_atomic(AT_FDCWD, to, data.data, data.len, 0600), 0);
}

// The host has forgotten what a server that ran since then has taken; the numbers that follow were
// given to other events.
static void test_an_older_copy_counts_anew(void **state)
{
	struct fixture *f = *state;
	char id[64], db[100], kept[100], before[64], after[64];
	create_box(f, NULL, id);
	_cleanup_json_ json_t *one = call(f, "GET", "/v1/events", NULL, 200);
	snprintf(before, sizeof before, "%s", text(one, "next_cursor"));
	fixture_stop(f);
	snprintf(db, sizeof db, "%s/control.db", f->data);
	snprintf(kept, sizeof kept, "%s/kept.db", f->dir);
	copy(db, kept);
	fixture_start(f);
	create_box(f, NULL, id);
	_cleanup_json_ json_t *two = from(f, before, 200); // a restart alone changes nothing
	assert_int_equal(count(two), 1);
	snprintf(after, sizeof after, "%s", text(two, "next_cursor"));
	fixture_stop(f);
	copy(kept, db);
	fixture_start(f);
	create_box(f, NULL, id);
	_cleanup_json_ json_t *all = call(f, "GET", "/v1/events", NULL, 200);
	assert_int_equal(count(all), 2);
	gone(f, after, "counted anew");
	gone(f, before, "counted anew");
	_cleanup_json_ json_t *three = from(f, text(all, "next_cursor"), 200);
	assert_int_equal(count(three), 0);
}

int main(void)
{
	signal(SIGPIPE, SIG_IGN);
	log_setup("test", LOG_LEVEL_ERROR);
#define T(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		T(test_what_is_ahead_or_not_kept),
		T(test_an_older_copy_counts_anew),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
