// SPDX-License-Identifier: Apache-2.0
// What the files of this room share.
#pragma once
#include <pthread.h>
#include <stdatomic.h>
#include "base/embed.h"
#include "control/control.h"
#include "base/db.h"
#include "control/edge.h"
#include "control/feed.h"
#include "control/keys.h"
#include "control/rows.h"
#include "control/stats.h"
#include "control/templates.h"
#include "http/server.h"

#define MAX_TIMEOUT_SEC 2592000 // 30 days
#define NAME_RULE "must be 1-63 of a-z, 0-9, '.', '_', '-' and start with a letter or digit"

// Flags of routes.
#define ROUTE_PUBLIC 1u // needs no key
#define ROUTE_EDGE 2u	// for nginx alone: needs the edge's key, not in the OpenAPI description

struct control {
	struct hostagent host;
	char *data_dir, *run_dir, *listen, *domain, *socket;
	int lock_fd;
	struct db *db;
	struct keys *keys;
	struct rows *rows;
	struct templates *templates;
	struct feed *feed;
	char edge_key[65]; // tells nginx's sub-requests from what clients send
	struct stats *stats;
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
void sandboxes_set_timeout(struct http_request *r, void *ctx);
void sandboxes_logs(struct http_request *r, void *ctx);
// A row that has not ended; ERR_NOT_FOUND otherwise. Gives a reference.
int sandboxes_find_live(struct control *c, const char *id, struct row **ret, struct err *e);
// The same, and its create is done; ERR_CONFLICT otherwise.
int sandboxes_find_ready(struct control *c, const char *id, struct row **ret, struct err *e);
// The host's view of a row, or its last report. Notes an end that is seen here first.
int sandboxes_report(struct control *c, struct row *row, struct host_sandbox *ret, struct err *e);
// Asks the host about all rows and drops those that ended long ago.
void sandboxes_reconcile(struct control *c);

json_t *sandboxes_json(const struct row *row, const struct host_sandbox *s);
void sandboxes_reply(
	struct http_request *r, int status, const struct row *row, const struct host_sandbox *s);
// Fields that several calls have; either map may be NULL.
int sandboxes_check_maps(json_t *env, json_t *metadata, struct err *e);
int sandboxes_parse_on_timeout(const char *text, enum on_timeout *ret, struct err *e);
uint64_t sandboxes_ends_at(uint64_t timeout_sec); // from now; 0 for 0
// An image of that name: 1 found, 0 not. *ret_n, which may be NULL, is how many there are.
int sandboxes_find_base(struct control *c, const char *name, struct host_template *ret,
	size_t *ret_n, struct err *e);
// What follows the host's answer to a create: it is confirmed (and undone when that fails), or
// dropped.
int sandboxes_confirm(struct control *c, struct row *row, struct err *e);
void sandboxes_drop(struct control *c, struct row *row, const struct err *reason);

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
// Finishes or drops what a crash or a failing host left half done, and has the host delete what
// nobody names.
void snapshots_reconcile(struct control *c);

// exec.c
void exec_run(struct http_request *r, void *ctx);

// events.c
void events_list(struct http_request *r, void *ctx);

// route.c
void route_auth(struct http_request *r, void *ctx);
void route_refuse(struct http_request *r, void *ctx);
int route_drop_body(struct http_request *r, void *ctx, const void *data, size_t len);
