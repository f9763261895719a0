// SPDX-License-Identifier: Apache-2.0
// The table of routes, authentication, and the small calls.
#include <fcntl.h>
#include <string.h>
#include "base/clock.h"
#include "base/file.h"
#include "control/internal.h"
#include "http/json.h"

json_t *control_json_time(uint64_t realtime_ns)
{
	if (!realtime_ns)
		return json_null();
	char text[32];
	clock_format_rfc3339(realtime_ns, text);
	return json_string(text);
}

json_t *control_json_or_null(const char *text)
{
	if (!text[0])
		return json_null();
	json_t *j = json_string(text);
	return j ? j : json_string("(not UTF-8)");
}

json_t *control_json_phases(const struct host_sandbox *s)
{
	json_t *phases = json_array();
	for (unsigned i = 0; i < s->n_phases && i < HOST_MAX_PHASES; i++)
		json_array_append_new(phases, json_pack("{s:s, s:I}", "name", s->phases[i].name,
						      "us", (json_int_t)s->phases[i].us));
	return phases;
}

const char *control_request_key(struct http_request *r)
{
	const char *key = http_req_header(r, "X-API-Key");
	if (key)
		return key;
	const char *auth = http_req_header(r, "Authorization");
	return auth && str_starts(auth, "Bearer ") ? auth + strlen("Bearer ") : NULL;
}

// --- before the handlers

// The i-th of names that are joined by blanks; false beyond the last.
static bool nth_name(const char *names, size_t i, char out[32])
{
	for (const char *p = names ? names : ""; *p; p += strcspn(p, " "), p += strspn(p, " "))
		if (i-- == 0) {
			snprintf(out, 32, "%.*s", (int)strcspn(p, " "), p);
			return true;
		}
	return false;
}

static int unknown_name(const struct http_route *route, const char *name, struct err *e)
{
	char known[32], near[32] = "";
	unsigned best = strlen(name) > 4 ? 3 : 2; // below this: like enough
	for (size_t i = 0; nth_name(route->query, i, known); i++) {
		unsigned d = str_distance(name, known);
		if (d < best) {
			best = d;
			memcpy(near, known, sizeof near);
		}
	}
	if (near[0])
		return err_set(e, ERR_INVALID, "query: unknown name '%.100s' (did you mean '%s'?)",
			name, near);
	if (!route->query)
		return err_set(e, ERR_INVALID,
			"query: unknown name '%.100s': this call takes no query", name);
	return err_set(e, ERR_INVALID, "query: unknown name '%.100s': this call knows %s", name,
		route->query);
}

// Refused as unknown fields of a body are: a filter that is not understood must not be passed over.
static int check_query(struct http_request *r, const struct http_route *route, struct err *e)
{
	const char *name;
	char known[32];
	for (unsigned i = 0; (name = http_req_query_name(r, i)); i++) {
		bool fits = false;
		for (size_t k = 0; !fits && nth_name(route->query, k, known); k++)
			fits = str_eq(name, known);
		if (!fits)
			return unknown_name(route, name, e);
		for (unsigned k = 0; k < i; k++)
			if (str_eq(http_req_query_name(r, k), name))
				return err_set(e, ERR_INVALID, "query: '%s' is given twice", name);
	}
	return 0;
}

bool control_before(struct http_request *r, const struct http_route *route, void *ctx)
{
	struct control *c = ctx;
	struct err e = {0};
	if (route->flags & ROUTE_EDGE) {
		const char *key = http_req_header(r, "X-Stasis-Edge");
		if (key && str_eq_secret(key, c->edge_key))
			return false;
		err_set(&e, ERR_NOT_FOUND, "no such path: %s %.200s", http_req_method(r),
			http_req_path(r));
	} else {
		const char *key = control_request_key(r);
		if ((route->flags & ROUTE_PUBLIC) || (key && keys_check(c->keys, key))) {
			if (check_query(r, route, &e) == 0)
				return false;
			http_reply_error(r, &e);
			return true;
		}
		err_set(&e, ERR_UNAUTHENTICATED, "%s",
			key ? "unknown API key"
			    : "no API key: send it as X-API-Key or as a bearer token");
	}
	http_reply_error(r, &e);
	return true;
}

void control_done(struct http_request *r, int status, uint64_t duration_ns, void *ctx)
{
	struct control *c = ctx;
	stats_count(c->stats, http_req_route(r), status, duration_ns);
}

