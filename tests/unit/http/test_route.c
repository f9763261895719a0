// SPDX-License-Identifier: Apache-2.0
#include <string.h>
#include "../check.h"
#include "http/route.h"

static const struct http_route routes[] = {
	{.method = "GET", .pattern = "/v1/things"},
	{.method = "POST", .pattern = "/v1/things"},
	{.method = "GET", .pattern = "/v1/things/{id}"},
	{.method = "*", .pattern = "/v1/things/{id}/files/{path...}"},
	{.method = "PUT", .pattern = "/{a}/{b}/{c}/{d}/{e}/{f}/{g}/{h}"},
};

static int find(const char *method, const char *path, struct route_match *m, struct strbuf *allow)
{
	*m = (struct route_match){0};
	return route_find(routes, ARRAY_SIZE(routes), method, path, m, allow);
}

static void paths_find_their_routes(void **state)
{
	static const struct {
		const char *method, *path;
		int status; // 0: route
		size_t route;
		const char *name, *value;
	} t[] = {
		{"GET", "/v1/things", 0, 0},
		{"HEAD", "/v1/things", 0, 0},
		{"POST", "/v1/things", 0, 1},
		{"DELETE", "/v1/things", 405},
		{"GET", "/v1/things/", 404},
		{"GET", "/v1", 404},
		{"GET", "v1/things", 400},
		{"GET", "*", 400},
		{"GET", "/v1/%74hings", 0, 0},
		{"GET", "/v1/things/a%2fb", 0, 2, "id", "a/b"},
		{"GET", "/v1/things/a+b", 0, 2, "id", "a+b"},
		{"GET", "/v1/things/%00", 400},
		{"GET", "/v1/things/%zz", 400},
		{"PATCH", "/v1/things/x/files/a/b%20c", 0, 3, "path", "a/b c"},
		{"GET", "/v1/things/x/files/", 0, 3, "path", ""},
		{"GET", "/v1/things/x/files", 0, 3, "path", ""},
		{"GET", "/v1/things/x/files/%00", 400},
		{"PUT", "/1/2/3/4/5/6/7/8", 0, 4, "h", "8"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		_cleanup_(route_match_done) struct route_match m;
		_cleanup_strbuf_ struct strbuf allow = {0};
		assert_int_equal(find(t[i].method, t[i].path, &m, &allow), t[i].status);
		if (t[i].status == 0)
			assert_ptr_equal(m.route, &routes[t[i].route]);
		if (t[i].name)
			assert_string_equal(route_pair_find(m.param, m.n, t[i].name), t[i].value);
	}
}

static void a_refused_method_names_the_others(void **state)
{
	_cleanup_(route_match_done) struct route_match m;
	_cleanup_strbuf_ struct strbuf allow = {0};
	assert_int_equal(find("PUT", "/v1/things", &m, &allow), 405);
	assert_string_equal(allow.data, "GET, POST");
}

static void a_path_has_at_most_32_segments(void **state)
{
	char path[200] = "";
	for (int i = 0; i < 33; i++)
		memcpy(path + 2 * i, "/x", 3);
	_cleanup_(route_match_done) struct route_match m;
	_cleanup_strbuf_ struct strbuf allow = {0};
	assert_int_equal(find("GET", path, &m, &allow), 404);
}

static void queries_are_read(void **state)
{
	struct route_query q;
	char text[] = "a=1&b=x+y%3d&&c&=v&a=2";
	assert_true(route_parse_query(text, &q));
	assert_int_equal(q.n, 5);
	assert_string_equal(route_pair_find(q.arg, q.n, "a"), "1");
	assert_string_equal(route_pair_find(q.arg, q.n, "b"), "x y=");
	assert_string_equal(route_pair_find(q.arg, q.n, "c"), "");
	assert_string_equal(route_pair_find(q.arg, q.n, ""), "v");
	assert_null(route_pair_find(q.arg, q.n, "d"));
	assert_true(route_parse_query(NULL, &q));
	assert_int_equal(q.n, 0);
	static const char *const bad[] = {"a=%00", "%00=a", "a=%g1", "a=%4"};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		char copy[16];
		snprintf(copy, sizeof copy, "%s", bad[i]);
		assert_false(route_parse_query(copy, &q));
	}
	char many[2 * (ROUTE_MAX_QUERY + 1) + 1] = "";
	for (int i = 0; i <= ROUTE_MAX_QUERY; i++)
		memcpy(many + 2 * i, "a&", 3);
	assert_false(route_parse_query(many, &q));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(paths_find_their_routes),
		cmocka_unit_test(a_refused_method_names_the_others),
		cmocka_unit_test(a_path_has_at_most_32_segments),
		cmocka_unit_test(queries_are_read),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
