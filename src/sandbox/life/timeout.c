// SPDX-License-Identifier: Apache-2.0
// When a sandbox ends by itself, and how.
#include "sandbox/table/bells.h"
#include "sandbox/table/claim.h"
#include "sandbox/table/store.h"

// One of the two settings of a time-out that the monitor goes by: ends_at_ns or on_timeout,
// whichever is given. They are in the row before they count.
static int set_timeout(struct host *h, const char *op_id, const char *id,
	const uint64_t *ends_at_ns, const enum on_timeout *on_timeout, struct err *e)
{
	struct sandbox copy;
	pthread_mutex_lock(&h->lock);
	struct sandbox *s = host_find(h, id);
	int rc = 0;
	bool fits = s && (s->info.state == SANDBOX_RUNNING ||
				 (on_timeout && s->info.state == SANDBOX_PAUSED));
	if (!s || (on_timeout && s->hidden))
		rc = err_set(e, ERR_NOT_FOUND, "no sandbox '%s'", id);
	else if (!fits || s->operation)
		rc = err_set(e, ERR_CONFLICT, "sandbox '%s' is %s", id,
			s->operation ? s->operation : sandbox_state_name(s->info.state));
	if (rc == 0) {
		s->operation = on_timeout ? "set_on_timeout" : "set_timeout";
		copy = *s;
	}
	pthread_mutex_unlock(&h->lock);
	if (rc < 0)
		return rc;
	if (ends_at_ns)
		copy.info.ends_at_ns = *ends_at_ns;
	if (on_timeout)
		copy.info.on_timeout = *on_timeout;
	struct store_event ev = {.kind = on_timeout ? "on_timeout_set" : "timeout_set"};
	rc = store_commit(h, op_id, &copy, &ev, e);
	pthread_mutex_lock(&h->lock);
	if (rc == 0) {
		s->info.ends_at_ns = copy.info.ends_at_ns;
		s->info.on_timeout = copy.info.on_timeout;
	}
	host_release(h, s);
	pthread_mutex_unlock(&h->lock);
	monitor_wake(h);
	return rc;
}

int host_set_timeout(
	struct host *h, const char *op_id, const char *id, uint64_t ends_at_ns, struct err *e)
{
	return set_timeout(h, op_id, id, &ends_at_ns, NULL, e);
}

int host_set_on_timeout(struct host *h, const char *op_id, const char *id,
	enum on_timeout on_timeout, struct err *e)
{
	int told = operation_told(h, op_id, id, e);
	if (told != 0)
		return MIN(told, 0);
	return set_timeout(h, op_id, id, NULL, &on_timeout, e);
}
