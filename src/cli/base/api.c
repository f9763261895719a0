// SPDX-License-Identifier: Apache-2.0
#include "cli/base/api.h"
#include <fcntl.h>
#include <string.h>
#include "base/file.h"
#include "base/json.h"
#include "cli/base/local.h"
#include "cli/base/output.h"
#include "cli/base/value.h"

// The first line, without what is around it.
static int read_key_file(struct cli *c, struct err *e)
{
	const char *path = strcmp(c->api_key_file, "-") == 0 ? "/dev/stdin" : c->api_key_file;
	int rc = file_read_line(AT_FDCWD, path, &c->key);
	if (rc < 0)
		return err_errno(e, rc, "--api-key-file %s", c->api_key_file);
	c->key[strcspn(c->key, " \t\r")] = '\0';
	return *c->key ? 0 : err_set(e, ERR_INVALID, "--api-key-file: %s is empty", path);
}

static int find_key(struct cli *c, struct err *e)
{
	if (c->api_key && c->api_key_file)
		return err_set(e, ERR_INVALID, "give one of --api-key and --api-key-file");
	if (c->api_key_file)
		return read_key_file(c, e);
	const char *env = getenv("STASIS_API_KEY");
	const char *given = c->api_key ? c->api_key : env && *env ? env : NULL;
	if (given)
		return (c->key = strdup(given)) ? 0 : -ENOMEM;
	// A control plane that is a process of its own has its own data directory.
	_cleanup_free_ char *apart =
		str_printf("%s" CLI_CONTROL_SUFFIX "/admin.key", cli_data_dir(NULL));
	_cleanup_free_ char *path = str_printf("%s/admin.key", cli_data_dir(NULL));
	if (!apart || !path)
		return -ENOMEM;
	if (file_read_line(AT_FDCWD, apart, &c->key) == 0)
		return 0;
	int rc = file_read_line(AT_FDCWD, path, &c->key);
	// Without a key the call is still made: /health needs none, and whether a server runs at
	// all is the better answer.
	if (rc == -ENOENT || rc == -EACCES || rc == -ENOTDIR)
		return 0;
	return rc < 0 ? err_errno(e, rc, "read %s", path) : 0;
}

int api_open(struct cli *c, struct err *e)
{
	if (c->http)
		return 0;
	const char *env = getenv("STASIS_URL");
	c->base_url = strdup(c->url ? c->url : env && *env ? env : CLI_URL_DEFAULT);
	if (!c->base_url)
		return err_errno(e, ENOMEM, "start");
	for (size_t n = strlen(c->base_url); n && c->base_url[n - 1] == '/'; n--)
		c->base_url[n - 1] = '\0';
	if (!str_starts(c->base_url, "http://") && !str_starts(c->base_url, "https://"))
		return err_set(e, ERR_INVALID,
			"'%s' is not a server's URL: it starts with http:// or https://",
			c->base_url);
	int rc = find_key(c, e);
	if (rc < 0)
		return rc;
	if (c->key && c->key[strspn(c->key, "0123456789abcdefghijklmnopqrstuvwxyz"
					    "ABCDEFGHIJKLMNOPQRSTUVWXYZ_-.")] != '\0')
		return err_set(e, ERR_UNAUTHENTICATED, "the API key has letters that no key has");
	_cleanup_free_ char *header = str_printf("X-API-Key: %s", c->key ? c->key : "");
	if (!header)
		return err_errno(e, ENOMEM, "start");
	const char *headers[] = {c->key ? header : NULL, NULL};
	if (!(c->alive = calloc(1, sizeof *c->alive)))
		return err_errno(e, ENOMEM, "start");
	rc = alive_init(c->alive, c, NULL, e);
	return rc < 0 ? rc
		      : http_client_new(&(struct http_client_config){.base_url = c->base_url,
						.headers = headers,
						.ca_file = cli_ca_file()},
				&c->http, e);
}

void api_close(struct cli *c)
{
	c->http = http_client_free(c->http);
	if (c->alive)
		alive_done(c->alive);
	free(TAKE_PTR(c->alive));
	free(c->base_url);
	free(c->key);
	c->base_url = c->key = NULL;
	json_decref(c->refusal);
	c->refusal = NULL;
}

// What a failed connection means to a person.
static int no_connection(struct cli *c, int rc, struct err *e)
{
	if (rc != -ECONNREFUSED)
		return rc;
	rc = err_set(e, ERR_UNAVAILABLE, "no server answers on %s: %s", c->base_url,
		strcmp(c->base_url, CLI_URL_DEFAULT) == 0 ? "start one with: stasis serve"
							  : "is STASIS_URL or --url right?");
	if (e)
		e->errnum = ECONNREFUSED; // nothing was sent
	return rc;
}

