// SPDX-License-Identifier: Apache-2.0
#include "fcqemu/api.h"
#include <string.h>
#include "base/clock.h"
#include "fcqemu/body.h"

#define ANY_STATE (API_NOT_STARTED | API_RUNNING | API_PAUSED)
#define STARTED (API_RUNNING | API_PAUSED)

struct call {
	struct api *api;
	const char *id; // last segment of the path where the route has one
	const char *body;
	size_t len;
	json_t *ret; // answer with 200; NULL: 204
	bool deprecated;
};

typedef int (*handler_fn)(struct call *c, struct err *e);

void api_init(struct api *a, const char *id, const struct machine_ops *ops, void *ctx)
{
	*a = (struct api){.id = id, .ops = ops, .ctx = ctx, .state = API_NOT_STARTED};
	config_init(&a->config);
	report_init(&a->report, id);
}

void api_done(struct api *a)
{
	report_flush_metrics(&a->report);
	report_done(&a->report);
	config_done(&a->config);
}

static int check_state(const struct api *a, unsigned legal, struct err *e)
{
	if (a->state & legal)
		return 0;
	return err_set(e, ERR_CONFLICT,
		"The requested operation is not supported %s starting the microVM.",
		a->state == API_NOT_STARTED ? "before" : "after");
}

// ---- handlers

static int get_instance(struct call *c, struct err *e)
{
	const struct api *a = c->api;
	c->ret = json_pack("{s:s, s:s, s:s, s:s}", "id", a->id, "state",
		a->state == API_NOT_STARTED ? "Not started"
		: a->state == API_RUNNING   ? "Running"
					    : "Paused",
		"vmm_version", CONFIG_VERSION, "app_name", "Firecracker");
	return 0;
}

static int get_version(struct call *c, struct err *e)
{
	c->ret = json_pack("{s:s}", "firecracker_version", CONFIG_VERSION);
	return 0;
}

static int get_config(struct call *c, struct err *e)
{
	c->ret = config_json(&c->api->config);
	return 0;
}

static int get_machine(struct call *c, struct err *e)
{
	c->ret = config_machine_json(&c->api->config);
	return 0;
}

static int put_machine(struct call *c, struct err *e)
{
	return config_put_machine(&c->api->config, c->body, c->len, e);
}

static int patch_machine(struct call *c, struct err *e)
{
	return config_patch_machine(&c->api->config, c->body, c->len, e);
}

static int put_boot(struct call *c, struct err *e)
{
	return config_put_boot(&c->api->config, c->body, c->len, e);
}

static int put_drive(struct call *c, struct err *e)
{
	return config_put_drive(&c->api->config, c->id, c->body, c->len, e);
}

static int patch_drive(struct call *c, struct err *e)
{
	struct api *a = c->api;
	_cleanup_free_ char *path = NULL;
	int rc = config_read_drive_patch(&a->config, c->id, c->body, c->len, &path, e);
	if (rc < 0)
		return rc;
	struct drive *d = config_find_drive(&a->config, c->id);
	if ((rc = a->ops->set_drive(a->ctx, (size_t)(d - a->config.drives), d, path, e)) < 0)
		return rc;
	free(d->path);
	d->path = TAKE_PTR(path);
	return 0;
}

static int put_nic(struct call *c, struct err *e)
{
	struct api *a = c->api;
	return config_put_nic(&a->config, a->ops->open_tap, c->id, c->body, c->len, e);
}

static int patch_nic(struct call *c, struct err *e)
{
	return config_read_nic_patch(&c->api->config, c->id, c->body, c->len, e);
}

static int put_entropy(struct call *c, struct err *e)
{
	return config_put_entropy(&c->api->config, c->body, c->len, e);
}

static int put_logger(struct call *c, struct err *e)
{
	return report_put_logger(&c->api->report, c->body, c->len, e);
}

static int put_metrics(struct call *c, struct err *e)
{
	return report_put_metrics(&c->api->report, c->body, c->len, e);
}

// Bodies of one required string. Owned by the caller.
static int read_word(const struct call *c, const char *field, char **ret, struct err *e)
{
	const struct body_field fields[] = {{.name = field, .type = BODY_STRING, .required = true}};
	return body_read(c->body, c->len, fields, 1, ret, NULL, e);
}

static int start(struct api *a, struct err *e)
{
	int rc = check_state(a, API_NOT_STARTED, e);
	if (rc < 0)
		return rc;
	if (!a->config.kernel)
		return err_set(
			e, ERR_INVALID, "Cannot start microvm without kernel configuration.");
	if ((rc = a->ops->start(a->ctx, &a->config, e)) < 0)
		return rc;
	a->state = API_RUNNING;
	return 0;
}

