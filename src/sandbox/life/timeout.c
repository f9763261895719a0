// SPDX-License-Identifier: Apache-2.0
// When a sandbox ends by itself, and how. A setting, not an operation: it is taken while another
// operation is under way, and the last one counts.
#include "sandbox/life/still.h"
#include "sandbox/table/bells.h"
#include "sandbox/table/claim.h"
#include "sandbox/table/store.h"

static int set_time(struct host *h, const char *op_id, const char *id, const uint64_t *ends_at_ns,
	const enum on_timeout *on_timeout, struct err *e)
{
	char state[8], of[64];
	if (!id_is_uuid(op_id))
		return err_set(e, ERR_INVALID, "bad operation id");
	int rc = store_op_find(h, op_id, state, of, NULL, e);
	if (rc < 0)
		return rc;
	if (state[0] && !str_eq(of, id))
		return err_set(e, ERR_CONFLICT, "operation id was used for sandbox '%s'", of);
	if (state[0])
		return 0;
	pthread_mutex_lock(&h->lock);
	const struct sandbox *s = host_find(h, id);
	enum sandbox_state now = s && !s->hidden && !s->removed ? s->info.state : SANDBOX_STATE_MAX;
	pthread_mutex_unlock(&h->lock);
	bool fits = now == SANDBOX_RUNNING || now == SANDBOX_PAUSING ||
		    (on_timeout && (now == SANDBOX_PAUSED || now == SANDBOX_RESUMING));
	if (now == SANDBOX_STATE_MAX)
		return err_set(e, ERR_NOT_FOUND, "no sandbox '%s'", id);
	if (!fits)
		return err_set(e, ERR_CONFLICT, "sandbox '%s' is %s", id, sandbox_state_name(now));
	const struct store_event ev = {.kind = on_timeout ? "on_timeout_set" : "timeout_set"};
	rc = store_set_time(h, op_id, id, ends_at_ns, on_timeout, &ev, e);
	pthread_mutex_lock(&h->lock);
	struct sandbox *held = rc == 0 ? host_find(h, id) : NULL;
	if (held && held->held)
		still_retry(h, held, true); // it may have time again
	pthread_mutex_unlock(&h->lock);
	monitor_wake(h);
	return rc;
}

int host_set_timeout(
	struct host *h, const char *op_id, const char *id, uint64_t ends_at_ns, struct err *e)
{
	return set_time(h, op_id, id, &ends_at_ns, NULL, e);
}

int host_set_on_timeout(struct host *h, const char *op_id, const char *id,
	enum on_timeout on_timeout, struct err *e)
{
	return set_time(h, op_id, id, NULL, &on_timeout, e);
}
