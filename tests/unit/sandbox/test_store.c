// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <fcntl.h>
#include <string.h>
#include "base/file.h"
#include "sandbox/table/bells.h"
#include "sandbox/table/store.h"
#include "sandbox/table/state.h"

static char dir[64];

static struct host *open_host(void)
{
	struct host *h = calloc(1, sizeof *h);
	struct err e = {0};
	pthread_mutex_init(&h->lock, NULL);
	pthread_mutex_init(&h->event_lock, NULL);
	pthread_cond_init(&h->event_added, NULL);
	h->data_dir = strdup(dir);
	h->refs = refs_new();
	pthread_mutex_init(&h->upkeep_lock, NULL);
	pthread_cond_init(&h->upkeep_wake, NULL);
	assert_int_equal(store_open(h, &e), 0);
	return h;
}

static void close_host(struct host *h)
{
	for (size_t b = 0; b < HOST_BUCKETS; b++)
		while (h->buckets[b])
			host_remove(h, h->buckets[b]);
	char id[UUID_SIZE];
	while (upkeep_take(h, id))
		;
	refs_free(h->refs);
	db_close(h->db);
	free(h->data_dir);
	free(h);
}

static int setup(void **state)
{
	snprintf(dir, sizeof dir, "/tmp/store-test-XXXXXX");
	assert_non_null(mkdtemp(dir));
	*state = open_host();
	return 0;
}

static int teardown(void **state)
{
	close_host(*state);
	assert_int_equal(file_rm_rf(AT_FDCWD, dir), 0);
	return 0;
}

static struct sandbox sample(const char *id)
{
	struct sandbox s = {.pidfd = -1, .has_slot = true, .slot.index = 7};
	snprintf(s.info.id, sizeof s.info.id, "%s", id);
	snprintf(s.info.template, sizeof s.info.template, "base");
	s.info.state = SANDBOX_PENDING;
	s.info.vcpus = 2;
	s.info.memory_mb = 512;
	s.info.disk_mb = 2048;
	s.info.ends_at_ns = 1ull << 62;
	s.info.n_phases = 1;
	snprintf(s.info.phases[0].name, sizeof s.info.phases[0].name, "slot");
	s.info.phases[0].us = 120;
	snprintf(s.token, sizeof s.token, "secret");
	return s;
}

static char seen_op[16], seen_id[64]; // of the last row
static char open_op[16], open_id[64]; // of the last row with an open operation
static int keep(
	struct host *h, struct sandbox *s, const char *op, const char *op_id, const char *data)
{
	snprintf(seen_op, sizeof seen_op, "%s", op);
	snprintf(seen_id, sizeof seen_id, "%s", op_id);
	if (op[0]) {
		snprintf(open_op, sizeof open_op, "%s", op);
		snprintf(open_id, sizeof open_id, "%s", op_id);
	}
	return host_insert(h, s);
}

static const char op1[] = "11111111-1111-4111-8111-111111111111";

static void an_open_operation_is_found_by_the_next_server(void **state)
{
	struct host *h = *state;
	struct err e = {0};
	struct sandbox s = sample("iabc");
	assert_int_equal(store_op_begin(h, op1, "create", s.info.id, &s, NULL, NULL, &e), 0);
	close_host(h);
	*state = h = open_host();
	assert_int_equal(store_load(h, keep, &e), 0);
	struct sandbox *r = host_find(h, "iabc");
	assert_non_null(r);
	assert_string_equal(seen_op, "create");
	assert_string_equal(seen_id, op1);
	assert_int_equal(r->slot.index, 7);
	assert_true(r->has_slot);
	assert_string_equal(r->token, "secret");
	assert_int_equal(r->info.state, SANDBOX_PENDING);
	assert_int_equal(r->info.ends_at_ns, 1ull << 62);
	assert_int_equal(r->info.n_phases, 1);
	assert_int_equal(r->info.phases[0].us, 120);
}