static int put_actions(struct call *c, struct err *e)
{
	_cleanup_free_ char *type = NULL;
	int rc = read_word(c, "action_type", &type, e);
	if (rc < 0)
		return rc;
	if (strcmp(type, "InstanceStart") == 0)
		return start(c->api, e);
	if (strcmp(type, "FlushMetrics") == 0) {
		if ((rc = check_state(c->api, STARTED, e)) == 0)
			report_flush_metrics(&c->api->report);
		return rc;
	}
	if (strcmp(type, "SendCtrlAltDel") == 0)
		return err_set(e, ERR_UNIMPLEMENTED,
			"fcqemu cannot honour SendCtrlAltDel: the machine has no keyboard "
			"controller. "
			"Ask the guest to power off, or end the process.");
	return err_set(e, ERR_INVALID,
		"unknown variant `%.40s`, expected one of `FlushMetrics`, `InstanceStart`, "
		"`SendCtrlAltDel`.",
		type);
}

static int patch_vm(struct call *c, struct err *e)
{
	struct api *a = c->api;
	_cleanup_free_ char *state = NULL;
	int rc = read_word(c, "state", &state, e);
	if (rc < 0)
		return rc;
	bool pause = strcmp(state, "Paused") == 0;
	if (!pause && strcmp(state, "Resumed") != 0)
		return err_set(e, ERR_INVALID,
			"unknown variant `%.40s`, expected `Paused` or `Resumed`.", state);
	uint64_t begin = clock_monotonic_ns();
	rc = pause ? a->ops->pause(a->ctx, e) : a->ops->resume(a->ctx, e);
	if (rc < 0)
		return rc;
	a->report.latency_us[pause ? REPORT_PAUSE : REPORT_RESUME] =
		(clock_monotonic_ns() - begin) / 1000;
	a->state = pause ? API_PAUSED : API_RUNNING;
	return 0;
}

// ---- snapshots

struct create_body {
	char *state, *memory, *type;
};

static const struct body_field create_fields[] = {
	BODY_TEXT(struct create_body, state, "snapshot_path", true),
	BODY_TEXT(struct create_body, memory, "mem_file_path", true),
	BODY_TEXT(struct create_body, type, "snapshot_type", false),
};

static int create(struct api *a, const struct create_body *b, struct err *e)
{
	bool diff = str_eq(b->type, "Diff");
	if (b->type && !diff && strcmp(b->type, "Full") != 0)
		return err_set(e, ERR_INVALID,
			"unknown variant `%.40s`, expected `Diff` or `Full`.", b->type);
	if (a->state != API_PAUSED)
		return err_set(e, ERR_CONFLICT,
			"Create snapshot error: save/restore operations are only allowed while the "
			"microVM is paused.");
	const struct snapshot_create s = {b->state, b->memory, diff};
	uint64_t begin = clock_monotonic_ns();
	int rc = a->ops->create(a->ctx, &a->config, &s, e);
	a->report.latency_us[diff ? REPORT_DIFF_CREATE : REPORT_FULL_CREATE] =
		(clock_monotonic_ns() - begin) / 1000;
	return rc < 0 ? err_prefix(e, rc, "Create snapshot error") : 0;
}

static int put_create(struct call *c, struct err *e)
{
	struct create_body b = {0};
	int rc = body_read(c->body, c->len, create_fields, ARRAY_SIZE(create_fields), &b, NULL, e);
	if (rc == 0)
		rc = create(c->api, &b, e);
	body_done(create_fields, ARRAY_SIZE(create_fields), &b);
	return rc;
}

struct load_body {
	char *state, *memory;
	json_t *backend, *overrides;
	bool diff_snapshots, track_dirty, resume;
};

// Tracking is always on; both flags are kept for the answers.
static const struct body_field load_fields[] = {
	BODY_TEXT(struct load_body, state, "snapshot_path", true),
	BODY_TEXT(struct load_body, memory, "mem_file_path", false),
	BODY_PART(struct load_body, backend, "mem_backend", BODY_OBJECT, false),
	BODY_PART(struct load_body, overrides, "network_overrides", BODY_ARRAY, false),
	BODY_FLAG(struct load_body, diff_snapshots, "enable_diff_snapshots", false),
	BODY_FLAG(struct load_body, track_dirty, "track_dirty_pages", false),
	BODY_FLAG(struct load_body, resume, "resume_vm", false),
	BODY_REFUSED("vsock_override", NULL, "its machines have no vsock device"),
	BODY_REFUSED("clock_realtime", "false", "tell the guest the time after it was resumed"),
	BODY_REFUSED("huge_pages", "Snapshot", "pages are tracked in units of 4 KiB"),
};