static int server_error(struct cli *c, const struct http_response *r, struct err *e)
{
	snprintf(c->request_id, sizeof c->request_id, "%s",
		request_id_is_valid(r->request_id) ? r->request_id : "");
	json_decref(c->refusal);
	c->refusal = http_response_json(r);
	json_t *error = json_object_get(c->refusal, "error");
	const char *code = json_string_value(json_object_get(error, "code"));
	const char *message = json_string_value(json_object_get(error, "message"));
	if (code && message) {
		if (r->status == 401 && !c->key)
			return err_set(e, ERR_UNAUTHENTICATED,
				"no API key: set STASIS_API_KEY, or be allowed to read "
				"%s/admin.key",
				cli_data_dir(NULL));
		int rc = err_set(e, err_code_from_name(code), "%s", message);
		e->reason =
			err_reason_from_name(json_string_value(json_object_get(error, "reason")));
		const char *cause = json_string_value(json_object_get(error, "cause"));
		if (cause)
			snprintf(e->cause, sizeof e->cause, "%s", cause);
		return rc;
	}
	return err_set(e, r->status >= 500 ? ERR_BAD_GATEWAY : ERR_INVALID,
		"%s answered %d without an error of Stasis: is that a Stasis server?", c->base_url,
		r->status);
}

int api_call_with(struct cli *c, const struct http_call *call, json_t **ret, struct err *e)
{
	_cleanup_(http_response_done) struct http_response r = {0};
	int rc = api_open(c, e);
	if (rc < 0)
		return rc;
	struct http_call with = *call;
	with.alive = alive_of(c->alive);
	with.alive_ctx = c->alive;
	with.silence_ms = c->alive->silence_ms;
	rc = http_client_call(c->http, &with, &r, e);
	if (rc < 0)
		return no_connection(c, rc, e);
	if (r.status < 200 || r.status > 299)
		return server_error(c, &r, e);
	json_t *j = http_response_json(&r);
	if (!j && r.body.len)
		return err_set(e, ERR_BAD_GATEWAY, "%s %s: the answer is not JSON", call->method,
			call->path);
	if (ret)
		*ret = j;
	else
		json_decref(j);
	return 0;
}

int api_call(struct cli *c, const char *method, const char *path, json_t *body, json_t **ret,
	struct err *e)
{
	_cleanup_free_ char *text = body ? json_compact(body) : NULL;
	if (body && !text)
		return err_errno(e, ENOMEM, "%s %s", method, path);
	return api_call_with(c,
		&(struct http_call){
			.method = method,
			.path = path,
			.body = text,
			.body_len = text ? strlen(text) : 0,
		},
		ret, e);
}

int api_call_slow(struct cli *c, const char *method, const char *path, json_t *body,
	const char *what, json_t **ret, struct err *e)
{
	_cleanup_free_ char *text = body ? json_compact(body) : NULL;
	if (body && !text)
		return err_errno(e, ENOMEM, "%s %s", method, path);
	struct progress p;
	progress_start(&p, what);
	int rc = api_call_with(c,
		&(struct http_call){
			.method = method,
			.path = path,
			.body = text,
			.body_len = text ? strlen(text) : 0,
			.tick = p.on ? progress_tick : NULL,
			.ctx = &p,
		},
		ret, e);
	progress_clear(&p);
	return rc;
}

int api_sandbox_path(const char *id, const char *suffix, char **ret, struct err *e)
{
	_cleanup_strbuf_ struct strbuf path = {0};
	// These would lead to other calls. All else that is wrong with it the server says.
	if (!*id || strchr(id, '/') || strcmp(id, ".") == 0 || strcmp(id, "..") == 0)
		return err_set(e, ERR_INVALID,
			"'%s' is no sandbox's id or name: 'stasis ls' shows them", id);
	strbuf_adds(&path, "/v1/sandboxes/");
	str_percent_encode(&path, id);
	strbuf_adds(&path, suffix);
	*ret = strbuf_steal(&path);
	return *ret ? 0 : err_errno(e, ENOMEM, "%s", id);
}

