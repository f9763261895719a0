// SPDX-License-Identifier: Apache-2.0
#include "hostagent/messages.h"

// A member of struct T, and fields of the usual kinds.
#define AT(T, member) .offset = offsetof(struct T, member), .size = sizeof(((struct T *)0)->member)
#define TEXT(T, member, json)                                                                      \
	{                                                                                          \
		.name = json, .type = WIRE_TEXT, AT(T, member)                                     \
	}
#define POINTER(T, member, json, ...)                                                              \
	{                                                                                          \
		.name = json, .type = WIRE_POINTER, AT(T, member), __VA_ARGS__                     \
	}
#define BOOL(T, member, json)                                                                      \
	{                                                                                          \
		.name = json, .type = WIRE_BOOL, AT(T, member)                                     \
	}
#define U32(T, member, json, ...)                                                                  \
	{                                                                                          \
		.name = json, .type = WIRE_U32, AT(T, member), __VA_ARGS__                         \
	}
#define U64(T, member, json, ...)                                                                  \
	{                                                                                          \
		.name = json, .type = WIRE_U64, AT(T, member), __VA_ARGS__                         \
	}
#define ENUM(T, member, json, table)                                                               \
	{                                                                                          \
		.name = json, .type = WIRE_ENUM, AT(T, member), .names = table                     \
	}
#define MAP(T, member, json)                                                                       \
	{                                                                                          \
		.name = json, .type = WIRE_MAP, AT(T, member)                                      \
	}
#define LIST(T, member, counter, json, m, ...)                                                     \
	{                                                                                          \
		.name = json, .type = WIRE_LIST, AT(T, member),                                    \
		.count = offsetof(struct T, counter), .message = m, __VA_ARGS__                    \
	}
#define PART(T, member, has, json, m)                                                              \
	{                                                                                          \
		.name = json, .type = WIRE_MESSAGE, .flags = WIRE_HAS, AT(T, member),              \
		.count = offsetof(struct T, has), .message = m                                     \
	}
#define FORMED(T, member, json, f, must)                                                           \
	{                                                                                          \
		.name = json, .type = WIRE_TEXT, .form = f, .flags = must, AT(T, member)           \
	}
#define OPERATION(T) FORMED(T, op_id, "operationId", FORM_UUID, WIRE_REQUIRED)
#define SANDBOX(T) FORMED(T, id, "sandboxId", FORM_SANDBOX, WIRE_REQUIRED)
#define TOKEN(T) POINTER(T, token, "token", .form = FORM_TOKEN)

#define MESSAGE(symbol, text, T, table)                                                            \
	static const struct wire_message symbol = {text, sizeof(struct T), table, ARRAY_SIZE(table)}
#define EMPTY(symbol, text) static const struct wire_message symbol = {.name = text}

static const char *const state_names[] = {"SANDBOX_STATE_UNSPECIFIED", "SANDBOX_STATE_PENDING",
	"SANDBOX_STATE_RUNNING", "SANDBOX_STATE_PAUSING", "SANDBOX_STATE_PAUSED",
	"SANDBOX_STATE_RESUMING", "SANDBOX_STATE_STOPPING", "SANDBOX_STATE_STOPPED",
	"SANDBOX_STATE_ERROR"};
_Static_assert(ARRAY_SIZE(state_names) == SANDBOX_STATE_MAX + 1, "a name for each state");
// A state that a newer host made up is none that anything here could act on.
static const struct wire_enum states = {state_names, ARRAY_SIZE(state_names), SANDBOX_ERROR};
static const char *const on_timeout_names[] = {
	"ON_TIMEOUT_UNSPECIFIED", "ON_TIMEOUT_KILL", "ON_TIMEOUT_PAUSE"};
static const struct wire_enum on_timeouts = {
	on_timeout_names, ARRAY_SIZE(on_timeout_names), ON_TIMEOUT_KILL};

// --- what there is

