// SPDX-License-Identifier: Apache-2.0
#include "control/routes.h"
#include "control/api/audit.h"
#include "control/api/changes.h"
#include "control/api/events.h"
#include "control/api/exec.h"
#include "control/api/fork.h"
#include "control/api/status.h"
#include "control/api/keys.h"
#include "control/api/login.h"
#include "control/api/logs.h"
#include "control/api/metrics.h"
#include "control/api/operations.h"
#include "control/api/ports.h"
#include "control/api/power.h"
#include "control/api/reconcile.h"
#include "control/api/retention.h"
#include "control/api/runtimes.h"
#include "control/api/sandbox_list.h"
#include "control/api/sandboxes.h"
#include "control/api/snapshots.h"
#include "control/api/templates.h"
#include "control/api/token.h"
#include "control/api/usage.h"
#include "control/api/wait.h"
#include "control/api/webhooks.h"
#include "control/api/why.h"
#include "control/edge/route.h"

const struct http_route control_routes[] = {
	// CONTROL_N_EDGE_ROUTES of them.
	{.method = "GET", .pattern = "/_edge/auth", .handler = route_auth, .flags = ROUTE_EDGE},
	{.method = "GET", .pattern = "/_edge/closed", .handler = route_closed, .flags = ROUTE_EDGE},
	{.method = "GET", .pattern = "/_edge/key", .handler = route_key, .flags = ROUTE_EDGE},
	// First, because these are what is asked for most.
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
	{.method = "POST", .pattern = "/v1/sandboxes/{id}/pause", .handler = power_pause},
	{.method = "POST", .pattern = "/v1/sandboxes/{id}/resume", .handler = power_resume},
	{.method = "POST", .pattern = "/v1/sandboxes/{id}/fork", .handler = fork_sandbox},
	{.method = "GET",
		.pattern = "/v1/sandboxes/{id}/logs",
		.handler = sandboxes_logs,
		.query = "tail"},
	{.method = "GET", .pattern = "/v1/sandboxes/{id}/metrics", .handler = metrics_get_one},
	{.method = "POST", .pattern = "/v1/sandboxes/{id}/token:rotate", .handler = token_rotate},
	{.method = "GET", .pattern = "/v1/sandboxes/{id}/why", .handler = why_get},
	{.method = "GET",
		.pattern = "/v1/operations",
		.handler = operations_list_get,
		.query = "sandbox limit cursor"},
	{.method = "GET", .pattern = "/v1/operations/{id}", .handler = operations_get_one},
	{.method = "POST",
		.pattern = "/v1/reconcile",
		.flags = ROUTE_ADMIN,
		.handler = reconcile_now},
	{.method = "GET",
		.pattern = "/v1/retention",
		.flags = ROUTE_ADMIN,
		.handler = retention_get},
	{.method = "PUT",
		.pattern = "/v1/retention/rules/{name}",
		.flags = ROUTE_ADMIN,
		.handler = retention_set_rule},
	{.method = "DELETE",
		.pattern = "/v1/retention/rules/{name}",
		.flags = ROUTE_ADMIN,
		.handler = retention_delete_rule},
	{.method = "PUT",
		.pattern = "/v1/retention/kept/{name}",
		.flags = ROUTE_ADMIN,
		.handler = retention_set_kept},
	{.method = "DELETE",
		.pattern = "/v1/retention/kept/{name}",
		.flags = ROUTE_ADMIN,
		.handler = retention_delete_kept},
	{.method = "POST",
		.pattern = "/v1/retention/run",
		.flags = ROUTE_ADMIN,
		.handler = retention_run_now},
	{.method = "GET",
		.pattern = "/v1/events",
		.handler = events_list,
		.query = "cursor since limit sandbox follow"},
	{.method = "GET", .pattern = "/v1/health", .handler = status_health, .flags = ROUTE_PUBLIC},
	{.method = "GET",
		.pattern = "/v1/metrics",
		.flags = ROUTE_OVERVIEW,
		.handler = metrics_get_all},
	{.method = "GET", .pattern = "/v1/host", .flags = ROUTE_ADMIN, .handler = status_host},
	{.method = "GET",
		.pattern = "/v1/runtimes",
		.flags = ROUTE_ADMIN,
		.handler = runtimes_list_get},
	{.method = "POST",
		.pattern = "/v1/runtimes/{id}/deny",
		.flags = ROUTE_ADMIN,
		.handler = runtimes_deny},
	{.method = "POST",
		.pattern = "/v1/runtimes/{id}/allow",
		.flags = ROUTE_ADMIN,
		.handler = runtimes_allow},
	{.method = "GET",
		.pattern = "/v1/host/usage",
		.flags = ROUTE_ADMIN,
		.handler = usage_get,
		.query = "of"},
	{.method = "GET",
		.pattern = "/v1/host/unknown",
		.flags = ROUTE_ADMIN,
		.handler = usage_get_unknown},
	{.method = "DELETE",
		.pattern = "/v1/host/unknown",
		.flags = ROUTE_ADMIN,
		.handler = usage_remove_unknown},
	{.method = "GET", .pattern = "/v1/templates", .handler = templates_list_all},
	{.method = "POST", .pattern = "/v1/snapshots", .handler = snapshots_create},
	{.method = "GET", .pattern = "/v1/snapshots", .handler = snapshots_list},
	{.method = "GET", .pattern = "/v1/snapshots/{name}", .handler = snapshots_get},
	{.method = "GET", .pattern = "/v1/snapshots/{name}/check", .handler = snapshots_check},
	{.method = "POST", .pattern = "/v1/snapshots/{name}/rewarm", .handler = snapshots_rewarm},
	{.method = "PATCH",
		.pattern = "/v1/snapshots/{name}",
		.flags = ROUTE_ADMIN,
		.handler = snapshots_update},
	{.method = "DELETE", .pattern = "/v1/snapshots/{name}", .handler = snapshots_delete},
	{.method = "POST", .pattern = "/v1/keys", .flags = ROUTE_ADMIN, .handler = keys_create},
	{.method = "GET", .pattern = "/v1/keys", .flags = ROUTE_ADMIN, .handler = keys_list_get},
	{.method = "GET",
		.pattern = "/v1/keys/{id}",
		.flags = ROUTE_ADMIN,
		.handler = keys_get_one},
	{.method = "PATCH",
		.pattern = "/v1/keys/{id}",
		.flags = ROUTE_ADMIN,
		.handler = keys_change},
	{.method = "DELETE",
		.pattern = "/v1/keys/{id}",
		.flags = ROUTE_ADMIN,
		.handler = keys_delete},
	{.method = "GET",
		.pattern = "/v1/audit",
		.flags = ROUTE_ADMIN,
		.handler = audit_list,
		.query = "cursor since limit"},
	{.method = "POST", .pattern = "/v1/webhooks", .handler = webhooks_create},
	{.method = "GET", .pattern = "/v1/webhooks", .handler = webhooks_list_get},
	{.method = "GET", .pattern = "/v1/webhooks/{id}", .handler = webhooks_get_one},
	{.method = "PATCH", .pattern = "/v1/webhooks/{id}", .handler = webhooks_update},
	{.method = "DELETE", .pattern = "/v1/webhooks/{id}", .handler = webhooks_delete},
	{.method = "GET",
		.pattern = "/v1/webhooks/{id}/deliveries",
		.handler = webhooks_list_deliveries,
		.query = "limit"},
	{.method = "POST", .pattern = "/v1/webhooks/{id}/test", .handler = webhooks_send_test},
	{.method = "GET", .pattern = "/v1/openapi.json", .handler = status_openapi},
	{.method = "POST", .pattern = "/v1/sandboxes/{id}/port-token", .handler = ports_new_token},
	{.method = "POST", .pattern = "/v1/sandboxes/{id}/links", .handler = ports_new_link},
};
const size_t control_n_routes = ARRAY_SIZE(control_routes);
