// SPDX-License-Identifier: Apache-2.0
// What the files of this room share.
#pragma once
#include <pthread.h>
#include <stdatomic.h>
#include "base/embed.h"
#include "control/control.h"
#include "base/db.h"
#include "control/edge/edge.h"
#include "control/engine/engine.h"
#include "control/state/feed.h"
#include "control/state/keys.h"
#include "control/state/rows.h"
#include "control/api/stats.h"
#include "control/state/templates.h"
#include "http/server.h"

#define MAX_TIMEOUT_SEC 2592000 // 30 days
#define ROUTE_WAITS_MAX 512	// calls of /wait at once: half of the connections
#define NAME_RULE "must be 1-63 of a-z, 0-9, '.', '_', '-' and start with a letter or digit"

// Flags of routes.
#define ROUTE_PUBLIC 1u // needs no key
#define ROUTE_EDGE 2u	// for nginx alone: needs the edge's key, not in the OpenAPI description

struct control {
	struct hostagent host;
	char *data_dir, *run_dir, *listen, *domain, *socket;
	int lock_fd, run_lock_fd;
	struct db *db;
	struct keys *keys;
	struct rows *rows;
	struct templates *templates;
	struct operations *operations;
	struct engine engine;
	pthread_t watcher; // applies events
	bool watcher_runs;
	struct feed *feed;
	atomic_uint waits; // calls of /wait
	char edge_key[65]; // tells nginx's sub-requests from what clients send
	struct stats *stats;
	struct agents *agents;
	struct http_server *http;
	struct edge *edge;
	pthread_t keeper;
	bool keeper_runs;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	bool stopping; // under lock
};

extern const struct embed control_migrations[];
extern const struct embed control_openapi[];
extern const struct http_route control_routes[];
extern const size_t control_n_routes;

// control.c
// Looks at the host and applies what follows.
void control_reconcile(struct control *c);

// api.c
bool control_before(struct http_request *r, const struct http_route *route, void *ctx);
void control_done(struct http_request *r, int status, uint64_t duration_ns, void *ctx);
json_t *control_json_time(uint64_t realtime_ns); // RFC 3339, null for 0
json_t *control_json_or_null(const char *text);	 // null for ""
json_t *control_json_phases(const struct host_sandbox *s);

// sandboxes.c
void sandboxes_create(struct http_request *r, void *ctx);
void sandboxes_list(struct http_request *r, void *ctx);
void sandboxes_get(struct http_request *r, void *ctx);
void sandboxes_delete(struct http_request *r, void *ctx);
void sandboxes_update(struct http_request *r, void *ctx);
void sandboxes_set_timeout(struct http_request *r, void *ctx);
void sandboxes_logs(struct http_request *r, void *ctx);
// The id behind what a client calls a sandbox: an id, or a name that the request's key gave (see
// rows_named). Any other text is given back as it is, cut to an id's size.
void sandboxes_resolve(
	struct control *c, struct http_request *r, const char *text, char ret_id[64]);
// The same for the path's {id}.
void sandboxes_path_id(struct control *c, struct http_request *r, char ret_id[64]);
// The same for a filter of what happened, where ids that nobody knows any more are good, and names
// are not: ERR_NOT_FOUND. NULL text gives "".
int sandboxes_resolve_filter(struct control *c, struct http_request *r, const char *text,
	char ret_id[64], struct err *e);
// The id of the request's key.
int control_key_id(
	struct control *c, struct http_request *r, char ret_id[UUID_SIZE], struct err *e);