static int guest_init(struct cli *c, struct guest *g, struct err *e)
{
	if (!g->id || !g->token)
		return err_errno(e, ENOMEM, "connect");
	if (!(g->alive = calloc(1, sizeof *g->alive)))
		return err_errno(e, ENOMEM, "connect");
	int rc = alive_init(g->alive, c, g->id, e);
	if (rc < 0)
		return rc;
	g->target = (struct envd_target){
		.alive = alive_of(g->alive),
		.alive_ctx = g->alive,
		.silence_ms = g->alive->silence_ms,
		.base_url = c->base_url,
		.token = g->token,
		.sandbox_id = g->id,
		.user = g->user,
	};
	return http_client_new(
		&(struct http_client_config){.base_url = c->base_url, .ca_file = cli_ca_file()},
		&g->http, e);
}

int guest_open(struct cli *c, const char *id, const char *user, struct guest *ret, struct err *e)
{
	_cleanup_json_ json_t *j = NULL;
	_cleanup_free_ char *path = NULL;
	_cleanup_guest_ struct guest g = {0};
	int rc = api_sandbox_path(id, "", &path, e);
	if (rc == 0)
		rc = api_call(c, "GET", path, NULL, &j, e);
	if (rc < 0)
		return rc;
	// The edge knows ids alone.
	const char *real = json_string_value(json_object_get(j, "id"));
	const char *token = json_string_value(json_object_get(j, "envd_token"));
	const char *state = json_string_value(json_object_get(j, "state"));
	if (str_eq(state, "stopped") || str_eq(state, "error")) {
		const char *cause = json_string_value(json_object_get(j, "cause"));
		rc = err_set(
			e, ERR_NOT_FOUND, "sandbox %s has ended: %s", id, cause ? cause : state);
		if (e)
			snprintf(e->cause, sizeof e->cause, "%s", cause ? cause : state);
		return rc;
	}
	if (!str_eq(state, "running"))
		return err_set(e, ERR_CONFLICT, "sandbox %s is not running: it is %s%s", id,
			state ? state : "unknown",
			str_eq(state, "paused") ? ": resume it first" : "");
	if (!token || !real)
		return err_set(
			e, ERR_BAD_GATEWAY, "the server gave no id or envd_token for %s", id);
	g.id = strdup(real);
	g.token = strdup(token);
	g.user = user ? strdup(user) : NULL;
	const char *since = json_string_value(json_object_get(j, "started_at"));
	snprintf(g.since, sizeof g.since, "%s", since ? since : "");
	g.memory_mb = (uint64_t)json_integer_value(json_object_get(j, "memory_mb"));
	rc = guest_init(c, &g, e);
	if (rc < 0)
		return rc;
	*ret = g;
	g = (struct guest){0};
	return 0;
}

int guest_dup(struct cli *c, const struct guest *g, struct guest *ret, struct err *e)
{
	_cleanup_guest_ struct guest d = {.id = strdup(g->id),
		.token = strdup(g->token),
		.user = g->user ? strdup(g->user) : NULL};
	int rc = guest_init(c, &d, e);
	if (rc < 0)
		return rc;
	*ret = d;
	d = (struct guest){0};
	return 0;
}

static enum err_code code_of_status(int status)
{
	for (int i = 1; i < ERR_CODE_MAX; i++)
		if (err_info((enum err_code)i)->http_status == status)
			return (enum err_code)i;
	return status >= 500 ? ERR_BAD_GATEWAY : ERR_INVALID;
}

int guest_call(struct guest *g, const struct http_call *call, json_t **ret, struct err *e)
{
	_cleanup_(http_response_done) struct http_response r = {0};
	_cleanup_free_ char *id = str_printf("E2b-Sandbox-Id: %s", g->id);
	_cleanup_free_ char *token = str_printf("X-Access-Token: %s", g->token);
	if (!id || !token)
		return err_errno(e, ENOMEM, "%s", call->path);
	struct http_call with = *call;
	with.headers = (const char *const[]){id, token, NULL};
	with.alive = g->target.alive;
	with.alive_ctx = g->target.alive_ctx;
	with.silence_ms = g->target.silence_ms;
	int rc = http_client_call(g->http, &with, &r, e);
	if (rc < 0)
		return rc;
	_cleanup_json_ json_t *j = http_response_json(&r);
	if (r.status < 200 || r.status > 299) {
		const char *message = json_string_value(json_object_get(j, "message"));
		return err_set(e, code_of_status(r.status), "%s: %s", g->id,
			message ? message : "the sandbox's agent refused without a reason");
	}
	if (ret)
		*ret = TAKE_PTR(j);
	return 0;
}

void guest_done(struct guest *g)
{
	http_client_free(g->http);
	if (g->alive)
		alive_done(g->alive);
	free(g->alive);
	free(g->id);
	free(g->token);
	free(g->user);
	*g = (struct guest){0};
}
