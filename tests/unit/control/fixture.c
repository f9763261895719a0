// SPDX-License-Identifier: Apache-2.0
#include "fixture.h"
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include "base/file.h"
#include "control/api/context.h"
#include "control/engine/catchup.h"
#include "control/engine/upkeep.h"
#include "base/json.h"

void fixture_start(struct fixture *f)
{
	struct err e = {0};
	f->host = model_host(&f->model);
	if (str_eq(getenv("STASIS_TEST_CONTRACT"), "socket")) {
		_cleanup_free_ char *socket = str_printf("%s/host.sock", f->dir);
		const struct hostagent_server_config server = {.host = f->host, .socket = socket};
		const struct hostagent_client_config client = {.socket = socket};
		if (hostagent_serve(&server, &f->host_server, &e) < 0 ||
			hostagent_connect(&client, &f->host, &e) < 0)
			fail_msg("%s", e.text);
	}
	const struct control_config cfg = {
		.data_dir = f->data, .run_dir = f->run, .no_edge = true, .host = f->host};
	if (control_start(&cfg, &f->control, &e) < 0)
		fail_msg("%s", e.text);
	_cleanup_free_ char *path = str_printf("%s/admin.key", f->data);
	_cleanup_free_ char *key = NULL;
	assert_int_equal(file_read_line(AT_FDCWD, path, &key), 0);
	snprintf(f->key, sizeof f->key, "X-API-Key: %s", key);
	const char *const headers[] = {f->key, NULL};
	const struct http_client_config cc = {.unix_path = control_socket(f->control),
		.base_url = "http://localhost",
		.headers = headers};
	assert_int_equal(http_client_new(&cc, &f->client, &e), 0);
}

void fixture_stop(struct fixture *f)
{
	f->client = http_client_free(f->client);
	f->control = control_stop(f->control);
	if (f->host_server)
		hostagent_disconnect(&f->host);
	f->host_server = hostagent_server_free(f->host_server);
}

int fixture_setup(void **state)
{
	struct fixture *f = calloc(1, sizeof *f);
	// In memory where there is room: nothing has to survive the machine.
	snprintf(f->dir, sizeof f->dir, "%s/control.XXXXXX",
		access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->data, sizeof f->data, "%s/data", f->dir);
	snprintf(f->run, sizeof f->run, "%s/run", f->dir);
	assert_int_equal(mkdir(f->data, 0700), 0);
	model_init(&f->model);
	fixture_start(f);
	*state = f;
	return 0;
}

int fixture_teardown(void **state)
{
	struct fixture *f = *state;
	fixture_stop(f);
	model_done(&f->model);
	file_rm_rf(AT_FDCWD, f->dir);
	free(f);
	return 0;
}

// The answer's body; status compared. Owned by the caller.
json_t *call(struct fixture *f, const char *method, const char *path, const char *body, int want)
{
	struct err e = {0};
	struct http_response r = {0};
	const struct http_call c = {.method = method,
		.path = path,
		.body = body,
		.body_len = body ? strlen(body) : 0,
		.timeout_ms = 20000};
	if (http_client_call(f->client, &c, &r, &e) < 0)
		fail_msg("%s %s: %s", method, path, e.text);
	if (r.status != want)
		fail_msg("%s %s %s: status %d, not %d: %s", method, path, body ? body : "",
			r.status, want, r.body.data ? r.body.data : "");
	json_t *j = http_response_json(&r);
	if (!j)
		j = json_stringn(r.body.data ? r.body.data : "", r.body.len);
	http_response_done(&r);
	return j;
}

void call_drop(struct fixture *f, const char *method, const char *path, const char *body, int want)
{
	json_decref(call(f, method, path, body, want));
}

const char *text(json_t *j, const char *key)
{
	const char *s = json_string_value(json_object_get(j, key));
	return s ? s : "(none)";
}

void refused(struct fixture *f, const char *method, const char *path, const char *body, int want,
	const char *part)
{
	_cleanup_json_ json_t *j = call(f, method, path, body, want);
	const char *message = text(json_object_get(j, "error"), "message");
	if (!strstr(message, part))
		fail_msg("no '%s' in '%s'", part, message);
}

void look_and_apply(struct fixture *f)
{
	_cleanup_(look_freep) struct look *l = NULL;
	struct err e = {0};
	if (engine_look(&f->control->engine, false, &l, &e) < 0)
		fail_msg("%s", e.text);
	engine_apply(&f->control->engine, l);
}

void create_box(struct fixture *f, const char *body, char id[64])
{
	_cleanup_json_ json_t *j = call(f, "POST", "/v1/sandboxes", body, 201);
	snprintf(id, 64, "%s", text(j, "id"));
}

char *path_of(const char *id, const char *rest, char out[200])
{
	snprintf(out, 200, "/v1/sandboxes/%s%s", id, rest);
	return out;
}
