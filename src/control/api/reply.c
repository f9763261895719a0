// SPDX-License-Identifier: Apache-2.0
#include "control/api/reply.h"
#include "control/api/caller.h"
#include "control/state/render.h"

// Seconds. A place is free as soon as any sandbox ends; a host that is silent is looked at every
// ten.
#define RETRY_LIMIT "1"
#define RETRY_UNAVAILABLE "5"

void reply_retry_after(struct http_request *r, int status)
{
	if (http_reply_get(r, "Retry-After"))
		return;
	if (status == err_info(ERR_LIMIT)->http_status)
		http_reply_header(r, "Retry-After", RETRY_LIMIT);
	else if (status == err_info(ERR_UNAVAILABLE)->http_status)
		http_reply_header(r, "Retry-After", RETRY_UNAVAILABLE);
}

void reply_error(struct http_request *r, const struct err *e)
{
	reply_retry_after(r, err_info(e->code)->http_status);
	http_reply_error(r, e);
}

void reply_sandbox(struct http_request *r, int status, const struct sandbox_row *row,
	const struct host_sandbox *s)
{
	json_t *j = render_sandbox(row, s);
	if (j) {
		caller_hide(r, j);
		http_reply_json(r, status, j);
		return;
	}
	struct err e = {0};
	err_set(&e, ERR_INTERNAL, "sandbox %s cannot be shown", row->id);
	reply_error(r, &e);
}