static const struct wire_field phase_fields[] = {
	TEXT(host_phase, name, "name"),
	U64(host_phase, us, "us"),
};
MESSAGE(phase, "Phase", host_phase, phase_fields);

static const struct wire_field sandbox_fields[] = {
	TEXT(host_sandbox, id, "id"),
	TEXT(host_sandbox, template, "template"),
	ENUM(host_sandbox, state, "state", &states),
	U32(host_sandbox, vcpus, "vcpus"),
	U32(host_sandbox, memory_mb, "memoryMb"),
	U64(host_sandbox, disk_mb, "diskMb"),
	U64(host_sandbox, created_ns, "createdNs"),
	U64(host_sandbox, started_ns, "startedNs"),
	U64(host_sandbox, stopped_ns, "stoppedNs"),
	U64(host_sandbox, ends_at_ns, "endsAtNs"),
	ENUM(host_sandbox, on_timeout, "onTimeout", &on_timeouts),
	TEXT(host_sandbox, address, "address"),
	TEXT(host_sandbox, snapshot, "snapshotId"),
	TEXT(host_sandbox, backend, "backend"),
	U64(host_sandbox, generation, "generation"),
	TEXT(host_sandbox, cause, "cause"),
	TEXT(host_sandbox, detail, "detail"),
	U64(host_sandbox, disk_bytes, "diskBytes"),
	{.name = "phases",
		.type = WIRE_ARRAY,
		AT(host_sandbox, phases),
		.count = offsetof(struct host_sandbox, n_phases),
		.message = &phase},
	TEXT(host_sandbox, dns, "dns"),
	TEXT(host_sandbox, agent, "agent"),
	U64(host_sandbox, memory_written_bytes, "memoryWrittenBytes"),
	U64(host_sandbox, memory_kept_bytes, "memoryKeptBytes"),
	BOOL(host_sandbox, agent_silent, "agentSilent"),
	BOOL(host_sandbox, unquiesced, "unquiesced"),
};
MESSAGE(sandbox, "Sandbox", host_sandbox, sandbox_fields);

static const struct wire_field snapshot_fields[] = {
	TEXT(host_snapshot, id, "id"),
	TEXT(host_snapshot, kind, "kind"),
	TEXT(host_snapshot, sandbox, "sandboxId"),
	TEXT(host_snapshot, template, "template"),
	TEXT(host_snapshot, parent, "parentId"),
	U32(host_snapshot, vcpus, "vcpus"),
	U32(host_snapshot, memory_mb, "memoryMb"),
	U64(host_snapshot, disk_mb, "diskMb"),
	U64(host_snapshot, memory_bytes, "memoryBytes"),
	U64(host_snapshot, disk_bytes, "diskBytes"),
	U64(host_snapshot, created_ns, "createdNs"),
};
MESSAGE(snapshot, "Snapshot", host_snapshot, snapshot_fields);

static const struct wire_field template_fields[] = {
	TEXT(host_template, name, "name"),
	TEXT(host_template, kind, "kind"),
	BOOL(host_template, frozen, "frozen"),
	U32(host_template, vcpus, "vcpus"),
	U32(host_template, memory_mb, "memoryMb"),
	U32(host_template, min_memory_mb, "minMemoryMb"),
	U64(host_template, disk_mb, "diskMb"),
	U64(host_template, disk_bytes, "diskBytes"),
	U64(host_template, created_ns, "createdNs"),
	TEXT(host_template, kernel_id, "kernelId"),
};
MESSAGE(template, "Template", host_template, template_fields);