static void get_health(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	struct host_info info = {0};
	struct err e = {0};
	const char *reason = NULL;
	if (c->host.ops->info(c->host.host, &info, &e) < 0)
		reason = e.text;
	else if (!info.volume_ok)
		reason = info.volume_reason[0] ? info.volume_reason : "the data volume is absent";
	json_t *j = json_pack(
		"{s:s, s:s}", "status", reason ? "degraded" : "ok", "version", STASIS_VERSION);
	if (reason)
		json_object_set_new(j, "reason", control_json_or_null(reason));
	http_reply_json(r, 200, j);
}

static void get_host(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	struct host_info i = {0};
	struct err e = {0};
	if (c->host.ops->info(c->host.host, &i, &e) < 0) {
		http_reply_error(r, &e);
		return;
	}
	http_reply_json(r, 200,
		json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:o}",
			"version", i.version, "vmm", i.vmm, "isolation", i.isolation, "cpus",
			(json_int_t)i.cpus, "memory_mb", (json_int_t)i.memory_mb, "running",
			(json_int_t)i.running, "max_sandboxes", (json_int_t)i.max_sandboxes,
			"slots_ready", (json_int_t)i.slots_ready, "slots_taken",
			(json_int_t)i.slots_taken, "disk_total_bytes", (json_int_t)i.disk_total,
			"disk_free_bytes", (json_int_t)i.disk_free, "volume_ok", i.volume_ok,
			"volume_reason", control_json_or_null(i.volume_reason)));
}

static void get_openapi(struct http_request *r, void *ctx)
{
	http_reply_data(
		r, 200, "application/json", control_openapi[0].data, control_openapi[0].len);
}

// --- metrics

static uint64_t resident_bytes(void)
{
	_cleanup_free_ char *line = NULL;
	if (file_read_line(AT_FDCWD, "/proc/self/statm", &line) < 0)
		return 0;
	const char *second = strchr(line, ' ');
	return second ? strtoull(second, NULL, 10) * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
}

static void get_metrics(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	_cleanup_strbuf_ struct strbuf out = {0};
	_cleanup_free_ struct host_sandbox *list = NULL;
	size_t n = 0, by_state[SANDBOX_STATE_MAX] = {0};
	struct err e = {0};
	stats_print(c->stats, &out);
	strbuf_adds(&out, "# HELP process_resident_memory_bytes Of the server.\n"
			  "# TYPE process_resident_memory_bytes gauge\n");
	strbuf_addf(
		&out, "process_resident_memory_bytes %llu\n", (unsigned long long)resident_bytes());
	int rc = c->host.ops->list(c->host.host, &list, &n, &e);
	for (size_t i = 0; rc == 0 && i < n; i++)
		by_state[list[i].state]++;
	if (rc == 0)
		strbuf_adds(&out, "# HELP stasis_sandboxes Sandboxes that have not stopped.\n"
				  "# TYPE stasis_sandboxes gauge\n");
	for (int s = 0; rc == 0 && s < SANDBOX_STATE_MAX; s++)
		if (s != SANDBOX_STOPPED)
			strbuf_addf(&out, "stasis_sandboxes{state=\"%s\"} %zu\n",
				sandbox_state_name((enum sandbox_state)s), by_state[s]);
	if (rc == 0)
		rc = c->host.ops->metrics(c->host.host, &out, &e);
	if (rc == 0 && strbuf_check(&out) < 0)
		rc = err_errno(&e, ENOMEM, "metrics");
	if (rc < 0)
		http_reply_error(r, &e);
	else
		http_reply_data(
			r, 200, "text/plain; version=0.0.4; charset=utf-8", out.data, out.len);
}

// --- keys

static json_t *key_json(const struct key_info *k)
{
	return json_pack("{s:s, s:s, s:s, s:o, s:o}", "id", k->id, "name", k->name, "prefix",
		k->prefix, "created_at", control_json_time(k->created_ns), "last_used_at",
		control_json_time(k->last_used_ns));
}

