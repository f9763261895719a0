// SPDX-License-Identifier: Apache-2.0
// What the parts of envd share: the settings that /init makes, and the routes.
#pragma once
#include <net/if.h>
#include <netinet/in.h>
#include <pthread.h>
#include "envd/process/path.h"
#include "envd/process/process.h"
#include "envd/process/users.h"
#include "http/server.h"

// Clients choose their dialect by this number (protocol page, A.7). 0.6.0 promises what is here but
// for two things, which are refused with a reason: gzip uploads (asked for since 0.5.7, only by
// clients told to) and watchers. File metadata starts at 0.6.2.
#define ENVD_VERSION "0.6.0"

#define ROUTE_PUBLIC 1u // no token needed
#define ROUTE_OWN 2u	// the handler checks the token: /init, which sets it
#define ROUTE_HOST 4u	// for the host alone, see struct agent_host
#define ROUTE_ANY 8u	// what no other route takes

// Who may call /init, /freeze and /thaw: that peer, over that interface. Traffic through the edge
// has the same address; the edge lets none of these calls through. Programs in the guest come over
// another interface, whatever address they call.
struct agent_host {
	struct in_addr peer;
	char interface[IF_NAMESIZE]; // "": anybody, by hand
};

struct agent {
	pthread_mutex_t lock; // guards the settings below
	char *token;	      // NULL: closed, until the first /init sets one
	json_t *env;	      // replaced as a whole, never changed: readers keep a reference
	char *default_user, *default_workdir; // NULL: not set
	uint64_t last_init_ns;		      // newest timestamp seen
	uint64_t cpu_busy, cpu_total;	      // at the last /metrics
	struct process_table *processes;
	bool set_clock; // obey /init's timestamp
	bool as_root;	// we can become other users
	bool guest;	// the machine is ours: a resume ends its connections and runs its hooks
	int clock_ppm;	// that the clock's rate was last set for
	const char *state_file; // NULL: nothing outlives us (settings.h)
	struct agent_host host;
	char instance[17]; // new with each start: the host sees that it talks to another one
	pthread_mutex_t resume_lock; // one resume after the other; taken before lock
};

extern const struct http_route agent_routes[];
extern const size_t agent_n_routes;
// Hooks for the server's configuration.
bool agent_before(struct http_request *req, const struct http_route *route, void *ctx);
void agent_format_error(
	struct http_request *req, int status, const struct err *e, struct strbuf *out);

// The user of that name, the default one for NULL or "". ERR_UNAUTHENTICATED when unknown.
int agent_find_user(
	struct agent *a, const struct users *u, const char *name, struct user *ret, struct err *e);
// A new reference; never NULL.
json_t *agent_env(struct agent *a);
// path as path_resolve has it, with the default directory of /init.
int agent_resolve_path(struct agent *a, const char *path, const struct user *user,
	char out[PATH_SIZE], struct err *e);
// Missing directories of an absolute path up to the last component (not included), 0755, owned by
// user.
int agent_make_parents(struct agent *a, const char *path, const struct user *user, struct err *e);

int agent_make_dir(struct agent *a, const char *path, const struct user *user, struct err *e);
// {"code": code, "message": e->text}, whatever bytes that has, and the reason where there is one.
void agent_add_error(struct strbuf *out, const char *code, const struct err *e);

// Handlers, by file.
void files_get(struct http_request *req, void *ctx);
void files_post(struct http_request *req, void *ctx);
int files_post_body(struct http_request *req, void *ctx, const void *data, size_t len);
void init_post(struct http_request *req, void *ctx);
void freeze_post(struct http_request *req, void *ctx);
void thaw_post(struct http_request *req, void *ctx);
void rpc_process_unary(struct http_request *req, void *ctx);
void rpc_process_start(struct http_request *req, void *ctx);
void rpc_process_connect(struct http_request *req, void *ctx);
void rpc_filesystem_unary(struct http_request *req, void *ctx);