// As 24c09c7 left it: killed in the middle of a pause.
static void a_journal_of_an_older_server_is_read(void **state)
{
	_cleanup_strbuf_ struct strbuf db = {0};
	_cleanup_free_ struct store_snapshot *list = NULL;
	size_t n = 0;
	struct err e = {0};
	close_host(*state);
	assert_int_equal(file_read(AT_FDCWD, FIXTURES "/24c09c7/host.db", 1 << 20, &db), 0);
	_cleanup_free_ char *path = str_printf("%s/host.db", dir);
	assert_int_equal(file_write_atomic(AT_FDCWD, path, db.data, db.len, 0600), 0);
	struct host *h = *state = open_host();
	assert_int_equal(store_load(h, keep, &e), 0);
	assert_string_equal(host_find(h, "ipausing")->token, "secret");
	assert_int_equal(host_find(h, "ipausing")->info.state, SANDBOX_PAUSING);
	assert_true(host_find(h, "ipausing")->full_next);
	assert_int_equal(host_find(h, "ipaused")->info.state, SANDBOX_PAUSED);
	assert_string_equal(host_find(h, "ipaused")->info.dns, "");
	assert_false(host_find(h, "ipaused")->dns_own);
	assert_string_equal(open_op, "pause");
	assert_string_equal(open_id, "aaaaaaaa-0000-4000-8000-000000000002");
	assert_int_equal(store_list_snapshots(h, "pause", "ipaused", NULL, &list, &n, &e), 0);
	assert_int_equal(n, 1);
	assert_string_equal(list[0].info.id, "99999999-9999-4999-8999-999999999999");
	assert_string_equal(list[0].token, "secret");
}

static void a_committed_operation_is_no_longer_open(void **state)
{
	struct host *h = *state;
	struct err e = {0};
	char op_state[8], id[64];
	struct sandbox s = sample("iabc");
	struct store_event ev = {.kind = "running"};
	assert_int_equal(store_op_begin(h, op1, "create", s.info.id, &s, NULL, NULL, &e), 0);
	s.info.state = SANDBOX_RUNNING;
	assert_int_equal(store_commit(h, op1, &s, &ev, &e), 0);
	assert_int_equal(store_op_find(h, op1, op_state, id, NULL, &e), 0);
	assert_string_equal(op_state, "done");
	assert_string_equal(id, "iabc");
	assert_int_equal(store_load(h, keep, &e), 0);
	assert_string_equal(seen_op, "");
	assert_int_equal(host_find(h, "iabc")->info.state, SANDBOX_RUNNING);
}

static void an_operation_id_serves_once(void **state)
{
	struct host *h = *state;
	struct err e = {0};
	struct sandbox s = sample("iabc"), other = sample("idef");
	assert_int_equal(store_op_begin(h, op1, "create", s.info.id, &s, NULL, NULL, &e), 0);
	assert_true(store_op_begin(h, op1, "create", other.info.id, &other, NULL, NULL, &e) < 0);
	assert_int_equal(e.code, ERR_CONFLICT);
	assert_int_equal(store_load(h, keep, &e), 0);
	assert_null(host_find(h, "idef")); // nothing of the refused one stays
}

static void a_forgotten_sandbox_leaves_an_event_and_no_row(void **state)
{
	struct host *h = *state;
	struct err e = {0};
	char op_state[8], id[64];
	struct sandbox s = sample("iabc");
	struct store_event ev = {.kind = "create_failed", .cause = "create_failed"};
	assert_int_equal(store_op_begin(h, op1, "create", s.info.id, &s, NULL, NULL, &e), 0);
	assert_int_equal(store_forget(h, "iabc", &ev, &e), 0);
	assert_int_equal(store_load(h, keep, &e), 0);
	assert_null(host_find(h, "iabc"));
	assert_int_equal(store_op_find(h, op1, op_state, id, NULL, &e), 0);
	assert_string_equal(op_state, "");
	struct host_event *list;
	size_t n;
	assert_int_equal(store_events(h, 0, 10, &list, &n, &e), 0);
	assert_int_equal(n, 1);
	assert_string_equal(list[0].kind, "create_failed");
	host_event_done(&list[0]);
	free(list);
}

static void events_are_numbered_without_gaps_across_restarts(void **state)
{
	struct host *h = *state;
	struct err e = {0};
	struct sandbox s = sample("iabc");
	struct host_event *list;
	size_t n;
	for (int i = 0; i < 3; i++) {
		struct store_event ev = {.kind = "running"};
		assert_int_equal(store_commit(h, NULL, &s, &ev, &e), 0);
		assert_int_equal(store_commit(h, NULL, &s, NULL, &e), 0); // no event: no number
		assert_int_equal(h->last_event, i + 1);
		close_host(h);
		*state = h = open_host();
		assert_int_equal(h->last_event, i + 1);
	}
	assert_int_equal(store_events(h, 1, 10, &list, &n, &e), 0);
	assert_int_equal(n, 2);
	assert_int_equal(list[0].seq, 2);
	assert_int_equal(list[1].seq, 3);
	for (size_t i = 0; i < n; i++)
		host_event_done(&list[i]);
	free(list);
}