static void create_key(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	const char *name = NULL;
	const struct json_field fields[] = {
		{.name = "name", .type = JF_STRING, .out = &name, .max = 64, .required = true}};
	_cleanup_json_ json_t *body = NULL;
	struct key_info info;
	char key[API_KEY_SIZE];
	struct err e = {0};
	if (work_refuse_key(r, "a new key is told once and not kept, so not again either"))
		return;
	int rc = http_req_json(r, false, &body, &e);
	if (rc == 0)
		rc = json_read_fields(body, fields, ARRAY_SIZE(fields), false, &e);
	for (const char *p = name; rc == 0 && (p == name || *p); p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			rc = err_set(&e, ERR_INVALID,
				"name: must not be empty or hold control characters");
	if (rc == 0) {
		keys_generate(key);
		rc = keys_add(c->keys, name, key, &info, &e);
	}
	if (rc < 0) {
		http_reply_error(r, &e);
		return;
	}
	json_t *j = key_json(&info);
	json_object_set_new(j, "key", json_string(key));
	http_reply_json(r, 201, j);
	explicit_bzero(key, sizeof key);
}

static void list_keys(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	_cleanup_free_ struct key_info *list = NULL;
	size_t n = 0;
	struct err e = {0};
	if (keys_list(c->keys, &list, &n, &e) < 0) {
		http_reply_error(r, &e);
		return;
	}
	json_t *out = json_array();
	for (size_t i = 0; i < n; i++)
		json_array_append_new(out, key_json(&list[i]));
	http_reply_json(r, 200, json_pack("{s:o}", "keys", out));
}

static void delete_key(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	struct err e = {0};
	struct task t = {.op.kind = OPERATION_KEY_DELETE};
	if (http_req_header(r, "Idempotency-Key")) {
		t.op.request = json_pack("{s:s}", "key", http_req_param(r, "id"));
		if (!work_key(c, r, NULL, &t))
			work_run(c, r, &t);
		task_done(&c->engine, &t);
		return;
	}
	if (keys_remove(c->keys, http_req_param(r, "id"), &e) < 0)
		http_reply_error(r, &e);
	else
		http_reply_empty(r, 204);
}

const struct http_route control_routes[] = {
	// First, because these are what is asked for most.
	{.method = "GET", .pattern = "/_edge/auth", .handler = route_auth, .flags = ROUTE_EDGE},
	{.method = "GET", .pattern = "/v1/sandboxes/{id}", .handler = sandboxes_get},
	{.method = "POST", .pattern = "/v1/sandboxes/{id}/exec", .handler = exec_run},
	{.method = "GET",
		.pattern = "/v1/sandboxes",
		.handler = sandboxes_list,
		.query = "state template name metadata limit cursor"},
	{.method = "POST", .pattern = "/v1/sandboxes", .handler = sandboxes_create},
	{.method = "DELETE", .pattern = "/v1/sandboxes/{id}", .handler = sandboxes_delete},
	{.method = "PATCH", .pattern = "/v1/sandboxes/{id}", .handler = sandboxes_update},
	{.method = "GET",
		.pattern = "/v1/sandboxes/{id}/wait",
		.handler = sandboxes_wait,
		.query = "state timeout_sec"},
	{.method = "POST",
		.pattern = "/v1/sandboxes/{id}/timeout",
		.handler = sandboxes_set_timeout},
	{.method = "POST", .pattern = "/v1/sandboxes/{id}/pause", .handler = lifecycle_pause},
	{.method = "POST", .pattern = "/v1/sandboxes/{id}/resume", .handler = lifecycle_resume},
	{.method = "POST", .pattern = "/v1/sandboxes/{id}/fork", .handler = lifecycle_fork},
	{.method = "GET",
		.pattern = "/v1/sandboxes/{id}/logs",
		.handler = sandboxes_logs,
		.query = "tail"},
	{.method = "GET",
		.pattern = "/v1/operations",
		.handler = operations_list_get,
		.query = "sandbox limit cursor"},
	{.method = "GET", .pattern = "/v1/operations/{id}", .handler = operations_get_one},
	{.method = "POST", .pattern = "/v1/reconcile", .handler = work_reconcile},
	{.method = "GET",
		.pattern = "/v1/events",
		.handler = events_list,
		.query = "cursor since limit sandbox follow"},
	{.method = "GET", .pattern = "/v1/health", .handler = get_health, .flags = ROUTE_PUBLIC},
	{.method = "GET", .pattern = "/v1/metrics", .handler = get_metrics},
	{.method = "GET", .pattern = "/v1/host", .handler = get_host},
	{.method = "GET", .pattern = "/v1/templates", .handler = snapshots_list_templates},
	{.method = "POST", .pattern = "/v1/snapshots", .handler = snapshots_create},
	{.method = "GET", .pattern = "/v1/snapshots", .handler = snapshots_list},
	{.method = "GET", .pattern = "/v1/snapshots/{name}", .handler = snapshots_get},
	{.method = "DELETE", .pattern = "/v1/snapshots/{name}", .handler = snapshots_delete},
	{.method = "POST", .pattern = "/v1/keys", .handler = create_key},
	{.method = "GET", .pattern = "/v1/keys", .handler = list_keys},
	{.method = "DELETE", .pattern = "/v1/keys/{id}", .handler = delete_key},
	{.method = "GET", .pattern = "/v1/openapi.json", .handler = get_openapi},
	{.method = "*",
		.pattern = "/_edge/refuse/{reason}",
		.handler = route_refuse,
		.body = route_drop_body,
		.body_limit = SIZE_MAX,
		.flags = ROUTE_EDGE},
};
const size_t control_n_routes = ARRAY_SIZE(control_routes);