struct backend_body {
	char *type, *path;
};

static const struct body_field backend_fields[] = {
	BODY_TEXT(struct backend_body, type, "backend_type", true),
	BODY_TEXT(struct backend_body, path, "backend_path", true),
};

static int read_backend(const struct load_body *b, struct backend_body *ret, struct err *e)
{
	if (!b->backend == !b->memory)
		return err_set(e, ERR_INVALID, "%s",
			b->memory ? "too many fields: either `mem_backend` or `mem_file_path` "
				    "exclusively is required."
				  : "missing field: either `mem_backend` or `mem_file_path` is "
				    "required");
	if (b->memory) {
		ret->path = strdup(b->memory);
		ret->type = strdup("File");
		return ret->path && ret->type ? 0 : err_errno(e, ENOMEM, "mem_file_path");
	}
	int rc = body_read_object(
		b->backend, backend_fields, ARRAY_SIZE(backend_fields), ret, NULL, e);
	if (rc == 0 && strcmp(ret->type, "File") != 0 && strcmp(ret->type, "Uffd") != 0)
		rc = err_set(e, ERR_INVALID, "unknown variant `%.40s`, expected `File` or `Uffd`.",
			ret->type);
	return rc;
}

// From here on a failure leaves a process that can only end, as Firecracker's.
static int restore(
	struct api *a, const struct load_body *b, const struct backend_body *backend, struct err *e)
{
	const struct snapshot_load l = {.state_path = b->state,
		.uffd = strcmp(backend->type, "Uffd") == 0,
		.backend_path = backend->path,
		.net_overrides = b->overrides};
	struct config loaded;
	int rc = a->ops->load(a->ctx, &l, &loaded, e);
	if (rc == 0) {
		config_done(&a->config);
		a->config = loaded;
		a->config.track_dirty = b->track_dirty || b->diff_snapshots;
		a->state = API_PAUSED;
		if (b->resume && (rc = a->ops->resume(a->ctx, e)) == 0)
			a->state = API_RUNNING;
	}
	if (rc < 0)
		a->ended = true;
	return rc < 0 ? err_prefix(e, rc, "Load snapshot error") : 0;
}

static int load(struct call *c, const struct load_body *b, struct err *e)
{
	struct api *a = c->api;
	struct backend_body backend = {0};
	c->deprecated = b->memory || b->diff_snapshots;
	uint64_t begin = clock_monotonic_ns();
	int rc = read_backend(b, &backend, e);
	if (rc == 0 && a->boot_path)
		rc = err_set(e, ERR_CONFLICT,
			"Load snapshot error: Loading a microVM snapshot not allowed after "
			"configuring boot-specific resources.");
	if (rc == 0)
		rc = restore(a, b, &backend, e);
	a->report.latency_us[REPORT_LOAD] = (clock_monotonic_ns() - begin) / 1000;
	body_done(backend_fields, ARRAY_SIZE(backend_fields), &backend);
	return rc;
}

static int put_load(struct call *c, struct err *e)
{
	struct load_body b = {0};
	int rc = body_read(c->body, c->len, load_fields, ARRAY_SIZE(load_fields), &b, NULL, e);
	if (rc == 0)
		rc = load(c, &b, e);
	body_done(load_fields, ARRAY_SIZE(load_fields), &b);
	return rc;
}

// ---- the table

static const struct route {
	enum http1_method method;
	const char *path; // a trailing "/*" is an id
	unsigned legal;
	bool boot_path;
	handler_fn run;
} routes[] = {
	{HTTP1_GET, "/", ANY_STATE, false, get_instance},
	{HTTP1_GET, "/version", ANY_STATE, false, get_version},
	{HTTP1_GET, "/vm/config", ANY_STATE, false, get_config},
	{HTTP1_GET, "/machine-config", ANY_STATE, false, get_machine},
	{HTTP1_PUT, "/machine-config", API_NOT_STARTED, true, put_machine},
	{HTTP1_PATCH, "/machine-config", API_NOT_STARTED, true, patch_machine},
	{HTTP1_PUT, "/boot-source", API_NOT_STARTED, true, put_boot},
	{HTTP1_PUT, "/drives/*", API_NOT_STARTED, true, put_drive},
	{HTTP1_PATCH, "/drives/*", STARTED, false, patch_drive},
	{HTTP1_PUT, "/network-interfaces/*", API_NOT_STARTED, true, put_nic},
	{HTTP1_PATCH, "/network-interfaces/*", STARTED, false, patch_nic},
	{HTTP1_PUT, "/entropy", API_NOT_STARTED, true, put_entropy},
	{HTTP1_PUT, "/logger", API_NOT_STARTED, false, put_logger},
	{HTTP1_PUT, "/metrics", API_NOT_STARTED, false, put_metrics},
	{HTTP1_PUT, "/actions", ANY_STATE, false, put_actions},
	{HTTP1_PATCH, "/vm", STARTED, false, patch_vm},
	{HTTP1_PUT, "/snapshot/create", STARTED, false, put_create},
	{HTTP1_PUT, "/snapshot/load", API_NOT_STARTED, false, put_load},
};