static const struct wire_field runtime_fields[] = {
	TEXT(host_runtime, id, "runtimeId"),
	TEXT(host_runtime, program, "program"),
	TEXT(host_runtime, version, "version"),
	TEXT(host_runtime, package, "package"),
	TEXT(host_runtime, state_format, "stateFormat"),
	BOOL(host_runtime, current, "current"),
	BOOL(host_runtime, denied, "denied"),
	TEXT(host_runtime, refused, "refused"),
	U64(host_runtime, first_ns, "firstNs"),
	U64(host_runtime, last_ns, "lastNs"),
	U64(host_runtime, snapshots, "snapshots"),
	U64(host_runtime, oldest_ns, "oldestNs"),
	U64(host_runtime, newest_ns, "newestNs"),
};
MESSAGE(runtime, "Runtime", host_runtime, runtime_fields);

static const struct wire_field host_fields[] = {
	TEXT(host_info, version, "version"),
	TEXT(host_info, vmm, "vmm"),
	TEXT(host_info, isolation, "isolation"),
	U32(host_info, cpus, "cpus"),
	U64(host_info, memory_mb, "memoryMb"),
	U32(host_info, running, "running"),
	U32(host_info, max_sandboxes, "maxSandboxes"),
	U32(host_info, slots_ready, "slotsReady"),
	U32(host_info, slots_taken, "slotsTaken"),
	U64(host_info, disk_total, "diskTotal"),
	U64(host_info, disk_free, "diskFree"),
	BOOL(host_info, volume_ok, "volumeOk"),
	TEXT(host_info, volume_reason, "volumeReason"),
	BOOL(host_info, draining, "draining"),
	TEXT(host_info, journal_id, "journalId"),
	U64(host_info, last_event, "lastEvent"),
	TEXT(host_info, disk_state, "diskState"),
	U64(host_info, disk_reserve, "diskReserve"),
	U64(host_info, disk_free_inodes, "diskFreeInodes"),
	U64(host_info, pause_bytes, "pauseBytes"),
};
MESSAGE(host, "Host", host_info, host_fields);

static const struct wire_field usage_fields[] = {
	U64(host_usage, total_bytes, "totalBytes"),
	U64(host_usage, free_bytes, "freeBytes"),
	U64(host_usage, sandboxes, "sandboxes"),
	U64(host_usage, sandbox_bytes, "sandboxBytes"),
	U64(host_usage, snapshots, "snapshots"),
	U64(host_usage, snapshot_bytes, "snapshotBytes"),
	U64(host_usage, layers, "layers"),
	U64(host_usage, own_layer_bytes, "ownLayerBytes"),
	U64(host_usage, shared_layer_bytes, "sharedLayerBytes"),
	U64(host_usage, image_bytes, "imageBytes"),
	U64(host_usage, unknown, "unknown"),
	U64(host_usage, unknown_bytes, "unknownBytes"),
	U64(host_usage, used_bytes, "usedBytes"),
	U64(host_usage, images, "images"),
	U64(host_usage, shared_bytes, "sharedBytes"),
	U64(host_usage, program_bytes, "programBytes"),
	U64(host_usage, database_bytes, "databaseBytes"),
	U64(host_usage, pending_bytes, "pendingBytes"),
	U64(host_usage, other_bytes, "otherBytes"),
	U64(host_usage, left_out, "leftOut"),
	BOOL(host_usage, estimated, "estimated"),
};
MESSAGE(usage, "Usage", host_usage, usage_fields);

static const struct wire_field usage_item_fields[] = {
	TEXT(host_usage_item, kind, "kind"),
	TEXT(host_usage_item, id, "id"),
	U64(host_usage_item, bytes, "bytes"),
	U64(host_usage_item, unique_bytes, "uniqueBytes"),
	U64(host_usage_item, frees_bytes, "freesBytes"),
	U64(host_usage_item, memory_bytes, "memoryBytes"),
	U64(host_usage_item, layers, "layers"),
};
MESSAGE(usage_item, "UsageItem", host_usage_item, usage_item_fields);

static const struct wire_field usage_share_fields[] = {
	TEXT(host_usage_share, kind, "kind"),
	TEXT(host_usage_share, id, "id"),
	U64(host_usage_share, bytes, "bytes"),
};
MESSAGE(usage_share, "UsageShare", host_usage_share, usage_share_fields);

