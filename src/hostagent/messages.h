// SPDX-License-Identifier: Apache-2.0
// The messages and methods of proto/hostagent.proto as C structs and tables; a test compares them
// with the file. The shapes that both sides know are those of sandbox/types.h.
#pragma once
#include "hostagent/wire.h"
#include "sandbox/types.h"

#define RPC_SERVICE "stasis.host.v1.HostAgent"
#define RPC_ERROR_INFO "stasis.host.v1.ErrorInfo"
#define RPC_MAX_BODY (1u << 20)
#define RPC_EVENTS_DEFAULT 100u
#define RPC_EVENTS_MAX 1000u
#define RPC_WAIT_MAX_MS 60000u

enum rpc {
	RPC_CREATE_SANDBOX,
	RPC_DESTROY_SANDBOX,
	RPC_PAUSE_SANDBOX,
	RPC_RESUME_SANDBOX,
	RPC_FORK_SANDBOX,
	RPC_ROLLBACK_SANDBOX,
	RPC_SET_TIMEOUT,
	RPC_SET_ON_TIMEOUT,
	RPC_GET_SANDBOX,
	RPC_LIST_SANDBOXES,
	RPC_GET_ADDRESS,
	RPC_READ_LOG,
	RPC_CREATE_SNAPSHOT,
	RPC_DELETE_SNAPSHOT,
	RPC_LIST_SNAPSHOTS,
	RPC_CHECK_SNAPSHOT,
	RPC_LIST_TEMPLATES,
	RPC_GET_HOST,
	RPC_DRAIN,
	RPC_GET_METRICS,
	RPC_WATCH_EVENTS,
	RPC_LIST_EVENTS,
	RPC_ACK_EVENTS,
	RPC_GET_USAGE,
	RPC_REMOVE_UNKNOWN,
	RPC_LIST_RUNTIMES,
	RPC_DENY_RUNTIME,
	RPC_GET_FIGURES,
	RPC_SET_TOKEN,
	RPC_MAX,
};

struct rpc_method {
	const char *name;
	const char *path; // "/stasis.host.v1.HostAgent/CreateSandbox"
	const struct wire_message *in, *out;
	bool stream; // of answers
};
extern const struct rpc_method rpc_methods[RPC_MAX];
// All messages, each after those that it holds; NULL-terminated.
extern const struct wire_message *const rpc_messages[];

// --- errors (errors.c): {"code", "message", "details": [ErrorInfo]}

// e unset: an internal error without a reason. NULL when out of memory.
json_t *rpc_error_json(const struct err *e);
// HTTP status of the Connect code (not that of the REST API, which is finer).
int rpc_error_status(const struct err *e);
// Sets *e from an error object, or from the status alone when there is none (error NULL). Returns
// the negative errno of the code.
int rpc_error_read(json_t *error, int http_status, struct err *e);

// --- what has no struct in sandbox/types.h

// The small requests; each message uses some of the members.
struct rpc_request {
	char op_id[UUID_SIZE];
	char id[64];
	char snapshot[UUID_SIZE];
	char cause[64];
	char of[64]; // of GetUsage
	char runtime[40];
	uint64_t ends_at_ns, after, upto, offset, generation;
	unsigned max, wait_ms;
	bool enabled, omit_templates;
	enum on_timeout on_timeout;
	const char *token; // of SetToken
};

struct rpc_fork {
	char op_id[UUID_SIZE];
	char id[SANDBOX_ID_SIZE];
	struct host_fork_child *children;
	size_t n;
	uint64_t ends_at_ns;
	enum on_timeout on_timeout;
};

struct rpc_error {
	char code[32];
	char message[1000];
};

struct rpc_forked {
	char id[64];
	bool ok, failed;
	struct host_sandbox sandbox;
	struct rpc_error error;
};

struct rpc_sandbox {
	struct host_sandbox sandbox;
	bool has;
};

struct rpc_snapshot {
	struct host_snapshot snapshot;
	bool has;
};

struct rpc_sandboxes {
	struct host_sandbox *list;
	size_t n;
};

struct rpc_snapshots {
	struct host_snapshot *list;
	size_t n;
};

struct rpc_host {
	struct host_info info;
	bool has;
	struct host_template *templates;
	size_t n;
};

struct rpc_runtimes {
	struct host_runtime *list;
	size_t n;
};

struct rpc_events {
	struct host_event *list;
	size_t n;
};

struct rpc_usage {
	struct host_usage_report report;
	bool has;
};

struct rpc_removed {
	uint64_t n;
};

struct rpc_text {
	struct host_place place;
	struct strbuf data;
};
