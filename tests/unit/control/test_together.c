// SPDX-License-Identifier: Apache-2.0
// Calls on one sandbox at once: a deletion waits for nothing and has the last word; of changes and
// time-outs the last one counts.
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <string.h>
#include "base/clock.h"
#include "base/log.h"
#include "control/engine/catchup.h"
#include "control/api/context.h"
#include "fixture.h"
#include "base/json.h"

// A call on a connection and a thread of its own.
struct aside {
	struct fixture *f;
	pthread_t thread;
	const char *method, *path, *body;
	atomic_int status; // 0: not answered
	json_t *answer;
};

static void *run_aside(void *arg)
{
	struct aside *a = arg;
	_cleanup_(http_client_freep) struct http_client *client = NULL;
	const char *const headers[] = {a->f->key, NULL};
	const struct http_client_config cc = {.unix_path = control_socket(a->f->control),
		.base_url = "http://localhost",
		.headers = headers};
	struct http_response r = {0};
	const struct http_call c = {.method = a->method,
		.path = a->path,
		.body = a->body,
		.body_len = a->body ? strlen(a->body) : 0,
		.timeout_ms = 60000};
	struct err e = {0};
	if (http_client_new(&cc, &client, &e) < 0 || http_client_call(client, &c, &r, &e) < 0)
		return NULL; // status stays 0
	a->status = r.status;
	a->answer = http_response_json(&r);
	http_response_done(&r);
	return NULL;
}

static void begin(struct aside *a)
{
	assert_int_equal(pthread_create(&a->thread, NULL, run_aside, a), 0);
}

static void end(struct aside *a, int status)
{
	pthread_join(a->thread, NULL);
	if (a->status != status)
		fail_msg("%s %s: status %d, not %d", a->method, a->path, a->status, status);
	json_decref(a->answer);
}

// The host is held at one of its calls.
struct gate {
	const char *call;
	sem_t reached, open;
};

static struct gate gate;

static void hold(void *ctx, const char *call)
{
	struct gate *g = ctx;
	if (strcmp(call, g->call) != 0)
		return;
	sem_post(&g->reached);
	while (sem_wait(&g->open) < 0)
		;
}

static void close_gate(struct fixture *f, const char *call)
{
	gate = (struct gate){.call = call};
	sem_init(&gate.reached, 0, 0);
	sem_init(&gate.open, 0, 0);
	f->model.ctx = &gate;
	f->model.before = hold;
}

static void open_gate(void)
{
	sem_post(&gate.open);
}

// A test that has failed leaves the host held, and the server waits for it.
static int teardown(void **state)
{
	struct fixture *f = *state;
	f->model.before = NULL;
	if (gate.call)
		open_gate();
	return fixture_teardown(state);
}

static void is_deleted(struct fixture *f, const char *id)
{
	char path[200];
	_cleanup_json_ json_t *j = call(f, "GET", path_of(id, "", path), NULL, 200);
	assert_string_equal(text(j, "state"), "stopped");
	assert_string_equal(text(j, "cause"), "killed");
	refused(f, "POST", path_of(id, "/exec", path), "{\"cmd\":\"true\"}", 404, "has ended");
	for (size_t i = 0; i < f->model.n; i++)
		if (strcmp(f->model.box[i].id, id) == 0)
			assert_int_equal(f->model.box[i].state, SANDBOX_STOPPED);
}

static void test_delete_during_create(void **state)
{
	struct fixture *f = *state;
	char id[64], path[200];
	struct aside a = {.f = f, .method = "POST", .path = "/v1/sandboxes"};
	close_gate(f, "create");
	begin(&a);
	sem_wait(&gate.reached);
	_cleanup_json_ json_t *list = call(f, "GET", "/v1/sandboxes?state=pending", NULL, 200);
	json_t *box = json_array_get(json_object_get(list, "sandboxes"), 0);
	snprintf(id, sizeof id, "%s", text(box, "id"));
	call_drop(f, "DELETE", path_of(id, "", path), NULL, 204);
	is_deleted(f, id);
	// The host makes it nevertheless, late: it goes again, and the create is told so.
	open_gate();
	end(&a, 409);
	is_deleted(f, id);
	assert_int_equal(f->model.n, 1);
	// And after a restart too.
	f->model.before = NULL;
	fixture_stop(f);
	fixture_start(f);
	is_deleted(f, id);
}

static void during(struct fixture *f, const char *what, const char *rest, bool paused)
{
	char id[64], path[200], call_path[200];
	create_box(f, NULL, id);
	path_of(id, rest, call_path);
	if (paused)
		call_drop(f, "POST", path_of(id, "/pause", path), NULL, 200);
	struct aside a = {.f = f, .method = "POST", .path = call_path};
	close_gate(f, what);
	begin(&a);
	sem_wait(&gate.reached);
	call_drop(f, "DELETE", path_of(id, "", path), NULL, 204);
	is_deleted(f, id);
	open_gate();
	end(&a, 409);
	is_deleted(f, id);
	f->model.before = NULL;
}

static void test_delete_during_pause_and_resume(void **state)
{
	during(*state, "pause", "/pause", false);
	during(*state, "resume", "/resume", true);
}