static const struct wire_field unknown_fields[] = {
	TEXT(host_unknown, kind, "kind"),
	TEXT(host_unknown, id, "id"),
	U64(host_unknown, bytes, "bytes"),
};
MESSAGE(unknown, "Unknown", host_unknown, unknown_fields);

static const struct wire_field event_fields[] = {
	U64(host_event, seq, "seq"),
	U64(host_event, at_ns, "atNs"),
	TEXT(host_event, sandbox, "sandboxId"),
	TEXT(host_event, kind, "kind"),
	TEXT(host_event, cause, "cause"),
	{.name = "data", .type = WIRE_OBJECT, AT(host_event, data)},
};
MESSAGE(event, "HostEvent", host_event, event_fields);

static const struct wire_field error_fields[] = {
	TEXT(rpc_error, code, "code"),
	TEXT(rpc_error, message, "message"),
};
MESSAGE(error, "ErrorInfo", rpc_error, error_fields);

// --- requests

static const struct wire_field create_fields[] = {
	OPERATION(host_create),
	SANDBOX(host_create),
	FORMED(host_create, template, "template", FORM_NAME, 0),
	U32(host_create, vcpus, "vcpus"),
	U32(host_create, memory_mb, "memoryMb"),
	U64(host_create, disk_mb, "diskMb"),
	U64(host_create, ends_at_ns, "endsAtNs", .max = INT64_MAX),
	ENUM(host_create, on_timeout, "onTimeout", &on_timeouts),
	FORMED(host_create, snapshot, "snapshotId", FORM_UUID, 0),
	BOOL(host_create, cold, "cold"),
	TOKEN(host_create),
	MAP(host_create, env, "env"),
	TEXT(host_create, dns, "dns"),
};
MESSAGE(create, "CreateSandboxRequest", host_create, create_fields);

static const struct wire_field destroy_fields[] = {
	OPERATION(rpc_request),
	SANDBOX(rpc_request),
	FORMED(rpc_request, cause, "cause", FORM_WORD, 0),
	U64(rpc_request, generation, "generation", .max = INT64_MAX),
};
MESSAGE(destroy, "DestroySandboxRequest", rpc_request, destroy_fields);

static const struct wire_field pause_fields[] = {OPERATION(rpc_request), SANDBOX(rpc_request)};
MESSAGE(pause_request, "PauseSandboxRequest", rpc_request, pause_fields);

static const struct wire_field resume_fields[] = {
	OPERATION(host_resume),
	SANDBOX(host_resume),
	BOOL(host_resume, disk_only, "diskOnly"),
	U64(host_resume, ends_at_ns, "endsAtNs", .max = INT64_MAX),
	TOKEN(host_resume),
};
MESSAGE(resume, "ResumeSandboxRequest", host_resume, resume_fields);

static const struct wire_field rollback_fields[] = {
	OPERATION(host_resume),
	SANDBOX(host_resume),
	FORMED(host_resume, from, "snapshotId", FORM_UUID, WIRE_REQUIRED),
	BOOL(host_resume, disk_only, "diskOnly"),
	U64(host_resume, ends_at_ns, "endsAtNs", .max = INT64_MAX),
	TOKEN(host_resume),
};
MESSAGE(rollback, "RollbackSandboxRequest", host_resume, rollback_fields);

static const struct wire_field child_fields[] = {
	OPERATION(host_fork_child),
	SANDBOX(host_fork_child),
	TOKEN(host_fork_child),
	MAP(host_fork_child, env, "env"),
};
MESSAGE(child, "ForkChild", host_fork_child, child_fields);

