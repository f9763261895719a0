// SPDX-License-Identifier: Apache-2.0
// Lines of the log as text and as JSON, and the id of the request that a thread works for.
#include "../check.h"
#include <fcntl.h>
#include <jansson.h>
#include <pthread.h>
#include <string.h>
#include "base/json.h"
#include "base/log.h"
#include "base/request_id.h"
#include "base/str.h"
#include "base/workers.h"

static char line[16384];

// What stderr got since begin().
static int saved_fd, file_fd;

static void begin(enum log_format format)
{
	log_set_format(format);
	file_fd = open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	assert_true(file_fd >= 0);
	saved_fd = dup(STDERR_FILENO);
	assert_true(dup2(file_fd, STDERR_FILENO) >= 0);
}

static const char *end(void)
{
	assert_true(dup2(saved_fd, STDERR_FILENO) >= 0);
	close(saved_fd);
	ssize_t n = pread(file_fd, line, sizeof line - 1, 0);
	close(file_fd);
	assert_true(n >= 0);
	line[n] = '\0';
	log_set_format(LOG_FORMAT_TEXT);
	return line;
}

static json_t *end_json(void)
{
	const char *text = end();
	const char *newline = strchr(text, '\n');
	assert_non_null(newline);
	assert_string_equal(newline, "\n"); // one object, one line
	assert_true(str_is_utf8(text, strlen(text)));
	json_t *j = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
	assert_non_null(j);
	return j;
}

static void expect(json_t *j, const char *key, const char *value)
{
	const char *is = json_string_value(json_object_get(j, key));
	if (!is || strcmp(is, value) != 0)
		fail_msg("%s is '%s' and not '%s'", key, is ? is : "(none)", value);
}

static void fields_of_the_format_are_fields(void **state)
{
	begin(LOG_FORMAT_JSON);
	log_info("operation failed operation=%s kind=%s sandbox=%s: %s", "op", "create", "ione",
		"no room");
	_cleanup_json_ json_t *j = end_json();
	expect(j, "level", "info");
	expect(j, "message", "operation failed: no room");
	expect(j, "operation", "op");
	expect(j, "kind", "create");
	expect(j, "sandbox", "ione");
	assert_int_equal(json_object_size(j), 7);
}

static void numbers_are_numbers_and_quotes_are_left_out(void **state)
{
	begin(LOG_FORMAT_JSON);
	log_warn("free space was discarded bytes=%llu ms=%u%s was=\"%s\"", 1234ull, 7u, "",
		"1.0 (old)");
	_cleanup_json_ json_t *j = end_json();
	assert_int_equal(json_integer_value(json_object_get(j, "bytes")), 1234);
	expect(j, "ms", "7");
	expect(j, "was", "1.0 (old)");
	expect(j, "message", "free space was discarded");
}

static void words_of_a_stranger_make_no_field(void **state)
{
	static const char *const lies[] = {"x sandbox=iother level=error",
		"\", \"sandbox\":\"iother", "\n{\"sandbox\":\"iother\"}", "\x1b[31msandbox=iother",
		"\xff\xfe sandbox=iother", "request_id=forged %s %n", "\\\" sandbox=iother"};
	for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
		begin(LOG_FORMAT_JSON);
		log_warn("not told sandbox=%s error=%s", "ione", lies[i]);
		_cleanup_json_ json_t *j = end_json();
		expect(j, "sandbox", "ione");
		expect(j, "level", "warn");
		expect(j, "message", "not told");
		assert_null(json_object_get(j, "request_id"));
		assert_int_equal(json_object_size(j), 6);
	}
}

static void a_field_does_not_take_the_place_of_the_lines_own(void **state)
{
	begin(LOG_FORMAT_JSON);
	log_warn("layers merged level=%s time=%d request_id=%s", "7", 3, "forged");
	_cleanup_json_ json_t *j = end_json();
	expect(j, "level", "warn");
	expect(j, "level_", "7");
	expect(j, "request_id_", "forged");
	assert_true(json_is_integer(json_object_get(j, "time_")));
}