// A pause whose answer was lost is asked again by whoever comes, but not by a deletion.
static void test_delete_waits_for_no_orphan(void **state)
{
	struct fixture *f = *state;
	char id[64], path[200];
	if (f->host_server)
		skip(); // the model's own error is not a lost connection's there
	create_box(f, NULL, id);
	f->model.lose_reply = true;
	refused(f, "POST", path_of(id, "/pause", path), NULL, 503, "does not answer");
	f->model.lose_reply = false;
	close_gate(f, "pause");
	struct aside a = {.f = f, .method = "DELETE", .path = path_of(id, "", path)};
	begin(&a);
	// Answered, or the host is asked for the pause again.
	bool asked = false;
	for (int i = 0; i < 20000 && !a.status && !asked; i++) {
		asked = sem_trywait(&gate.reached) == 0;
		clock_sleep_ns(NSEC_PER_MSEC);
	}
	open_gate();
	end(&a, 204);
	assert_false(asked);
	is_deleted(f, id);
	f->model.before = NULL;
	look_and_apply(f);
	is_deleted(f, id);
	_cleanup_json_ json_t *ops = call(f, "GET", "/v1/operations", NULL, 200);
	json_t *op;
	size_t i;
	json_array_foreach (json_object_get(ops, "operations"), i, op)
		assert_string_not_equal(text(op, "state"), "open");
}

// A client whose time-out is prolonged by several workers, while its pause is not known to be done.
static void test_time_outs_wait_for_no_orphan(void **state)
{
	struct fixture *f = *state;
	char id[64], path[200];
	if (f->host_server)
		skip();
	create_box(f, NULL, id);
	f->model.fail_resume = ERR_NONE;
	f->model.lose_reply = true;
	refused(f, "PATCH", path_of(id, "", path), "{\"on_timeout\":\"pause\"}", 503,
		"does not answer");
	struct aside a[8];
	path_of(id, "/timeout", path);
	for (size_t i = 0; i < ARRAY_SIZE(a); i++) {
		a[i] = (struct aside){
			.f = f, .method = "POST", .path = path, .body = "{\"timeout_sec\":99}"};
		begin(&a[i]);
	}
	for (size_t i = 0; i < ARRAY_SIZE(a); i++)
		end(&a[i], 200);
	f->model.lose_reply = false;
}

static void dawdle(void *ctx, const char *call)
{
	clock_sleep_ns(20 * NSEC_PER_MSEC);
}

static void test_changes_at_once_all_succeed(void **state)
{
	struct fixture *f = *state;
	char id[64], path[200], bodies[8][100];
	struct aside a[8];
	create_box(f, NULL, id);
	path_of(id, "", path);
	f->model.before = dawdle;
	for (size_t i = 0; i < ARRAY_SIZE(a); i++) {
		snprintf(bodies[i], sizeof bodies[i],
			"{\"on_timeout\":\"%s\",\"metadata\":{\"k%zu\":\"1\"}}",
			i % 2 ? "pause" : "kill", i);
		a[i] = (struct aside){.f = f, .method = "PATCH", .path = path, .body = bodies[i]};
		begin(&a[i]);
	}
	for (size_t i = 0; i < ARRAY_SIZE(a); i++)
		end(&a[i], 200);
	f->model.before = NULL;
	// None is lost, and both sides agree on the last one.
	_cleanup_json_ json_t *j = call(f, "GET", path, NULL, 200);
	assert_int_equal(json_object_size(json_object_get(j, "metadata")), 8);
	assert_string_equal(text(j, "on_timeout"),
		f->model.box[0].on_timeout == ON_TIMEOUT_PAUSE ? "pause" : "kill");
}

static void *expire(void *arg)
{
	struct fixture *f = arg;
	struct err e = {0};
	rows_expire(f->control->rows, clock_realtime_ns() + 1, &e);
	return NULL;
}

// While the disk is slow with what is forgotten, sandboxes can be read.
static void test_forgetting_keeps_nobody_waiting(void **state)
{
	struct fixture *f = *state;
	char id[64], gone[64], path[200];
	pthread_t thread;
	create_box(f, NULL, gone);
	create_box(f, NULL, id);
	call_drop(f, "DELETE", path_of(gone, "", path), NULL, 204);
	struct aside a = {.f = f, .method = "GET", .path = path_of(id, "", path)};
	// Else what the host has told may be written meanwhile, and that is waited for.
	assert_int_equal(engine_catch_up(&f->control->engine, NULL), 0);
	db_lock(f->control->db);
	assert_int_equal(pthread_create(&thread, NULL, expire, f), 0);
	clock_sleep_ns(100 * NSEC_PER_MSEC); // it comes to the database
	begin(&a);
	for (int i = 0; i < 10000 && !a.status; i++)
		clock_sleep_ns(NSEC_PER_MSEC);
	int status = a.status;
	db_unlock(f->control->db);
	pthread_join(thread, NULL);
	end(&a, 200);
	assert_int_equal(status, 200);
	refused(f, "GET", path_of(gone, "", path), NULL, 404, "no sandbox");
}

int main(int argc, char **argv)
{
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	signal(SIGPIPE, SIG_IGN);
	log_setup("test", LOG_LEVEL_ERROR);
#define T(name) cmocka_unit_test_setup_teardown(name, fixture_setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_delete_during_create),
		T(test_delete_during_pause_and_resume),
		T(test_delete_waits_for_no_orphan),
		T(test_time_outs_wait_for_no_orphan),
		T(test_changes_at_once_all_succeed),
		T(test_forgetting_keeps_nobody_waiting),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