static const struct wire_field fork_fields[] = {
	OPERATION(rpc_fork),
	SANDBOX(rpc_fork),
	LIST(rpc_fork, children, n, "children", &child, .flags = WIRE_REQUIRED,
		.max = HOST_FORK_MAX),
	U64(rpc_fork, ends_at_ns, "endsAtNs", .max = INT64_MAX),
	ENUM(rpc_fork, on_timeout, "onTimeout", &on_timeouts),
};
MESSAGE(fork_request, "ForkSandboxRequest", rpc_fork, fork_fields);

static const struct wire_field timeout_fields[] = {
	OPERATION(rpc_request),
	SANDBOX(rpc_request),
	U64(rpc_request, ends_at_ns, "endsAtNs", .max = INT64_MAX),
};
MESSAGE(timeout, "SetTimeoutRequest", rpc_request, timeout_fields);

static const struct wire_field on_timeout_fields[] = {
	OPERATION(rpc_request),
	SANDBOX(rpc_request),
	ENUM(rpc_request, on_timeout, "onTimeout", &on_timeouts),
};
MESSAGE(set_on_timeout, "SetOnTimeoutRequest", rpc_request, on_timeout_fields);

static const struct wire_field set_token_fields[] = {
	OPERATION(rpc_request),
	SANDBOX(rpc_request),
	TOKEN(rpc_request),
};
MESSAGE(set_token, "SetTokenRequest", rpc_request, set_token_fields);

static const struct wire_field id_fields[] = {SANDBOX(rpc_request)};
MESSAGE(get, "GetSandboxRequest", rpc_request, id_fields);
MESSAGE(get_figures, "GetFiguresRequest", rpc_request, id_fields);
MESSAGE(get_address, "GetAddressRequest", rpc_request, id_fields);

static const struct wire_field log_fields[] = {
	SANDBOX(rpc_request),
	U64(rpc_request, offset, "offset", .max = INT64_MAX),
};
MESSAGE(read_log, "ReadLogRequest", rpc_request, log_fields);

static const struct wire_field snapshot_create_fields[] = {
	OPERATION(host_snapshot_create),
	FORMED(host_snapshot_create, id, "sandboxId", FORM_SANDBOX, 0),
	FORMED(host_snapshot_create, snapshot, "snapshotId", FORM_UUID, WIRE_REQUIRED),
	FORMED(host_snapshot_create, rewarm, "rewarmId", FORM_UUID, 0),
};
MESSAGE(snapshot_create, "CreateSnapshotRequest", host_snapshot_create, snapshot_create_fields);

static const struct wire_field snapshot_delete_fields[] = {
	OPERATION(rpc_request),
	FORMED(rpc_request, snapshot, "snapshotId", FORM_UUID, WIRE_REQUIRED),
};
MESSAGE(snapshot_delete, "DeleteSnapshotRequest", rpc_request, snapshot_delete_fields);

static const struct wire_field snapshot_check_fields[] = {
	FORMED(rpc_request, snapshot, "snapshotId", FORM_UUID, WIRE_REQUIRED)};
MESSAGE(snapshot_check, "CheckSnapshotRequest", rpc_request, snapshot_check_fields);

static const struct wire_field get_host_fields[] = {
	BOOL(rpc_request, omit_templates, "omitTemplates")};
MESSAGE(get_host, "GetHostRequest", rpc_request, get_host_fields);

static const struct wire_field drain_fields[] = {
	OPERATION(rpc_request),
	BOOL(rpc_request, enabled, "enabled"),
};
MESSAGE(drain, "DrainRequest", rpc_request, drain_fields);

static const struct wire_field watch_fields[] = {
	U64(rpc_request, after, "after", .max = INT64_MAX)};
MESSAGE(watch_events, "WatchEventsRequest", rpc_request, watch_fields);

static const struct wire_field list_events_fields[] = {
	U64(rpc_request, after, "after", .max = INT64_MAX),
	U32(rpc_request, max, "max", .max = RPC_EVENTS_MAX),
	U32(rpc_request, wait_ms, "waitMs", .max = RPC_WAIT_MAX_MS),
};
MESSAGE(list_events, "ListEventsRequest", rpc_request, list_events_fields);

