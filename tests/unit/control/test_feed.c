// SPDX-License-Identifier: Apache-2.0
// The host's events in control.db: each once and in order, whatever fails in between.
#include "../check.h"
#include <fcntl.h>
#include <string.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/embed.h"
#include "control/state/event_log.h"
#include "control/state/feed.h"
#include "model.h"

extern const struct embed control_migrations[];

struct world {
	char dir[32], path[64];
	struct model model;
	struct hostagent host;
	struct db *db;
	struct feed *feed;
};

static void start(struct world *w)
{
	struct err e = {0};
	if (db_open(w->path, control_migrations, &w->db, &e) < 0 ||
		feed_start(w->db, &w->host, &w->feed, &e) < 0)
		fail_msg("%s", e.text);
}

static void stop(struct world *w)
{
	w->feed = feed_stop(w->feed);
	w->db = db_close(w->db);
}

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof *w);
	log_setup("test", LOG_LEVEL_ERROR);
	snprintf(w->dir, sizeof w->dir, "/tmp/feed-XXXXXX");
	assert_non_null(mkdtemp(w->dir));
	snprintf(w->path, sizeof w->path, "%s/control.db", w->dir);
	model_init(&w->model);
	snprintf(w->model.journal, sizeof w->model.journal, "one");
	w->host = model_host(&w->model);
	start(w);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;
	stop(w);
	model_done(&w->model);
	assert_int_equal(file_rm_rf(AT_FDCWD, w->dir), 0);
	free(w);
	return 0;
}

static void happen(struct world *w, unsigned n)
{
	static struct host_create req = {.template = "base", .token = "t"};
	for (; n > 0; n--) {
		struct host_sandbox s;
		snprintf(req.id, sizeof req.id, "i%zu", w->model.n_events + 1);
		assert_int_equal(w->host.ops->create(w->host.host, &req, &s, NULL), 0);
	}
}

struct seen {
	char ids[200][24];
	uint64_t seq[200];
	size_t n;
};

static int take(void *ctx, const struct host_event *ev)
{
	struct seen *s = ctx;
	snprintf(s->ids[s->n], sizeof s->ids[0], "%.20s", ev->sandbox);
	s->seq[s->n++] = ev->seq;
	return 0;
}

static struct seen all(struct world *w)
{
	struct seen s = {0};
	assert_int_equal(event_log_read(w->db, 0, 0, NULL, 200, take, &s, NULL), 0);
	return s;
}

// i1, i2, ...: nothing is missing, nothing is there twice.
static void expect(struct world *w, size_t n)
{
	struct seen s = all(w);
	assert_int_equal(s.n, n);
	for (size_t i = 0; i < n; i++) {
		char id[24];
		snprintf(id, sizeof id, "i%zu", i + 1);
		assert_string_equal(s.ids[i], id);
		assert_int_equal(s.seq[i], i + 1);
	}
}

static void wait_for(struct world *w, uint64_t n)
{
	while (feed_wait(w->feed, n - 1, 10000) < n)
		;
}

static void events_are_brought_and_acknowledged(void **state)
{
	struct world *w = *state;
	happen(w, 3);
	wait_for(w, 3);
	happen(w, 2);
	wait_for(w, 5);
	expect(w, 5);
	feed_catch_up(w->feed, NULL); // after it the acknowledgement is done too
	assert_int_equal(w->model.acked, 5);
	struct seen s = {0};
	assert_int_equal(event_log_read(w->db, 0, 0, "i4", 10, take, &s, NULL), 0);
	assert_int_equal(s.n, 1);
	assert_int_equal(s.seq[0], 4);
}

static void what_happens_without_us_is_told_later(void **state)
{
	struct world *w = *state;
	happen(w, 2);
	wait_for(w, 2);
	stop(w);
	happen(w, 100);
	start(w);
	feed_catch_up(w->feed, NULL);
	expect(w, 102);
	stop(w);
	start(w);
	feed_catch_up(w->feed, NULL);
	expect(w, 102);
}

