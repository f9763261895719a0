// SPDX-License-Identifier: Apache-2.0
// What a request is about.
#pragma once
#include "control/api/context.h"
#include "control/state/templates.h"

// The id behind what a client calls a sandbox: an id, or a name that the request's key gave (see
// rows_named). Any other text is given back as it is, cut to an id's size.
void find_id(struct control *c, struct http_request *r, const char *text, char ret_id[64]);
// The same for the path's {id}.
void find_path_id(struct control *c, struct http_request *r, char ret_id[64]);
// The same for a filter of what happened, where ids that nobody knows any more are good, and names
// are not: ERR_NOT_FOUND. NULL text gives "".
int find_filter_id(struct control *c, struct http_request *r, const char *text, char ret_id[64],
	struct err *e);
// The id behind what the body of a request calls a sandbox, which must be one that its key sees:
// ERR_NOT_FOUND.
int find_mine(struct control *c, struct http_request *r, const char *text, char ret_id[64],
	struct err *e);
// A snapshot that the request's key sees: its owner's, and a public one unless it is to be changed.
// ERR_NOT_FOUND.
int find_snapshot(struct control *c, const struct http_request *r, const char *name, bool to_change,
	struct template *ret, struct err *e);
int find_none(const char *id, struct err *e); // ERR_NOT_FOUND
// What has ended is the reason: its cause and time go into e, which is set.
void find_say_cause(const struct sandbox_row *row, struct err *e);
// How every call says that a sandbox was there and is not any more: ERR_NOT_FOUND.
int find_say_ended(const struct host_sandbox *ended, struct err *e);
// A row that has not ended; ERR_NOT_FOUND otherwise. Gives a reference.
int find_live(struct control *c, const char *id, struct sandbox_row **ret, struct err *e);
// The same, and its create is done; ERR_CONFLICT otherwise.
int find_ready(struct control *c, const char *id, struct sandbox_row **ret, struct err *e);
// The host's view of a row, or its last report. What the host does not have (any more) is judged by
// the reconciler; where the host does not answer the state is SANDBOX_UNREACHABLE.
int find_report(
	struct control *c, struct sandbox_row *row, struct host_sandbox *ret, struct err *e);
// A row that is ready and, as the host says, has not ended either.
int find_running(struct control *c, const char *id, struct sandbox_row **ret,
	struct host_sandbox *ret_now, struct err *e);
// As much as is known without the host.
void find_unreachable(const struct sandbox_row *row, struct host_sandbox *ret);
// An image of that name: 1 found, 0 not. *ret_n, which may be NULL, is how many there are.
int find_base(struct control *c, const char *name, struct host_template *ret, size_t *ret_n,
	struct err *e);