static const struct wire_field remove_unknown_fields[] = {OPERATION(rpc_request)};
MESSAGE(remove_unknown, "RemoveUnknownRequest", rpc_request, remove_unknown_fields);

EMPTY(list_runtimes, "ListRuntimesRequest");
static const struct wire_field deny_runtime_fields[] = {
	OPERATION(rpc_request),
	TEXT(rpc_request, runtime, "runtimeId"),
	BOOL(rpc_request, enabled, "denied"),
};
MESSAGE(deny_runtime, "DenyRuntimeRequest", rpc_request, deny_runtime_fields);

static const struct wire_field ack_fields[] = {U64(rpc_request, upto, "upto", .max = INT64_MAX)};
MESSAGE(ack_events, "AckEventsRequest", rpc_request, ack_fields);

EMPTY(list_sandboxes, "ListSandboxesRequest");
EMPTY(list_snapshots, "ListSnapshotsRequest");
EMPTY(list_templates, "ListTemplatesRequest");
EMPTY(get_metrics, "GetMetricsRequest");
static const struct wire_field get_usage_fields[] = {TEXT(rpc_request, of, "of")};
MESSAGE(get_usage, "GetUsageRequest", rpc_request, get_usage_fields);

// --- answers

static const struct wire_field one_fields[] = {
	PART(rpc_sandbox, sandbox, has, "sandbox", &sandbox)};
MESSAGE(created, "CreateSandboxResponse", rpc_sandbox, one_fields);
MESSAGE(paused, "PauseSandboxResponse", rpc_sandbox, one_fields);
MESSAGE(resumed, "ResumeSandboxResponse", rpc_sandbox, one_fields);
MESSAGE(rolled_back, "RollbackSandboxResponse", rpc_sandbox, one_fields);
MESSAGE(got, "GetSandboxResponse", rpc_sandbox, one_fields);

static const struct wire_field forked_fields[] = {
	TEXT(rpc_forked, id, "sandboxId"),
	PART(rpc_forked, sandbox, ok, "sandbox", &sandbox),
	PART(rpc_forked, error, failed, "error", &error),
};
MESSAGE(forked, "ForkSandboxResponse", rpc_forked, forked_fields);

static const struct wire_field sandboxes_fields[] = {
	LIST(rpc_sandboxes, list, n, "sandboxes", &sandbox)};
MESSAGE(sandboxes, "ListSandboxesResponse", rpc_sandboxes, sandboxes_fields);

static const struct wire_field address_fields[] = {
	TEXT(rpc_text, place.address, "address"),
	BOOL(rpc_text, place.owner_only, "ownerOnly"),
};
MESSAGE(address, "GetAddressResponse", rpc_text, address_fields);

static const struct wire_field log_data_fields[] = {
	{.name = "data", .type = WIRE_BYTES, AT(rpc_text, data)}};
MESSAGE(log_data, "ReadLogResponse", rpc_text, log_data_fields);

static const struct wire_field snapshot_made_fields[] = {
	PART(rpc_snapshot, snapshot, has, "snapshot", &snapshot)};
MESSAGE(snapshot_made, "CreateSnapshotResponse", rpc_snapshot, snapshot_made_fields);

static const struct wire_field snapshots_fields[] = {
	LIST(rpc_snapshots, list, n, "snapshots", &snapshot)};
MESSAGE(snapshots, "ListSnapshotsResponse", rpc_snapshots, snapshots_fields);

static const struct wire_field snapshot_checked_fields[] = {
	BOOL(host_snapshot_check, resumes, "resumes"),
	TEXT(host_snapshot_check, reason, "reason"),
	TEXT(host_snapshot_check, agent, "agent"),
	TEXT(host_snapshot_check, runtime, "runtimeId"),
	TEXT(host_snapshot_check, vmm, "vmm"),
	BOOL(host_snapshot_check, current, "current"),
};
MESSAGE(snapshot_checked, "CheckSnapshotResponse", host_snapshot_check, snapshot_checked_fields);