// What has ended is the reason: its cause and time go into e, which is set.
void sandboxes_say_cause(const struct row *row, struct err *e);
// How every call says that a sandbox was there and is not any more: ERR_NOT_FOUND.
int sandboxes_say_ended(const struct host_sandbox *ended, struct err *e);
// A row that has not ended; ERR_NOT_FOUND otherwise. Gives a reference.
int sandboxes_find_live(struct control *c, const char *id, struct row **ret, struct err *e);
// The same, and its create is done; ERR_CONFLICT otherwise.
int sandboxes_find_ready(struct control *c, const char *id, struct row **ret, struct err *e);
// The host's view of a row, or its last report. What the host does not have (any more) is judged by
// the reconciler; where the host does not answer the state is SANDBOX_UNREACHABLE.
int sandboxes_report(struct control *c, struct row *row, struct host_sandbox *ret, struct err *e);
#define SANDBOX_UNREACHABLE SANDBOX_STATE_MAX
const char *sandboxes_state_name(enum sandbox_state s);

json_t *sandboxes_json(const struct row *row, const struct host_sandbox *s);
void sandboxes_reply(
	struct http_request *r, int status, const struct row *row, const struct host_sandbox *s);
// The newest of all states, an array: the list without HTTP. NULL on error.
json_t *sandboxes_page(struct control *c, size_t max, struct err *e);
// Names of the state filter, comma-joined; ret has one flag a state, the last for unreachable.
int sandboxes_read_states(const char *text, bool ret[SANDBOX_STATE_MAX + 1], struct err *e);
// Fields that several calls have; either map may be NULL.
int sandboxes_check_maps(json_t *env, json_t *metadata, struct err *e);
int sandboxes_parse_on_timeout(const char *text, enum on_timeout *ret, struct err *e);
uint64_t sandboxes_ends_at(uint64_t timeout_sec); // from now; 0 for 0
// An image of that name: 1 found, 0 not. *ret_n, which may be NULL, is how many there are.
int sandboxes_find_base(struct control *c, const char *name, struct host_template *ret,
	size_t *ret_n, struct err *e);
// wait.c
void sandboxes_wait(struct http_request *r, void *ctx);

// lifecycle.c
void lifecycle_pause(struct http_request *r, void *ctx);
void lifecycle_resume(struct http_request *r, void *ctx);
void lifecycle_fork(struct http_request *r, void *ctx);

// snapshots.c
void snapshots_create(struct http_request *r, void *ctx);
void snapshots_list(struct http_request *r, void *ctx);
void snapshots_get(struct http_request *r, void *ctx);
void snapshots_delete(struct http_request *r, void *ctx);
void snapshots_list_templates(struct http_request *r, void *ctx); // images too
json_t *snapshots_json(const struct template *t);

// work.c: an operation over HTTP
// Reads the Idempotency-Key. 1: the request was answered as an earlier one with that key was (or
// refused), and the caller is done. body may be NULL.
int work_key(struct control *c, struct http_request *r, json_t *body, struct task *t);
// The same for calls that cannot take one: their answer is not kept.
int work_refuse_key(struct http_request *r, const char *why);
// Begins; 1 when it was answered, as above.
int work_begin(struct control *c, struct http_request *r, struct task *t, const struct row_new *new,
	size_t n, struct err *e);
void work_reply(struct http_request *r, struct task *t);
// Begins, asks, finishes, answers.
void work_run(struct control *c, struct http_request *r, struct task *t);
// The body of the answer (NULL: none), a function of the task alone.
json_t *task_answer(const struct task *t, int *ret_status);
json_t *task_child_answer(const struct task *t, size_t i);
// Tokens are not kept with an answer: they follow from the ids.
void task_hide_tokens(json_t *body);
void operations_list_get(struct http_request *r, void *ctx);
void operations_get_one(struct http_request *r, void *ctx);
void work_reconcile(struct http_request *r, void *ctx);

// api.c
const char *control_request_key(struct http_request *r);

// exec.c
void exec_run(struct http_request *r, void *ctx);

// events.c
void events_list(struct http_request *r, void *ctx);

// route.c
void route_auth(struct http_request *r, void *ctx);
void route_refuse(struct http_request *r, void *ctx);
int route_drop_body(struct http_request *r, void *ctx, const void *data, size_t len);
