// SPDX-License-Identifier: Apache-2.0
// Public and private ports: what is kept, told and derived. tests/integration/control/edge.py has
// what the edge does with it.
#include "fixture.h"
#include <signal.h>
#include <string.h>
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "control/api/context.h"
#include "control/state/port_access.h"
#include "control/state/port_links.h"

static bool is_public(json_t *j)
{
	assert_true(json_is_boolean(json_object_get(j, "public")));
	return json_is_true(json_object_get(j, "public"));
}

static void token_of(struct fixture *f, const char *id, char out[SHA256_HEX_SIZE])
{
	char path[200];
	_cleanup_json_ json_t *j = call(f, "GET", path_of(id, "", path), NULL, 200);
	snprintf(out, SHA256_HEX_SIZE, "%s", text(j, "port_token"));
	assert_int_equal(strlen(out), SHA256_HEX_SIZE - 1);
	assert_string_not_equal(out, text(j, "envd_token"));
}

static void test_kept_over_a_restart(void **state)
{
	struct fixture *f = *state;
	char open[64], shut[64], path[200], a[SHA256_HEX_SIZE], b[SHA256_HEX_SIZE];
	char again[SHA256_HEX_SIZE];
	create_box(f, "{}", open);
	create_box(f, "{\"public\":false}", shut);
	token_of(f, open, a);
	token_of(f, shut, b);
	assert_string_not_equal(a, b);
	_cleanup_json_ json_t *new = call(f, "POST", path_of(shut, "/port-token", path), NULL, 200);
	assert_string_not_equal(text(new, "port_token"), b);
	fixture_stop(f);
	fixture_start(f);
	token_of(f, open, again);
	assert_string_equal(again, a);
	token_of(f, shut, again);
	assert_string_equal(again, text(new, "port_token"));
	_cleanup_json_ json_t *j = call(f, "GET", path_of(open, "", path), NULL, 200);
	_cleanup_json_ json_t *k = call(f, "GET", path_of(shut, "", path), NULL, 200);
	assert_true(is_public(j));
	assert_false(is_public(k));
	_cleanup_json_ json_t *list = call(f, "GET", "/v1/sandboxes", NULL, 200);
	json_t *one;
	size_t i;
	json_array_foreach (json_object_get(list, "sandboxes"), i, one) {
		assert_int_equal(is_public(one), str_eq(text(one, "id"), open));
		assert_null(json_object_get(one, "port_token"));
	}
	refused(f, "POST", "/v1/sandboxes", "{\"public\":\"no\"}", 400, "public");
	refused(f, "POST", path_of(shut, "/port-token", path), "{\"x\":1}", 400, "unknown field");
	call_drop(f, "DELETE", path_of(shut, "", path), NULL, 204);
	refused(f, "POST", path_of(shut, "/port-token", path), NULL, 404, shut);
	refused(f, "POST", path_of(shut, "/links", path), "{\"port\":80}", 404, shut);
}

static void test_children_are_as_their_source(void **state)
{
	struct fixture *f = *state;
	char id[64], path[200], own[SHA256_HEX_SIZE], childs[SHA256_HEX_SIZE];
	create_box(f, "{\"public\":false}", id);
	token_of(f, id, own);
	_cleanup_json_ json_t *j =
		call(f, "POST", path_of(id, "/fork", path), "{\"count\":2}", 200);
	json_t *child;
	size_t i;
	json_array_foreach (json_object_get(j, "children"), i, child) {
		assert_false(is_public(child));
		token_of(f, text(child, "id"), childs);
		assert_string_not_equal(childs, own);
	}
	// What is made from a snapshot is as its create says.
	char body[200], spawned[64];
	snprintf(body, sizeof body, "{\"sandbox_id\":\"%s\",\"name\":\"warm\"}", id);
	call_drop(f, "POST", "/v1/snapshots", body, 201);
	create_box(f, "{\"template\":\"warm\"}", spawned);
	_cleanup_json_ json_t *k = call(f, "GET", path_of(spawned, "", path), NULL, 200);
	assert_true(is_public(k));
}