static const struct wire_field figures_fields[] = {
	ENUM(host_figures, state, "state", &states),
	U64(host_figures, cpu_us, "cpuUs"),
	U64(host_figures, memory_bytes, "memoryBytes"),
	U64(host_figures, disk_bytes, "diskBytes"),
	U64(host_figures, network_received_bytes, "networkReceivedBytes"),
	U64(host_figures, network_sent_bytes, "networkSentBytes"),
	U64(host_figures, faults, "faults"),
	U64(host_figures, loaded_bytes, "loadedBytes"),
};
MESSAGE(figures, "GetFiguresResponse", host_figures, figures_fields);

static const struct wire_field templates_fields[] = {
	LIST(rpc_host, templates, n, "templates", &template)};
MESSAGE(templates, "ListTemplatesResponse", rpc_host, templates_fields);

static const struct wire_field got_host_fields[] = {
	PART(rpc_host, info, has, "host", &host),
	LIST(rpc_host, templates, n, "templates", &template),
};
MESSAGE(got_host, "GetHostResponse", rpc_host, got_host_fields);

static const struct wire_field metrics_fields[] = {
	{.name = "text", .type = WIRE_BUFFER, AT(rpc_text, data)}};
MESSAGE(metrics, "GetMetricsResponse", rpc_text, metrics_fields);

static const struct wire_field events_fields[] = {LIST(rpc_events, list, n, "events", &event)};
MESSAGE(watched, "WatchEventsResponse", rpc_events, events_fields);
MESSAGE(events, "ListEventsResponse", rpc_events, events_fields);

static const struct wire_field got_usage_fields[] = {
	PART(rpc_usage, report.sum, has, "usage", &usage),
	LIST(rpc_usage, report.unknown, report.n_unknown, "unknown", &unknown),
	LIST(rpc_usage, report.items, report.n_items, "items", &usage_item),
	LIST(rpc_usage, report.shares, report.n_shares, "shares", &usage_share),
};
MESSAGE(got_usage, "GetUsageResponse", rpc_usage, got_usage_fields);

static const struct wire_field removed_fields[] = {U64(rpc_removed, n, "removed")};
MESSAGE(removed_unknown, "RemoveUnknownResponse", rpc_removed, removed_fields);

static const struct wire_field runtimes_fields[] = {
	LIST(rpc_runtimes, list, n, "runtimes", &runtime)};
MESSAGE(runtimes, "ListRuntimesResponse", rpc_runtimes, runtimes_fields);

EMPTY(runtime_denied, "DenyRuntimeResponse");
EMPTY(destroyed, "DestroySandboxResponse");
EMPTY(timeout_set, "SetTimeoutResponse");
EMPTY(on_timeout_set, "SetOnTimeoutResponse");
EMPTY(token_set, "SetTokenResponse");
EMPTY(snapshot_deleted, "DeleteSnapshotResponse");
EMPTY(drained, "DrainResponse");
EMPTY(acked, "AckEventsResponse");

const struct wire_message *const rpc_messages[] = {&phase, &sandbox, &snapshot, &template, &host,
	&event, &error, &create, &destroy, &pause_request, &resume, &rollback, &child,
	&fork_request, &timeout, &set_on_timeout, &get, &get_address, &read_log, &snapshot_create,
	&snapshot_delete, &get_host, &drain, &watch_events, &list_events, &ack_events,
	&list_sandboxes, &list_snapshots, &list_templates, &get_metrics, &created, &paused,
	&resumed, &rolled_back, &got, &forked, &sandboxes, &address, &log_data, &snapshot_made,
	&snapshots, &templates, &got_host, &metrics, &watched, &events, &destroyed, &timeout_set,
	&on_timeout_set, &snapshot_deleted, &drained, &acked, &usage, &usage_item, &usage_share,
	&unknown, &snapshot_check, &snapshot_checked, &get_usage, &remove_unknown, &got_usage,
	&removed_unknown, &runtime, &list_runtimes, &runtimes, &deny_runtime, &runtime_denied,
	&get_figures, &figures, &set_token, &token_set, NULL};