// Parts of Firecracker that this program does not have, with the reason its clients are given.
static const struct {
	const char *prefix, *why;
} refused[] = {
	{"/balloon", "a balloon would throw pages away behind the snapshot's back"},
	{"/cpu-config", "templates mask the features of a real CPU"},
	{"/hotplug", "QEMU's microvm has no memory hot-plug"},
	{"/mmds", "the metadata service is part of Firecracker's network device"},
	{"/pmem", "QEMU's microvm has no persistent memory device"},
	{"/serial", "the console is this process's standard output"},
	{"/vsock", "reach the guest over its network interface"},
};

// Whether path is the route's; *ret_id is its last segment then.
static bool route_matches(const struct route *r, const char *path, const char **ret_id)
{
	size_t n = strlen(r->path);
	if (n < 2 || r->path[n - 1] != '*')
		return strcmp(r->path, path) == 0;
	if (strncmp(path, r->path, n - 2) != 0)
		return false;
	path += n - 2;
	if (*path != '/' && *path != '\0')
		return false;
	*ret_id = *path ? path + 1 : path;
	return strchr(*ret_id, '/') == NULL;
}

static int no_route(const struct http1_request *r, struct err *e)
{
	for (size_t i = 0; i < ARRAY_SIZE(refused); i++) {
		size_t n = strlen(refused[i].prefix);
		if (strncmp(r->path, refused[i].prefix, n) == 0 &&
			(r->path[n] == '/' || r->path[n] == '\0'))
			return err_set(e, ERR_UNIMPLEMENTED, "fcqemu does not offer %s: %s.",
				refused[i].prefix + 1, refused[i].why);
	}
	return err_set(e, ERR_INVALID, "Invalid request method and/or path: %s %.*s.",
		http1_method_name(r->method), (int)strcspn(r->path + 1, "/"), r->path + 1);
}

static int dispatch(struct call *c, const struct http1_request *r, struct err *e)
{
	if (r->method == HTTP1_GET && r->has_body)
		return err_set(e, ERR_INVALID, "GET request cannot have a body.");
	if ((r->method == HTTP1_PUT || r->method == HTTP1_PATCH) && !r->has_body)
		return err_set(e, ERR_INVALID, "Empty %s request.", http1_method_name(r->method));
	for (size_t i = 0; i < ARRAY_SIZE(routes); i++) {
		const struct route *route = &routes[i];
		if (route->method != r->method || !route_matches(route, r->path, &c->id))
			continue;
		int rc = c->id ? config_check_id(c->id, e) : 0;
		if (rc == 0)
			rc = check_state(c->api, route->legal, e);
		if (rc == 0)
			rc = route->run(c, e);
		if (rc == 0 && route->boot_path)
			c->api->boot_path = true;
		return rc;
	}
	return no_route(r, e);
}

static void answer_fault(struct strbuf *out, const char *text)
{
	_cleanup_(json_decrefp) json_t *j = json_pack("{s:s}", "fault_message", text);
	_cleanup_free_ char *body = j ? json_dumps(j, JSON_COMPACT) : NULL;
	// Text that is not UTF-8 (a strange path) or no memory: still a fault.
	http1_answer(out, 400, body ? body : "{\"fault_message\":\"unprintable reason\"}", false);
}

void api_handle(struct api *a, const struct http1_request *r, struct strbuf *out)
{
	struct err e = {0};
	struct call c = {.api = a, .body = r->body.data, .len = r->body.len};
	a->report.requests++;
	report_log(&a->report, REPORT_INFO, "The API server received a %s request on \"%s\".",
		http1_method_name(r->method), r->path);
	int rc = dispatch(&c, r, &e);
	if (rc < 0) {
		a->report.failed++;
		report_log(&a->report, REPORT_ERROR, "Status code: 400. Message: %s",
			err_text(&e, rc));
		answer_fault(out, err_text(&e, rc));
	} else if (c.ret) {
		_cleanup_free_ char *body = json_dumps(c.ret, JSON_COMPACT);
		http1_answer(out, 200, body ? body : "{}", c.deprecated);
	} else {
		http1_answer(out, 204, NULL, c.deprecated);
	}
	json_decref(c.ret);
}