static size_t count_events(struct host *h, struct host_event *first)
{
	struct host_event *list = NULL;
	struct err e = {0};
	size_t n = 0;
	assert_int_equal(store_events(h, 0, STORE_MAX_EVENTS * 2, &list, &n, &e), 0);
	*first = (struct host_event){0};
	for (size_t i = 0; i < n; i++) {
		if (i > 0)
			assert_int_equal(list[i].seq, list[i - 1].seq + 1);
		if (i == 0)
			*first = list[0];
		else
			host_event_done(&list[i]);
	}
	free(list);
	return n;
}

static void add_events(struct host *h, int n)
{
	struct err e = {0};
	db_lock(h->db);
	assert_int_equal(db_exec(h->db, &e,
				 "INSERT INTO events (at_ns, sandbox, kind, cause, data) WITH "
				 "RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE "
				 "x < ?) SELECT x, 'ibox', 'running', '', '{}' FROM c",
				 "i", (int64_t)n),
		0);
	db_unlock(h->db);
}

static void acknowledged_events_go_and_numbers_go_on(void **state)
{
	struct host *h = *state;
	struct host_event first;
	struct err e = {0};
	char journal[sizeof h->journal_id];
	add_events(h, 5);
	close_host(h);
	*state = h = open_host();
	assert_int_equal(h->last_event, 5);
	snprintf(journal, sizeof journal, "%s", h->journal_id);
	assert_int_equal(strlen(journal), 32);
	assert_int_equal(host_ack_events(h, 3, &e), 0);
	assert_int_equal(count_events(h, &first), 2);
	assert_int_equal(first.seq, 4);
	host_event_done(&first);
	assert_true(host_ack_events(h, 6, &e) < 0);
	assert_int_equal(e.code, ERR_INVALID);
	assert_int_equal(host_ack_events(h, 5, &e), 0);
	assert_int_equal(host_ack_events(h, 2, &e), 0); // late, and harmless
	close_host(h);
	*state = h = open_host();
	assert_int_equal(h->last_event, 5);
	assert_string_equal(h->journal_id, journal);
	add_events(h, 1);
	assert_int_equal(count_events(h, &first), 1);
	assert_int_equal(first.seq, 6);
	host_event_done(&first);
}

static void events_that_nobody_takes_end_in_one_that_says_so(void **state)
{
	struct host *h = *state;
	struct host_event first;
	struct err e = {0};
	add_events(h, STORE_MAX_EVENTS + 10);
	assert_int_equal(store_purge(h, 0, &e), 0);
	assert_int_equal(count_events(h, &first), STORE_MAX_EVENTS);
	assert_int_equal(first.seq, 11);
	assert_string_equal(first.kind, "events_lost");
	assert_string_equal(first.cause, "journal_full");
	assert_int_equal(json_integer_value(json_object_get(first.data, "first")), 1);
	assert_int_equal(json_integer_value(json_object_get(first.data, "last")), 11);
	host_event_done(&first);
	// A second time the first loss is not forgotten.
	add_events(h, 5);
	assert_int_equal(store_purge(h, 0, &e), 0);
	assert_int_equal(count_events(h, &first), STORE_MAX_EVENTS);
	assert_int_equal(json_integer_value(json_object_get(first.data, "first")), 1);
	assert_int_equal(json_integer_value(json_object_get(first.data, "last")), 16);
	host_event_done(&first);
	assert_int_equal(store_purge(h, 0, &e), 0);
	assert_int_equal(count_events(h, &first), STORE_MAX_EVENTS);
	assert_int_equal(first.seq, 16);
	host_event_done(&first);
}

static void a_database_of_a_newer_program_is_refused(void **state)
{
	struct host *h = *state;
	struct err e = {0};
	db_lock(h->db);
	assert_int_equal(db_exec(h->db, &e, "PRAGMA user_version=99", ""), 0);
	db_unlock(h->db);
	db_close(h->db);
	h->db = NULL;
	assert_true(store_open(h, &e) < 0);
	assert_int_equal(e.code, ERR_UNAVAILABLE);
	assert_non_null(strstr(e.text, "version 99"));
}

