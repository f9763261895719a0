// SPDX-License-Identifier: Apache-2.0
#include "fcqemu/api.h"
#include <string.h>
#include "base/clock.h"
#include "fcqemu/body.h"

#define ANY_STATE (API_NOT_STARTED | API_RUNNING | API_PAUSED)
#define STARTED (API_RUNNING | API_PAUSED)

struct call {
	struct api *api;
	json_t *body; // of the route's shape
	json_t *ret;  // answer with 200; NULL: 204
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
	const json_t *template = json_object_get(c->body, "cpu_template");
	c->deprecated = template && !json_is_null(template);
	return config_put_machine(&c->api->config, c->body, e);
}

static int patch_machine(struct call *c, struct err *e)
{
	const json_t *template = json_object_get(c->body, "cpu_template");
	c->deprecated = template && !json_is_null(template);
	return config_patch_machine(&c->api->config, c->body, e);
}

static int put_boot(struct call *c, struct err *e)
{
	return config_put_boot(&c->api->config, c->body, e);
}

static int put_drive(struct call *c, struct err *e)
{
	return config_put_drive(&c->api->config, c->body, e);
}

static int patch_drive(struct call *c, struct err *e)
{
	struct api *a = c->api;
	struct drive *d;
	_cleanup_free_ char *path = NULL;
	int rc = config_read_drive_patch(&a->config, c->body, &d, &path, e);
	if (rc < 0)
		return rc;
	if ((rc = a->ops->set_drive(a->ctx, (size_t)(d - a->config.drives), d, path, e)) < 0)
		return rc;
	free(d->path);
	d->path = TAKE_PTR(path);
	return 0;
}

static int put_nic(struct call *c, struct err *e)
{
	struct api *a = c->api;
	return config_put_nic(&a->config, a->ops->open_tap, c->body, e);
}

static int patch_nic(struct call *c, struct err *e)
{
	return config_read_nic_patch(&c->api->config, c->body, e);
}

// Without --enable-pci, as we start it, Firecracker plugs nothing into a guest that runs.
static int hotplug(struct call *c, struct err *e)
{
	return err_set(e, ERR_UNIMPLEMENTED, "PCI is not enabled");
}

static int put_entropy(struct call *c, struct err *e)
{
	return config_put_entropy(&c->api->config, c->body, e);
}

static int put_logger(struct call *c, struct err *e)
{
	return report_put_logger(&c->api->report, c->body, e);
}

static int put_metrics(struct call *c, struct err *e)
{
	return report_put_metrics(&c->api->report, c->body, e);
}

static int start(struct api *a, struct err *e)
{
	if (!a->config.kernel)
		return err_set(e, ERR_INVALID,
			"Start microvm error: Cannot start microvm without kernel configuration.");
	int rc = config_check_kernel(&a->config, e);
	if (rc == 0)
		rc = a->ops->start(a->ctx, &a->config, e);
	if (rc < 0)
		return err_prefix(e, rc, "Start microvm error");
	a->state = API_RUNNING;
	return 0;
}

static const char *const action_names[] = {"FlushMetrics", "InstanceStart", "SendCtrlAltDel", NULL};
static const struct body_field action_fields[] = {
	{"action_type", BODY_CHOICE, .required = true, .choices = action_names},
};
static const struct body_shape action_shape = BODY_SHAPE("struct ActionBody", action_fields);

static int put_actions(struct call *c, struct err *e)
{
	const char *type = json_string_value(json_object_get(c->body, "action_type"));
	bool starts = str_eq(type, "InstanceStart");
	int rc = check_state(c->api, starts ? API_NOT_STARTED : STARTED, e);
	if (rc < 0)
		return rc;
	if (starts)
		return start(c->api, e);
	if (str_eq(type, "FlushMetrics")) {
		report_flush_metrics(&c->api->report);
		return 0;
	}
	return err_set(e, ERR_UNIMPLEMENTED,
		"fcqemu cannot honour SendCtrlAltDel: the machine has no keyboard controller. "
		"Ask the guest to power off, or end the process.");
}

static const char *const vm_states[] = {"Paused", "Resumed", NULL};
static const struct body_field vm_fields[] = {
	{"state", BODY_CHOICE, .required = true, .choices = vm_states},
};
static const struct body_shape vm_shape = BODY_SHAPE("struct Vm", vm_fields);