static void a_lost_acknowledgement_repeats_nothing(void **state)
{
	struct world *w = *state;
	w->model.fail_ack = ERR_UNAVAILABLE;
	happen(w, 4);
	feed_catch_up(w->feed, NULL);
	expect(w, 4);
	assert_int_equal(w->model.acked, 0);
	feed_catch_up(w->feed, NULL);
	stop(w);
	start(w);
	w->model.fail_ack = ERR_NONE;
	happen(w, 1);
	feed_catch_up(w->feed, NULL);
	expect(w, 5);
	assert_int_equal(w->model.acked, 5);
}

// As if killed between the commit and the acknowledgement, or before the commit: the second cursor
// is set back in the same way that a lost transaction would have left it.
static void a_transaction_that_was_lost_is_made_again(void **state)
{
	struct world *w = *state;
	w->model.fail_ack = ERR_UNAVAILABLE;
	happen(w, 6);
	feed_catch_up(w->feed, NULL);
	stop(w);
	struct err e = {0};
	assert_int_equal(db_open(w->path, control_migrations, &w->db, &e), 0);
	db_lock(w->db);
	assert_int_equal(db_exec(w->db, &e, "DELETE FROM events WHERE seq > 4", ""), 0);
	assert_int_equal(
		db_exec(w->db, &e, "UPDATE sqlite_sequence SET seq = 4 WHERE name = 'events'", ""),
		0);
	assert_int_equal(db_exec(w->db, &e, "UPDATE hosts SET cursor = 4", ""), 0);
	db_unlock(w->db);
	w->db = db_close(w->db);
	w->model.fail_ack = ERR_NONE;
	start(w);
	feed_catch_up(w->feed, NULL);
	expect(w, 6);
}

static void a_host_that_is_away_is_waited_for(void **state)
{
	struct world *w = *state;
	happen(w, 1);
	wait_for(w, 1);
	w->model.fail_events = ERR_UNAVAILABLE;
	happen(w, 2);
	feed_catch_up(w->feed, NULL);
	expect(w, 1);
	w->model.fail_events = ERR_NONE;
	wait_for(w, 3); // by itself
	expect(w, 3);
}

static void a_new_database_of_the_host_is_read_from_its_start(void **state)
{
	struct world *w = *state;
	happen(w, 5);
	wait_for(w, 5);
	feed_catch_up(w->feed, NULL);
	stop(w);
	model_done(&w->model);
	model_init(&w->model);
	snprintf(w->model.journal, sizeof w->model.journal, "two");
	happen(w, 2);
	start(w);
	feed_catch_up(w->feed, NULL);
	struct seen s = all(w);
	assert_int_equal(s.n, 7);
	assert_string_equal(s.ids[5], "i1");
	assert_int_equal(s.seq[6], 7); // our own numbers go on
}

static void an_older_copy_of_its_database_tells_nothing_twice(void **state)
{
	struct world *w = *state;
	happen(w, 5);
	wait_for(w, 5);
	feed_catch_up(w->feed, NULL);
	stop(w);
	w->model.n_events = 3; // restored from then
	w->model.acked = 0;
	start(w);
	feed_catch_up(w->feed, NULL);
	assert_int_equal(all(w).n, 5);
	happen(w, 1); // number 4 once more, but another event
	feed_catch_up(w->feed, NULL);
	struct seen s = all(w);
	assert_int_equal(s.n, 6);
	assert_string_equal(s.ids[5], "i4");
}

static void readers_wait_no_longer_than_they_say(void **state)
{
	struct world *w = *state;
	assert_int_equal(feed_wait(w->feed, 0, 0), 0);
	assert_int_equal(feed_wait(w->feed, 0, 20), 0);
	happen(w, 1);
	assert_int_equal(feed_wait(w->feed, 0, 10000), 1);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(events_are_brought_and_acknowledged),
		T(what_happens_without_us_is_told_later),
		T(a_lost_acknowledgement_repeats_nothing),
		T(a_transaction_that_was_lost_is_made_again),
		T(a_host_that_is_away_is_waited_for),
		T(a_new_database_of_the_host_is_read_from_its_start),
		T(an_older_copy_of_its_database_tells_nothing_twice),
		T(readers_wait_no_longer_than_they_say),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