static void test_cookies(void **state)
{
	struct fixture *f = *state;
	char one[64], two[64], cookie[PORT_COOKIE_SIZE], bad[PORT_COOKIE_SIZE + 2];
	const uint64_t now = clock_realtime_ns() / NSEC_PER_SEC;
	struct err e = {0};
	create_box(f, "{\"public\":false}", one);
	create_box(f, "{\"public\":false}", two);
	_cleanup_(row_unrefp) struct sandbox_row *a = rows_get(f->control->rows, one);
	_cleanup_(row_unrefp) struct sandbox_row *b = rows_get(f->control->rows, two);
	port_access_cookie(a, 3000, now + 10, cookie);
	assert_true(port_access_is_cookie(a, 3000, now, cookie));
	assert_true(port_access_is_cookie(a, 3000, now + 9, cookie));
	assert_false(port_access_is_cookie(a, 3000, now + 10, cookie));
	assert_false(port_access_is_cookie(a, 3001, now, cookie));
	assert_false(port_access_is_cookie(b, 3000, now, cookie));
	for (size_t i = 0; cookie[i]; i++) {
		memcpy(bad, cookie, sizeof cookie);
		bad[i] ^= 1;
		assert_false(port_access_is_cookie(a, 3000, now, bad));
		bad[i] = '\0';
		assert_false(port_access_is_cookie(a, 3000, now, bad));
	}
	snprintf(bad, sizeof bad, "%s0", cookie);
	assert_false(port_access_is_cookie(a, 3000, now, bad));
	// One that lives for longer than any that is given: a forged one, or the clock went back.
	port_access_cookie(a, 3000, now + PORT_COOKIE_SEC + 1, cookie);
	assert_false(port_access_is_cookie(a, 3000, now, cookie));
	port_access_cookie(a, 3000, now + 10, cookie);
	assert_int_equal(rows_next_port_epoch(f->control->rows, a, &e), 0);
	assert_false(port_access_is_cookie(a, 3000, now, cookie));
	assert_false(port_access_is_token(a, NULL));
	assert_false(port_access_is_token(a, ""));
}

static void test_links(void **state)
{
	struct port_links *l = port_links_new();
	struct port_link link = {
		.id = "ia", .port = 80, .epoch = 1, .path = "/x", .expires_ns = 100};
	char code[PORT_LINK_CODE_SIZE], first[PORT_LINK_CODE_SIZE];
	struct err e = {0};
	assert_int_equal(port_links_add(l, &link, 1, first, &e), 0);
	assert_null(port_links_use(l, first, "ib", 80, 1, 1));
	assert_null(port_links_use(l, first, "ia", 81, 1, 1));
	assert_null(port_links_use(l, first, "ia", 80, 2, 1));
	assert_null(port_links_use(l, first, "ia", 80, 1, 100));
	assert_null(port_links_use(l, "", "ia", 80, 1, 1));
	_cleanup_free_ char *path = port_links_use(l, first, "ia", 80, 1, 99);
	assert_string_equal(path, "/x");
	assert_null(port_links_use(l, first, "ia", 80, 1, 1));
	for (int i = 0; i < PORT_LINK_MAX_SANDBOX; i++)
		assert_int_equal(port_links_add(l, &link, 1, code, &e), 0);
	assert_true(port_links_add(l, &link, 99, code, &e) < 0);
	assert_int_equal(e.code, ERR_LIMIT);
	assert_int_equal(port_links_add(l, &link, 100, code, &e), 0); // all others have expired
	char id[64];
	for (int i = 1; i < PORT_LINK_MAX; i++) {
		snprintf(id, sizeof id, "i%d", i / PORT_LINK_MAX_SANDBOX);
		link.id = id;
		assert_int_equal(port_links_add(l, &link, 1, code, &e), 0);
	}
	link.id = "iz";
	assert_true(port_links_add(l, &link, 1, code, &e) < 0);
	port_links_free(l);
}

// Of a link made before it is gone after a restart: in memory alone.
static void test_calls_of_links(void **state)
{
	struct fixture *f = *state;
	char id[64], path[200];
	create_box(f, "{\"public\":false}", id);
	path_of(id, "/links", path);
	_cleanup_json_ json_t *j =
		call(f, "POST", path, "{\"port\":3000,\"ttl_sec\":60,\"path\":\"/a?b=c\"}", 201);
	const char *url = text(j, "url"), *code = strstr(url, "/a?b=c&stasis_link=");
	assert_true(str_starts(url, "http://3000-"));
	assert_non_null(code);
	uint64_t at, now = clock_realtime_ns();
	assert_int_equal(clock_parse_rfc3339(text(j, "expires_at"), &at), 0);
	assert_in_range(at, now, now + 61 * NSEC_PER_SEC);
	_cleanup_(row_unrefp) struct sandbox_row *row = rows_get(f->control->rows, id);
	_cleanup_free_ char *to = port_links_use(f->control->port_links,
		code + strlen("/a?b=c&stasis_link="), id, 3000, row->port_epoch, now);
	assert_string_equal(to, "/a?b=c");
	refused(f, "POST", path, "{}", 400, "port");
	refused(f, "POST", path, "{\"port\":49983}", 400, "the agent's");
	refused(f, "POST", path, "{\"port\":80,\"path\":\"//evil.example\"}", 400, "path");
	refused(f, "POST", path, "{\"port\":80,\"ttl_sec\":86401}", 400, "ttl_sec");
	refused(f, "POST", "/v1/sandboxes/inone/links", "{\"port\":80}", 404, "inone");
}

int main(void)
{
	signal(SIGPIPE, SIG_IGN);
	log_setup("test", LOG_LEVEL_ERROR);
#define T(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		T(test_kept_over_a_restart),
		T(test_children_are_as_their_source),
		T(test_cookies),
		cmocka_unit_test(test_links),
		T(test_calls_of_links),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