static int patch_vm(struct call *c, struct err *e)
{
	struct api *a = c->api;
	bool pause = str_eq(json_string_value(json_object_get(c->body, "state")), "Paused");
	uint64_t begin = clock_monotonic_ns();
	int rc = pause ? a->ops->pause(a->ctx, e) : a->ops->resume(a->ctx, e);
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

static const char *const snapshot_types[] = {"Diff", "Full", NULL};
static const struct body_field create_fields[] = {
	{"snapshot_type", BODY_CHOICE, .choices = snapshot_types,
		BODY_FIELD(struct create_body, type)},
	{"snapshot_path", BODY_PATH, .required = true, BODY_FIELD(struct create_body, state)},
	{"mem_file_path", BODY_PATH, .required = true, BODY_FIELD(struct create_body, memory)},
};
static const struct body_shape create_shape =
	BODY_SHAPE("struct CreateSnapshotParams", create_fields);

static int create(struct api *a, const struct create_body *b, struct err *e)
{
	bool diff = str_eq(b->type, "Diff");
	if (a->state != API_PAUSED)
		return err_set(e, ERR_CONFLICT,
			"Create snapshot error: Cannot save the microVM state: Operation not "
			"allowed: save/restore unavailable while running");
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
	int rc = body_take(c->body, &create_shape, &b, NULL, e);
	if (rc == 0)
		rc = create(c->api, &b, e);
	body_done(&create_shape, &b);
	return rc;
}

struct load_body {
	char *state, *memory;
	json_t *backend, *overrides;
	bool diff_snapshots, track_dirty, resume;
};

struct backend_body {
	char *type, *path;
};

static const char *const backend_types[] = {"File", "Uffd", NULL};
static const struct body_field backend_fields[] = {
	{"backend_path", BODY_PATH, .required = true, BODY_FIELD(struct backend_body, path)},
	{"backend_type", BODY_CHOICE, .required = true, .choices = backend_types,
		BODY_FIELD(struct backend_body, type)},
};
static const struct body_shape backend_shape =
	BODY_SHAPE("struct MemBackendConfig", backend_fields);

static bool has(const json_t *o, const char *name)
{
	const json_t *v = json_object_get(o, name);
	return v && !json_is_null(v);
}

static int check_backend(const json_t *o, struct err *e)
{
	bool file = has(o, "mem_file_path");
	if (has(o, "mem_backend") != file)
		return 0;
	return err_set(e, ERR_INVALID,
		"An error occurred when deserializing the json body of a request: %s.",
		file ? "too many fields: either `mem_backend` or `mem_file_path` exclusively is "
		       "required"
		     : "missing field: either `mem_backend` or `mem_file_path` is required");
}

// Tracking is always on; both flags are kept for the answers.
static const struct body_field load_fields[] = {
	{"snapshot_path", BODY_PATH, .required = true, BODY_FIELD(struct load_body, state)},
	{"mem_file_path", BODY_PATH, .nullable = true, BODY_FIELD(struct load_body, memory)},
	{"mem_backend", BODY_OBJECT, .nullable = true, .shape = &backend_shape,
		BODY_FIELD(struct load_body, backend)},
	{"enable_diff_snapshots", BODY_BOOL, BODY_FIELD(struct load_body, diff_snapshots)},
	{"track_dirty_pages", BODY_BOOL, BODY_FIELD(struct load_body, track_dirty)},
	{"resume_vm", BODY_BOOL, BODY_FIELD(struct load_body, resume)},
	{"network_overrides", BODY_ARRAY, .shape = &config_override_shape,
		BODY_FIELD(struct load_body, overrides)},
	{"vsock_override", BODY_OBJECT, .nullable = true,
		.why = "its machines have no vsock device"},
	{"clock_realtime", BODY_BOOL, .only = "false",
		.why = "tell the guest the time after it was resumed"},
};
static const struct body_shape load_shape =
	BODY_SHAPE("struct LoadSnapshotConfig", load_fields, .check = check_backend);

static int take_backend(const struct load_body *b, struct backend_body *ret, struct err *e)
{
	if (b->backend)
		return body_take(b->backend, &backend_shape, ret, NULL, e);
	ret->path = strdup(b->memory);
	ret->type = strdup("File");
	return ret->path && ret->type ? 0 : err_errno(e, ENOMEM, "mem_file_path");
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
	return rc < 0 ? err_prefix(e, rc, "Load snapshot error: Failed to restore from snapshot")
		      : 0;
}

static int load(struct call *c, const struct load_body *b, struct err *e)
{
	struct api *a = c->api;
	struct backend_body backend = {0};
	c->deprecated = b->memory || b->diff_snapshots;
	uint64_t begin = clock_monotonic_ns();
	int rc = take_backend(b, &backend, e);
	if (rc == 0 && a->boot_path)
		rc = err_set(e, ERR_CONFLICT,
			"Load snapshot error: Loading a microVM snapshot not allowed after "
			"configuring boot-specific resources.");
	if (rc == 0)
		rc = restore(a, b, &backend, e);
	a->report.latency_us[REPORT_LOAD] = (clock_monotonic_ns() - begin) / 1000;
	body_done(&backend_shape, &backend);
	return rc;
}

static int put_load(struct call *c, struct err *e)
{
	struct load_body b = {0};
	int rc = body_take(c->body, &load_shape, &b, NULL, e);
	if (rc == 0)
		rc = load(c, &b, e);
	body_done(&load_shape, &b);
	return rc;
}

// ---- the table

enum {
	BOOT_PATH = 1, // asked for before the start, whatever comes of it: nothing is loaded then
	ID = 2,	       // the path's second part is an id, which the body has as well
};

static const struct route {
	enum http1_method method;
	const char *first, *second; // parts of the path; more of it is not looked at
	unsigned flags, legal;
	const struct body_shape *shape;
	handler_fn run;
} routes[] = {
	{HTTP1_GET, "", NULL, 0, ANY_STATE, NULL, get_instance},
	{HTTP1_GET, "version", NULL, 0, ANY_STATE, NULL, get_version},
	{HTTP1_GET, "vm", "config", 0, ANY_STATE, NULL, get_config},
	{HTTP1_GET, "machine-config", NULL, 0, ANY_STATE, NULL, get_machine},
	{HTTP1_PUT, "machine-config", NULL, BOOT_PATH, API_NOT_STARTED, &config_machine_shape,
		put_machine},
	{HTTP1_PATCH, "machine-config", NULL, BOOT_PATH, API_NOT_STARTED,
		&config_machine_patch_shape, patch_machine},
	{HTTP1_PUT, "boot-source", NULL, BOOT_PATH, API_NOT_STARTED, &config_boot_shape, put_boot},
	{HTTP1_PUT, "drives", NULL, BOOT_PATH | ID, ANY_STATE, &config_drive_shape, put_drive},
	{HTTP1_PATCH, "drives", NULL, ID, STARTED, &config_drive_patch_shape, patch_drive},
	{HTTP1_DELETE, "drives", NULL, ID, STARTED, NULL, hotplug},
	{HTTP1_PUT, "network-interfaces", NULL, BOOT_PATH | ID, ANY_STATE, &config_nic_shape,
		put_nic},
	{HTTP1_PATCH, "network-interfaces", NULL, ID, STARTED, &config_nic_patch_shape, patch_nic},
	{HTTP1_DELETE, "network-interfaces", NULL, ID, STARTED, NULL, hotplug},
	{HTTP1_PUT, "entropy", NULL, BOOT_PATH, API_NOT_STARTED, &config_entropy_shape,
		put_entropy},
	{HTTP1_PUT, "logger", NULL, 0, API_NOT_STARTED, &report_logger_shape, put_logger},
	{HTTP1_PUT, "metrics", NULL, 0, API_NOT_STARTED, &report_metrics_shape, put_metrics},
	{HTTP1_PUT, "actions", NULL, 0, ANY_STATE, &action_shape, put_actions},
	{HTTP1_PATCH, "vm", NULL, 0, STARTED, &vm_shape, patch_vm},
	{HTTP1_PUT, "snapshot", "create", 0, STARTED, &create_shape, put_create},
	{HTTP1_PUT, "snapshot", "load", 0, API_NOT_STARTED, &load_shape, put_load},
};

// Parts of Firecracker that this program does not have, with the reason its clients are given.
static const struct {
	const char *part, *why;
} refused[] = {
	{"balloon", "a balloon would throw pages away behind the snapshot's back"},
	{"cpu-config", "templates mask the features of a real CPU"},
	{"hotplug", "QEMU's microvm has no memory hot-plug"},
	{"mmds", "the metadata service is part of Firecracker's network device"},
	{"pmem", "QEMU's microvm has no persistent memory device"},
	{"serial", "the console is this process's standard output"},
	{"vsock", "reach the guest over its network interface"},
};

// The first two parts of a path, "" and NULL where it has none.
struct path {
	char first[HTTP1_LINE_MAX];
	const char *second;
};

static void split_path(const char *text, struct path *ret)
{
	snprintf(ret->first, sizeof ret->first, "%s", text + strspn(text, "/"));
	char *slash = strchr(ret->first, '/');
	ret->second = NULL;
	if (!slash)
		return;
	*slash++ = '\0';
	if (*slash == '\0')
		return; // a slash at the end begins no part
	ret->second = slash;
	slash[strcspn(slash, "/")] = '\0';
}

static int no_route(const struct http1_request *r, const struct path *p, struct err *e)
{
	static const char *const empty[] = {[HTTP1_GET] = "GET request cannot have a body.",
		[HTTP1_PUT] = "Empty PUT request.",
		[HTTP1_PATCH] = "Empty PATCH request.",
		[HTTP1_DELETE] = "Empty Delete request."};
	bool wanted = r->method == HTTP1_PUT || r->method == HTTP1_PATCH;
	if (r->has_body != wanted)
		return err_set(e, ERR_INVALID, "%s", empty[r->method]);
	for (size_t i = 0; i < ARRAY_SIZE(refused); i++)
		if (strcmp(p->first, refused[i].part) == 0)
			return err_set(e, ERR_UNIMPLEMENTED, "fcqemu does not offer %s: %s.",
				refused[i].part, refused[i].why);
	if (r->method == HTTP1_PUT && strcmp(p->first, "snapshot") == 0 && !p->second)
		return err_set(e, ERR_INVALID, "Missing snapshot operation type.");
	bool snapshot = r->method == HTTP1_PUT && strcmp(p->first, "snapshot") == 0;
	return err_set(e, ERR_INVALID, "Invalid request method and/or path: %s %s%s.",
		http1_method_name(r->method), snapshot ? "/snapshot/" : "",
		snapshot ? p->second : p->first);
}

static const struct route *find_route(const struct http1_request *r, const struct path *p)
{
	for (size_t i = 0; i < ARRAY_SIZE(routes); i++) {
		const struct route *route = &routes[i];
		if (route->method == r->method && strcmp(route->first, p->first) == 0 &&
			(!route->second || str_eq(route->second, p->second)) &&
			r->has_body == (route->shape != NULL))
			return route;
	}
	return NULL;
}

static int check_same_id(const char *path_id, const json_t *body, struct err *e)
{
	const char *drive = json_string_value(json_object_get(body, "drive_id"));
	const char *nic = json_string_value(json_object_get(body, "iface_id"));
	if (str_eq(drive ? drive : nic, path_id))
		return 0;
	if (drive)
		return err_set(e, ERR_INVALID,
			"The id from the path does not match the id from the body!");
	return err_set(e, ERR_INVALID,
		"The id from the path [%.100s] does not match the id from the body [%.100s]!",
		path_id, nic);
}

// What is wrong with a request by itself, in any state.
static int parse(struct call *c, const struct route *route, const struct path *p,
	const struct http1_request *r, struct err *e)
{
	int rc = route->flags & ID ? config_check_id(p->second ? p->second : "", e) : 0;
	if (rc < 0 || !route->shape)
		return rc;
	if ((rc = body_parse(r->body.data, r->body.len, &c->body, e)) == 0)
		rc = body_check(c->body, route->shape, e);
	return rc == 0 && route->flags & ID ? check_same_id(p->second, c->body, e) : rc;
}

static int dispatch(struct call *c, const struct http1_request *r, struct err *e)
{
	struct path p = {0};
	split_path(r->path, &p);
	const struct route *route = find_route(r, &p);
	if (!route)
		return no_route(r, &p, e);
	int rc = parse(c, route, &p, r, e);
	if (rc == 0)
		rc = check_state(c->api, route->legal, e);
	if (rc < 0)
		return rc;
	bool started = c->api->state != API_NOT_STARTED;
	if (route->flags & BOOT_PATH && !started)
		c->api->boot_path = true;
	return route->flags & BOOT_PATH && started ? hotplug(c, e) : route->run(c, e);
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
	struct call c = {.api = a};
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
	json_decref(c.body);
	json_decref(c.ret);
}
