// SPDX-License-Identifier: Apache-2.0
// An operation is done once: asked for again, also after a restart, it has the same answer.
#include <string.h>
#include "base/clock.h"
#include "sandbox/table/claim.h"
#include "sandbox/table/store.h"

#define SOON_OVER_MS 10000
#define SETTLED_MS 500 // what a start has to settle of most takes milliseconds

static int not_settled(const char *id, struct err *e)
{
	return err_set(e, ERR_UNAVAILABLE,
		"sandbox '%s' is not settled yet since the server's start: ask again", id);
}

int operation_told(struct host *h, const char *op_id, const char *id, struct err *e)
{
	char state[8], sandbox[64];
	struct err failed = {0};
	if (!id_is_uuid(op_id))
		return err_set(e, ERR_INVALID, "bad operation id");
	// Where the same operation is at work in another thread, its answer is ours too. What a
	// start has to settle may take as long as its VMM: nobody waits for that.
	pthread_mutex_lock(&h->lock);
	struct sandbox *s;
	while ((s = host_find(h, id)) && s->operation && str_eq(s->op_id, op_id) && !s->unsettled)
		pthread_cond_wait(&h->changed, &h->lock);
	bool unsettled = s && s->unsettled && str_eq(s->op_id, op_id);
	pthread_mutex_unlock(&h->lock);
	if (unsettled)
		return not_settled(id, e);
	int rc = store_op_find(h, op_id, state, sandbox, &failed, e);
	if (rc < 0)
		return rc;
	if (state[0] && !str_eq(sandbox, id))
		return err_set(e, ERR_CONFLICT, "operation id was used for sandbox '%s'", sandbox);
	if (err_is_set(&failed))
		return err_set(e, failed.code, "%s", failed.text);
	return str_eq(state, "done");
}

// What upkeep and merge do with a sandbox under their claim is short: a file is read or replaced.
// So is the rest of an operation whose end has been told already, in the sandbox's state.
static bool is_soon_over(const struct sandbox *s)
{
	static const struct {
		const char *operation;
		enum sandbox_state end;
	} ends[] = {{"pause", SANDBOX_PAUSED}, {"resume", SANDBOX_RUNNING},
		{"create", SANDBOX_RUNNING}};
	if (str_eq(s->operation, "upkeep") || str_eq(s->operation, "merge") ||
		str_eq(s->operation, SILENT_OPERATION))
		return true;
	for (size_t i = 0; i < ARRAY_SIZE(ends); i++)
		if (str_eq(s->operation, ends[i].operation) && s->info.state == ends[i].end)
			return true;
	return false;
}

static int wait_ms(const struct sandbox *s)
{
	if (str_eq(s->operation, "recover"))
		return SETTLED_MS;
	return is_soon_over(s) ? SOON_OVER_MS : 0;
}

static struct sandbox *find_idle(struct host *h, const char *id)
{
	const uint64_t since = clock_monotonic_ns();
	struct sandbox *s;
	int ms;
	while ((s = host_find(h, id)) && s->operation && !s->ending && (ms = wait_ms(s)) > 0) {
		s->wanted = str_eq(s->operation, SILENT_OPERATION);
		if (cond_wait_until(&h->changed, &h->lock, since + (uint64_t)ms * NSEC_PER_MSEC) !=
			0)
			break;
	}
	return s;
}

int sandbox_claim(struct host *h, const char *op_id, const char *id, const char *operation,
	unsigned states, struct sandbox **ret_s, struct host_sandbox *ret, struct err *e)
{
	int told = operation_told(h, op_id, id, e);
	if (told < 0)
		return told;
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&h->lock);
	struct sandbox *s = find_idle(h, id);
	if (!s || s->hidden)
		return err_set(e, ERR_NOT_FOUND, "no sandbox '%s'", id);
	if (told) {
		*ret = s->info;
		return 1;
	}
	if (s->ending || s->removed)
		return err_set(e, ERR_CONFLICT, "sandbox '%s' is being removed", id);
	if (s->operation && str_eq(s->operation, "recover"))
		return not_settled(id, e);
	if (s->operation)
		return err_set(
			e, ERR_CONFLICT, "sandbox '%s' is busy: %s is under way", id, s->operation);
	if (!(states & 1u << s->info.state))
		return err_set(e, ERR_CONFLICT, "sandbox '%s' is %s", id,
			sandbox_state_name(s->info.state));
	s->operation = operation;
	snprintf(s->op_id, sizeof s->op_id, "%s", op_id);
	s->info.n_phases = 0;
	s->info.memory_written_bytes = s->info.memory_kept_bytes = 0;
	*ret_s = s;
	return 0;
}
