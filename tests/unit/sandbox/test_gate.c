// SPDX-License-Identifier: Apache-2.0
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <cmocka.h>
#include "sandbox/table/gate.h"

// Somebody at the gate, on a thread of its own.
struct visitor {
	struct gate *gate;
	struct gate_ticket ticket;
	pthread_t thread;
	struct err e;
	int rc;
	atomic_uint *turns; // counts those that got in
	unsigned turn;	    // this one's number among them
};

static void *visit(void *arg)
{
	struct visitor *v = arg;
	v->rc = gate_wait(v->gate, &v->ticket, &v->e);
	if (v->rc == 0 && v->turns) {
		v->turn = atomic_fetch_add(v->turns, 1);
		gate_leave(v->gate, &v->ticket);
	}
	return NULL;
}

// In line when this returns.
static void come(struct visitor *v, struct gate *g, atomic_uint *turns)
{
	*v = (struct visitor){.gate = g, .turns = turns};
	assert_false(gate_join(g, &v->ticket));
	assert_int_equal(pthread_create(&v->thread, NULL, visit, v), 0);
}

static void expect(struct gate *g, unsigned inside, size_t in_line)
{
	unsigned i;
	size_t n;
	gate_count(g, &i, &n);
	assert_int_equal(i, inside);
	assert_int_equal(n, in_line);
}

static void who_came_first_is_next(void **state)
{
	struct gate g;
	struct gate_ticket in[2] = {0};
	struct visitor v[20];
	atomic_uint turns = 0;
	gate_init(&g, 2);
	assert_true(gate_join(&g, &in[0]));
	assert_true(gate_join(&g, &in[1]));
	for (size_t i = 0; i < ARRAY_SIZE(v); i++) {
		come(&v[i], &g, &turns);
		assert_int_equal(gate_place(&g, &v[i].ticket), i + 1);
	}
	expect(&g, 2, ARRAY_SIZE(v));
	assert_int_equal(gate_place(&g, &in[0]), 0);
	// Through the one place, so that the order can be seen.
	gate_leave(&g, &in[0]);
	for (size_t i = 0; i < ARRAY_SIZE(v); i++) {
		pthread_join(v[i].thread, NULL);
		assert_int_equal(v[i].rc, 0);
		assert_int_equal(v[i].turn, i);
	}
	gate_leave(&g, &in[0]); // not twice
	expect(&g, 1, 0);
	gate_leave(&g, &in[1]);
	expect(&g, 0, 0);
	gate_done(&g);
}

static void canceled_one_goes_and_the_others_move_up(void **state)
{
	struct gate g;
	struct gate_ticket in = {0};
	struct visitor v[3];
	atomic_uint turns = 0;
	gate_init(&g, 1);
	assert_true(gate_join(&g, &in));
	for (size_t i = 0; i < ARRAY_SIZE(v); i++)
		come(&v[i], &g, &turns);
	gate_cancel(&g, &in); // who is inside stays
	gate_cancel(&g, &v[1].ticket);
	pthread_join(v[1].thread, NULL);
	assert_int_equal(v[1].e.code, ERR_CONFLICT);
	assert_int_equal(v[1].ticket.where, GATE_AWAY);
	assert_int_equal(gate_place(&g, &v[2].ticket), 2);
	expect(&g, 1, 2);
	gate_leave(&g, &v[1].ticket); // it never was
	expect(&g, 1, 2);
	gate_leave(&g, &in);
	pthread_join(v[0].thread, NULL);
	pthread_join(v[2].thread, NULL);
	assert_true(v[0].rc == 0 && v[2].rc == 0);
	assert_true(v[0].turn < v[2].turn);
	gate_done(&g);
}

static void closed_gate_sends_away_all_but_those_inside(void **state)
{
	struct gate g;
	struct gate_ticket in = {0}, late = {0};
	struct visitor v[5];
	struct err e = {0};
	gate_init(&g, 1);
	assert_true(gate_join(&g, &in));
	for (size_t i = 0; i < ARRAY_SIZE(v); i++)
		come(&v[i], &g, NULL);
	gate_close(&g);
	for (size_t i = 0; i < ARRAY_SIZE(v); i++) {
		pthread_join(v[i].thread, NULL);
		assert_true(v[i].rc < 0);
		assert_int_equal(v[i].e.code, ERR_UNAVAILABLE);
	}
	expect(&g, 1, 0);
	gate_leave(&g, &in);
	assert_false(gate_join(&g, &late));
	assert_true(gate_wait(&g, &late, &e) < 0);
	assert_int_equal(e.code, ERR_UNAVAILABLE);
	expect(&g, 0, 0);
	gate_done(&g);
}

// Many threads at once: never more inside than there are places, and all of them come to an end.
struct crowd {
	struct gate *gate;
	atomic_uint inside, most;
};

static void *push(void *arg)
{
	struct crowd *c = arg;
	for (unsigned i = 0; i < 200; i++) {
		struct gate_ticket t = {0};
		if (!gate_join(c->gate, &t) && gate_wait(c->gate, &t, NULL) < 0)
			return NULL;
		unsigned n = atomic_fetch_add(&c->inside, 1) + 1, most = atomic_load(&c->most);
		while (n > most && !atomic_compare_exchange_weak(&c->most, &most, n))
			;
		sched_yield();
		atomic_fetch_sub(&c->inside, 1);
		gate_leave(c->gate, &t);
	}
	return arg;
}

static void never_more_inside_than_places(void **state)
{
	struct gate g;
	struct crowd c = {.gate = &g};
	pthread_t threads[16];
	gate_init(&g, 3);
	for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, push, &c), 0);
	for (size_t i = 0; i < ARRAY_SIZE(threads); i++) {
		void *done;
		pthread_join(threads[i], &done);
		assert_non_null(done);
	}
	assert_in_range(atomic_load(&c.most), 1, 3);
	expect(&g, 0, 0);
	gate_done(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(who_came_first_is_next),
		cmocka_unit_test(canceled_one_goes_and_the_others_move_up),
		cmocka_unit_test(closed_gate_sends_away_all_but_those_inside),
		cmocka_unit_test(never_more_inside_than_places),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