static void what_is_too_long_is_cut_and_still_json(void **state)
{
	char text[6000];
	memset(text, 'a', sizeof text);
	for (size_t i = 0; i + 2 < sizeof text; i += 3)
		memcpy(text + i, "\xe2\x82\xac", 3);
	text[sizeof text - 1] = '\0';
	begin(LOG_FORMAT_JSON);
	log_warn("long error=%s sandbox=%s", text, "ione");
	_cleanup_json_ json_t *j = end_json();
	assert_non_null(json_object_get(j, "error"));
	memset(text, '"', sizeof text - 1);
	begin(LOG_FORMAT_JSON);
	log_warn("long error=%s n=%d", text, 5);
	_cleanup_json_ json_t *second = end_json();
	assert_non_null(json_object_get(second, "error"));
}

static void text_stays_and_has_the_request_at_its_end(void **state)
{
	begin(LOG_FORMAT_TEXT);
	log_info("pause done sandbox=%s", "ione");
	assert_true(str_ends(end(), " info stasis: pause done sandbox=ione\n"));
	request_id_set("r-1");
	begin(LOG_FORMAT_TEXT);
	log_info("pause done sandbox=%s", "a\nb");
	assert_true(str_ends(end(), " info stasis: pause done sandbox=a b request_id=r-1\n"));
	begin(LOG_FORMAT_JSON);
	log_info("pause done sandbox=%s", "ione");
	_cleanup_json_ json_t *j = end_json();
	expect(j, "request_id", "r-1");
	request_id_set(NULL);
}

static void what_is_no_valid_id_is_none(void **state)
{
	char longest[REQUEST_ID_MAX + 2], made[REQUEST_ID_SIZE];
	memset(longest, 'a', sizeof longest);
	longest[REQUEST_ID_MAX + 1] = '\0';
	assert_false(request_id_is_valid(longest));
	longest[REQUEST_ID_MAX] = '\0';
	assert_true(request_id_is_valid(longest));
	static const char *const wrong[] = {
		"", "a b", "a\"b", "a\nb", "a,b", "\xc3\xa4", "a=\t", "{a}"};
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
		assert_false(request_id_is_valid(wrong[i]));
	assert_false(request_id_is_valid(NULL));
	assert_true(request_id_is_valid("Root=1-67891233-abcdef012345678912345678"));
	request_id_make(made);
	assert_true(request_id_is_valid(made));
	request_id_set("a b");
	assert_string_equal(request_id_current(), "");
}

static char seen[REQUEST_ID_SIZE];

static void *look(void *ctx)
{
	memcpy(seen, request_id_current(), sizeof seen);
	return NULL;
}

static void look_as_job(void *ctx)
{
	look(ctx);
	__atomic_store_n((bool *)ctx, true, __ATOMIC_RELEASE);
}

static void threads_and_jobs_work_for_the_same_request(void **state)
{
	pthread_t thread;
	struct workers *w;
	bool first = false, second = false;
	request_id_set("r-2");
	assert_int_equal(request_id_thread(&thread, look, NULL), 0);
	pthread_join(thread, NULL);
	assert_string_equal(seen, "r-2");
	assert_int_equal(workers_new(2, 1, &w), 0);
	assert_int_equal(workers_add(w, false, 0, look_as_job, &first), 0);
	request_id_set(NULL);
	while (!__atomic_load_n(&first, __ATOMIC_ACQUIRE))
		sched_yield();
	assert_string_equal(seen, "r-2");
	// The thread that did it works for nobody now.
	assert_int_equal(workers_add(w, false, 0, look_as_job, &second), 0);
	while (!__atomic_load_n(&second, __ATOMIC_ACQUIRE))
		sched_yield();
	assert_string_equal(seen, "");
	workers_stop(w, NULL);
	workers_free(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(fields_of_the_format_are_fields),
		cmocka_unit_test(numbers_are_numbers_and_quotes_are_left_out),
		cmocka_unit_test(words_of_a_stranger_make_no_field),
		cmocka_unit_test(a_field_does_not_take_the_place_of_the_lines_own),
		cmocka_unit_test(what_is_too_long_is_cut_and_still_json),
		cmocka_unit_test(text_stays_and_has_the_request_at_its_end),
		cmocka_unit_test(what_is_no_valid_id_is_none),
		cmocka_unit_test(threads_and_jobs_work_for_the_same_request),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
