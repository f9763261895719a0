// SPDX-License-Identifier: Apache-2.0
// The way to the server: finding it and its key, REST calls, and the guest's agent behind its edge.
#pragma once
#include "agentclient/client.h"
#include "cli/base/alive.h"
#include "cli/base/command.h"
#include "http/client.h"

// Finds URL and key (flag, environment, the local server's) and makes c->http. Idempotent.
int api_open(struct cli *c, struct err *e);
void api_close(struct cli *c);
// One call with a JSON body (NULL: none; borrowed). Any answer but 2xx is the server's error, with
// its reason and cause. *ret
// (may be NULL) is owned by the caller; NULL for an empty answer.
int api_call(struct cli *c, const char *method, const char *path, json_t *body, json_t **ret,
	struct err *e);
// The same for what may take seconds: on a terminal, what is shown meanwhile.
int api_call_slow(struct cli *c, const char *method, const char *path, json_t *body,
	const char *what, json_t **ret, struct err *e);
// The same with all of http_call at hand (time-out, progress, streaming download); call's path,
// method and body are set by the caller.
int api_call_with(struct cli *c, const struct http_call *call, json_t **ret, struct err *e);
// "/v1/sandboxes/<id>suffix" of an id or a name, which the server looks up. Owned by the caller.
int api_sandbox_path(const char *id, const char *suffix, char **ret, struct err *e);

// A sandbox's agent through the edge. Own client, so that it can be used beside others.
struct guest {
	struct http_client *http;
	struct envd_target target;
	struct alive *alive; // that the calls of target and of guest_call ask
	char *id, *token, *user;
	char since[40]; // the server's time at which it was started last; "" when it does not say
	uint64_t memory_mb; // of the sandbox; 0: not known
};
// By id or name. What has ended is ERR_NOT_FOUND with e->cause, what does not run ERR_CONFLICT.
int guest_open(struct cli *c, const char *id, const char *user, struct guest *ret, struct err *e);
// A second connection to the same agent, for another thread or during a stream.
int guest_dup(struct cli *c, const struct guest *g, struct guest *ret, struct err *e);
// One call to the agent's own paths ("/files?..."); credentials are added, an answer that is not
// 2xx becomes the error. *ret (may be NULL) is owned by the caller.
int guest_call(struct guest *g, const struct http_call *call, json_t **ret, struct err *e);
void guest_done(struct guest *g);
#define _cleanup_guest_ _cleanup_(guest_done)