#define UNARY(text, in, out)                                                                       \
	{                                                                                          \
		text, "/" RPC_SERVICE "/" text, in, out, false                                     \
	}
#define STREAM(text, in, out)                                                                      \
	{                                                                                          \
		text, "/" RPC_SERVICE "/" text, in, out, true                                      \
	}

const struct rpc_method rpc_methods[RPC_MAX] = {
	[RPC_CREATE_SANDBOX] = UNARY("CreateSandbox", &create, &created),
	[RPC_DESTROY_SANDBOX] = UNARY("DestroySandbox", &destroy, &destroyed),
	[RPC_PAUSE_SANDBOX] = UNARY("PauseSandbox", &pause_request, &paused),
	[RPC_RESUME_SANDBOX] = UNARY("ResumeSandbox", &resume, &resumed),
	[RPC_FORK_SANDBOX] = STREAM("ForkSandbox", &fork_request, &forked),
	[RPC_ROLLBACK_SANDBOX] = UNARY("RollbackSandbox", &rollback, &rolled_back),
	[RPC_SET_TIMEOUT] = UNARY("SetTimeout", &timeout, &timeout_set),
	[RPC_SET_ON_TIMEOUT] = UNARY("SetOnTimeout", &set_on_timeout, &on_timeout_set),
	[RPC_GET_SANDBOX] = UNARY("GetSandbox", &get, &got),
	[RPC_LIST_SANDBOXES] = UNARY("ListSandboxes", &list_sandboxes, &sandboxes),
	[RPC_GET_ADDRESS] = UNARY("GetAddress", &get_address, &address),
	[RPC_READ_LOG] = STREAM("ReadLog", &read_log, &log_data),
	[RPC_CREATE_SNAPSHOT] = UNARY("CreateSnapshot", &snapshot_create, &snapshot_made),
	[RPC_DELETE_SNAPSHOT] = UNARY("DeleteSnapshot", &snapshot_delete, &snapshot_deleted),
	[RPC_LIST_SNAPSHOTS] = UNARY("ListSnapshots", &list_snapshots, &snapshots),
	[RPC_CHECK_SNAPSHOT] = UNARY("CheckSnapshot", &snapshot_check, &snapshot_checked),
	[RPC_LIST_TEMPLATES] = UNARY("ListTemplates", &list_templates, &templates),
	[RPC_GET_HOST] = UNARY("GetHost", &get_host, &got_host),
	[RPC_DRAIN] = UNARY("Drain", &drain, &drained),
	[RPC_GET_METRICS] = UNARY("GetMetrics", &get_metrics, &metrics),
	[RPC_WATCH_EVENTS] = STREAM("WatchEvents", &watch_events, &watched),
	[RPC_LIST_EVENTS] = UNARY("ListEvents", &list_events, &events),
	[RPC_ACK_EVENTS] = UNARY("AckEvents", &ack_events, &acked),
	[RPC_GET_USAGE] = UNARY("GetUsage", &get_usage, &got_usage),
	[RPC_LIST_RUNTIMES] = UNARY("ListRuntimes", &list_runtimes, &runtimes),
	[RPC_DENY_RUNTIME] = UNARY("DenyRuntime", &deny_runtime, &runtime_denied),
	[RPC_GET_FIGURES] = UNARY("GetFigures", &get_figures, &figures),
	[RPC_SET_TOKEN] = UNARY("SetToken", &set_token, &token_set),
	[RPC_REMOVE_UNKNOWN] = UNARY("RemoveUnknown", &remove_unknown, &removed_unknown),
};
