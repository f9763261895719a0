// SPDX-License-Identifier: Apache-2.0
#include "../check.h"
#include <string.h>
#include "sandbox/table/refs.h"

#define A "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa"
#define B "bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb"
#define S "55555555-5555-4555-8555-555555555555"
#define T "77777777-7777-4777-8777-777777777777"

static char ids[2][UUID_SIZE] = {A, B};
static const struct header both = {.n_layers = 2, .layers = ids};
static const struct header first = {.n_layers = 1, .layers = ids};
static const struct header second = {.n_layers = 1, .layers = ids + 1};

static int setup(void **state)
{
	*state = refs_new();
	return *state ? 0 : -1;
}

static int teardown(void **state)
{
	refs_free(*state);
	return 0;
}

static void expect_layer(struct refs *r, const char *id)
{
	char got[UUID_SIZE] = "";
	assert_int_equal(refs_next_layer(r, got), id != NULL);
	if (id)
		assert_string_equal(got, id);
}

static void a_layer_goes_with_the_last_snapshot_that_names_it(void **state)
{
	struct refs *r = *state;
	char got[UUID_SIZE];
	assert_int_equal(refs_add_snapshot(r, S, &both), 0);
	assert_int_equal(refs_add_snapshot(r, T, &first), 0);
	assert_int_equal(refs_drop_snapshot(r, S), 0);
	assert_true(refs_next_snapshot(r, got));
	assert_string_equal(got, S);
	expect_layer(r, NULL); // its files are not gone yet
	refs_snapshot_gone(r, S);
	expect_layer(r, B);
	expect_layer(r, NULL);
	assert_int_equal(refs_drop_snapshot(r, T), 0);
	assert_true(refs_next_snapshot(r, got));
	refs_snapshot_gone(r, T);
	expect_layer(r, A);
	assert_false(refs_knows_layer(r, A));
}

static void a_dropped_snapshot_stays_while_it_is_used(void **state)
{
	struct refs *r = *state;
	char got[UUID_SIZE];
	struct layer_set used;
	assert_int_equal(refs_use_snapshot(r, S, &used), -ENOENT);
	assert_int_equal(refs_add_snapshot(r, S, &first), 0);
	assert_int_equal(refs_use_snapshot(r, S, &used), 0);
	assert_int_equal(refs_drop_snapshot(r, S), 0);
	assert_false(refs_has_snapshot(r, S));
	assert_int_equal(refs_use_snapshot(r, S, &used), -ENOENT);
	assert_false(refs_next_snapshot(r, got));
	refs_unuse_snapshot(r, S, &used);
	assert_true(refs_next_snapshot(r, got));
	refs_snapshot_stays(r, S); // could not be removed
	assert_true(refs_next_snapshot(r, got));
	refs_snapshot_gone(r, S);
	expect_layer(r, A);
}

static void a_merge_lets_the_old_layers_go(void **state)
{
	struct refs *r = *state;
	assert_int_equal(refs_add_snapshot(r, S, &first), 0);
	assert_int_equal(refs_hold_layer(r, B), 0); // the merge makes it
	assert_int_equal(refs_add_snapshot(r, S, &second), 0);
	refs_release_layer(r, B);
	expect_layer(r, A);
	expect_layer(r, NULL);
	assert_true(refs_knows_layer(r, B));
}

static void a_merge_leaves_its_layers_to_who_reads_it(void **state)
{
	struct refs *r = *state;
	struct layer_set used;
	assert_int_equal(refs_add_snapshot(r, S, &first), 0);
	assert_int_equal(refs_use_snapshot(r, S, &used), 0);
	assert_int_equal(used.n, 1);
	assert_int_equal(refs_add_snapshot(r, S, &second), 0);
	expect_layer(r, NULL);
	refs_unuse_snapshot(r, S, &used);
	expect_layer(r, A);
	expect_layer(r, NULL);
}

static void what_is_held_again_comes_off_the_list(void **state)
{
	struct refs *r = *state;
	assert_int_equal(refs_hold_layer(r, A), 0);
	refs_release_layer(r, A);
	assert_int_equal(refs_hold_layer(r, A), 0);
	expect_layer(r, NULL);
	refs_release_layer(r, A);
	expect_layer(r, A);
}

static void an_unknown_snapshot_is_removed_too(void **state)
{
	struct refs *r = *state;
	char got[UUID_SIZE];
	assert_int_equal(refs_drop_snapshot(r, S), 0);
	assert_true(refs_next_snapshot(r, got));
	refs_snapshot_gone(r, S);
	assert_false(refs_next_snapshot(r, got));
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		CASE(a_layer_goes_with_the_last_snapshot_that_names_it),
		CASE(a_dropped_snapshot_stays_while_it_is_used),
		CASE(a_merge_lets_the_old_layers_go),
		CASE(a_merge_leaves_its_layers_to_who_reads_it),
		CASE(what_is_held_again_comes_off_the_list),
		CASE(an_unknown_snapshot_is_removed_too),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