static void states_follow_the_table(void **state _unused_)
{
	for (int i = 0; i < SANDBOX_STATE_MAX; i++)
		assert_int_equal(sandbox_state_parse(sandbox_state_name((enum sandbox_state)i)), i);
	assert_int_equal(sandbox_state_parse("flying"), SANDBOX_STATE_MAX);
	assert_true(sandbox_state_may(SANDBOX_PENDING, SANDBOX_RUNNING));
	assert_true(sandbox_state_may(SANDBOX_PAUSING, SANDBOX_RUNNING)); // a failed pause
	assert_true(sandbox_state_may(SANDBOX_RESUMING, SANDBOX_PAUSED)); // a failed resume
	assert_false(sandbox_state_may(SANDBOX_STOPPED, SANDBOX_RUNNING));
	assert_false(sandbox_state_may(SANDBOX_PAUSED, SANDBOX_RUNNING));
}

static void a_failed_operation_says_so_again(void **state)
{
	struct host *h = *state;
	struct err e = {0}, why = {0}, told = {0};
	char op_state[8], id[64];
	struct sandbox s = sample("iabc");
	err_set(&why, ERR_NO_SPACE, "no room");
	struct store_event ev = {.kind = "pause_failed", .failed = &why};
	assert_int_equal(
		store_op_begin(h, op1, "pause", s.info.id, &s, "{\"layer\":\"x\"}", NULL, &e), 0);
	assert_int_equal(store_commit(h, op1, &s, &ev, &e), 0);
	assert_int_equal(store_op_find(h, op1, op_state, id, &told, &e), 0);
	assert_string_equal(op_state, "done");
	assert_int_equal(told.code, ERR_NO_SPACE);
	assert_string_equal(told.text, "no room");
}

static void a_snapshot_comes_and_goes_with_its_sandbox(void **state)
{
	struct host *h = *state;
	struct err e = {0};
	struct sandbox s = sample("iabc");
	struct store_snapshot row = {.info = {.kind = "pause",
					     .vcpus = 1,
					     .memory_mb = 512,
					     .memory_bytes = 77,
					     .created_ns = 5},
		.token = "t"};
	snprintf(row.info.id, sizeof row.info.id, "%s", op1);
	snprintf(row.info.sandbox, sizeof row.info.sandbox, "iabc");
	struct store_snapshot got, *list;
	size_t n;
	assert_int_equal(store_op_begin(h, op1, "pause", s.info.id, &s, NULL, NULL, &e), 0);
	s.info.state = SANDBOX_PAUSED;
	s.full_next = true;
	s.dns_own = true;
	snprintf(s.info.dns, sizeof s.info.dns, "10.0.0.53,9.9.9.9");
	s.info.generation = 9;
	snprintf(s.info.snapshot, sizeof s.info.snapshot, "%s", op1);
	assert_int_equal(
		store_apply(h, &(struct store_change){.op_id = op1, .row = &s, .add = &row}, &e),
		0);
	assert_int_equal(store_get_snapshot(h, op1, &got, &e), 0);
	assert_memory_equal(&got, &row, sizeof got);
	assert_int_equal(store_list_snapshots(h, "pause", "iabc", NULL, &list, &n, &e), 0);
	assert_int_equal(n, 1);
	free(list);
	assert_int_equal(store_list_snapshots(h, "template", NULL, NULL, &list, &n, &e), 0);
	assert_int_equal(n, 0);
	free(list);
	assert_int_equal(store_load(h, keep, &e), 0);
	struct sandbox *r = host_find(h, "iabc");
	assert_int_equal(r->info.state, SANDBOX_PAUSED);
	assert_string_equal(r->info.snapshot, op1);
	assert_true(r->full_next);
	assert_true(r->dns_own);
	assert_string_equal(r->info.dns, "10.0.0.53,9.9.9.9");
	assert_int_equal(r->info.generation, 9);
	assert_int_equal(store_apply(h, &(struct store_change){.row = &s, .drop = op1}, &e), 0);
	assert_true(store_get_snapshot(h, op1, &got, &e) < 0);
	assert_int_equal(e.code, ERR_NOT_FOUND);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(an_open_operation_is_found_by_the_next_server),
		T(a_journal_of_an_older_server_is_read),
		T(a_committed_operation_is_no_longer_open),
		T(an_operation_id_serves_once),
		T(a_forgotten_sandbox_leaves_an_event_and_no_row),
		T(a_failed_operation_says_so_again),
		T(a_snapshot_comes_and_goes_with_its_sandbox),
		T(events_are_numbered_without_gaps_across_restarts),
		T(acknowledged_events_go_and_numbers_go_on),
		T(events_that_nobody_takes_end_in_one_that_says_so),
		T(a_database_of_a_newer_program_is_refused),
		cmocka_unit_test(states_follow_the_table),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
