// SPDX-License-Identifier: Apache-2.0
// How this works. The engine and the reconciler of the control plane, on a database in memory, with
// a model of the host: everything in one thread, by one seed. A history is some dozens of steps,
// each chosen at random: a client asks for something, an operation goes one step on (begun, asked,
// finished), a reply is lost after the work was done, a request arrives late, either side is
// restarted, the network or the volume goes and comes, a guest dies, a look at the host is taken
// and applied later. Then all is healed, everything is given the time to settle, and the invariants
// are checked.
//
//	test_simulation			many seeds, then each of the mistakes that must be found
//	test_simulation SEED [mistake]	one history, told step by step
//	test_simulation bench [SECONDS]	histories per second
#include <malloc.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "base/embed.h"
#include "control/engine/catchup.h"
#include "control/engine/run.h"
#include "control/engine/start.h"
#include "control/engine/upkeep.h"

extern const struct embed control_migrations[];

#define MAX_BOXES 48
#define MAX_OPS 400
#define MAX_LATE 32
#define MAX_TASKS 4
#define MAX_EVENTS 400
#define MAX_SNAPSHOTS 32
#define MAX_KEYS 8
#define STEPS 60
#define TRIES 20000 // until a mistake must have been found
#define API_KEY "00000000-0000-4000-8000-000000000001"

// --- the model host: what is durable there

struct box {
	char id[64];
	enum sandbox_state state; // running, paused, stopped
	uint64_t generation;
	char cause[64];
	bool forgotten; // ended, and not told of any more
	bool foreign;	// no operation made it
	bool acked;	// its create was
	enum on_timeout on_timeout;
};

struct host_op { // what the host's journal remembers
	char id[UUID_SIZE], target[64];
	unsigned runs; // successes
	bool late;
};

enum call {
	CREATE,
	DESTROY,
	PAUSE,
	RESUME,
	FORK,
	SNAPSHOT,
	SNAPSHOT_DELETE,
	SET_TIMEOUT,
	SET_ON_TIMEOUT
};

struct late { // a request that is still on its way when its sender has given up
	enum call call;
	char op[UUID_SIZE], id[64], snapshot[UUID_SIZE], cause[32];
	char children[2][64], child_ops[2][UUID_SIZE];
	size_t n;
	enum on_timeout on_timeout;
};

struct flight {
	struct task task;
	bool used, asked;
	int key; // of the client's, -1: none
};

enum mistake {
	MISTAKE_NONE,
	MISTAKE_JUDGE_OPEN, // judge what is being changed
	MISTAKE_REMOVE_ALL, // remove what is unknown without looking into the journal
	MISTAKE_SILENCE,    // take silence for loss
	MISTAKE_NEW_ID,	    // ask the host again with a new id
	MISTAKE_LOST,	    // take a lost answer for a refusal
	MISTAKE_STALE,	    // apply actions to what has changed meanwhile
	MISTAKE_REVIVE,	    // let the late end of an operation have the word after a deletion
	MISTAKE_MAX,
};

struct client_key {
	bool used, answered;
	char sandbox[64]; // as the answer said
	int status;
};

struct sim {
	uint64_t seed, rng, now;
	bool verbose, failed;
	char why[300];
	enum mistake mistake; // switched on
	// host
	struct box box[MAX_BOXES];
	size_t n_boxes;
	struct host_op op[MAX_OPS];
	size_t n_ops;
	char snapshot[MAX_SNAPSHOTS][UUID_SIZE];
	size_t n_snapshots;
	struct host_event event[MAX_EVENTS];
	size_t n_events;
	struct late late[MAX_LATE];
	size_t n_late;
	bool partition, no_volume, calm;
	// control
	struct db *db;
	struct rows *rows;
	struct underway *underway;
	struct engine engine;
	struct flight flight[MAX_TASKS];
	struct look *look; // taken, to be applied later
	struct client_key key[MAX_KEYS];
	uint64_t highest[MAX_BOXES]; // generation that the row of box i has had
	size_t n_names;
	char deleted[MAX_BOXES * 2][64]; // a deletion of it was acknowledged
	size_t n_deleted;
	char asked[MAX_OPS][UUID_SIZE]; // operations that the host was asked for
	size_t n_asked;
	unsigned calls;	  // of the host, of whatever kind
	char touched[64]; // whom the host changed last: clients come to it more often
};

static uint64_t next(struct sim *s)
{
	s->rng ^= s->rng >> 12;
	s->rng ^= s->rng << 25;
	s->rng ^= s->rng >> 27;
	return s->rng * 0x2545F4914F6CDD1Dull;
}

static unsigned pick(struct sim *s, unsigned n)
{
	return (unsigned)(next(s) >> 33) % n;
}

static bool chance(struct sim *s, unsigned percent)
{
	return pick(s, 100) < percent;
}

static void say(struct sim *s, const char *fmt, ...) _printf_(2, 3);
static void say(struct sim *s, const char *fmt, ...)
{
	if (!s->verbose)
		return;
	va_list ap;
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
}

static void wrong(struct sim *s, const char *fmt, ...) _printf_(2, 3);
static void wrong(struct sim *s, const char *fmt, ...)
{
	if (s->failed)
		return;
	s->failed = true;
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(s->why, sizeof s->why, fmt, ap);
	va_end(ap);
	say(s, "WRONG: %s", s->why);
}

static void new_uuid(void *ctx, char out[UUID_SIZE])
{
	struct sim *s = ctx;
	uint64_t a = next(s), b = next(s);
	snprintf(out, UUID_SIZE, "%08x-%04x-4%03x-8%03x-%012llx", (unsigned)(a >> 32),
		(unsigned)(a >> 16) & 0xffff, (unsigned)a & 0xfff, (unsigned)(b >> 52) & 0xfff,
		(unsigned long long)b & 0xffffffffffffull);
}

static uint64_t now_ns(void *ctx)
{
	struct sim *s = ctx;
	return ++s->now;
}

static struct box *find_box(struct sim *s, const char *id)
{
	for (size_t i = 0; i < s->n_boxes; i++)
		if (strcmp(s->box[i].id, id) == 0)
			return &s->box[i];
	return NULL;
}

static bool alive(const struct box *b)
{
	return b->state != SANDBOX_STOPPED;
}

static void add_event(struct sim *s, const char *id, const char *kind, const char *cause)
{
	if (s->n_events == MAX_EVENTS)
		return;
	struct host_event *ev = &s->event[s->n_events++];
	*ev = (struct host_event){.seq = s->n_events, .at_ns = ++s->now};
	snprintf(ev->sandbox, sizeof ev->sandbox, "%s", id);
	snprintf(ev->kind, sizeof ev->kind, "%s", kind);
	snprintf(ev->cause, sizeof ev->cause, "%s", cause);
}

static void end_box(struct sim *s, struct box *b, const char *cause)
{
	b->state = SANDBOX_STOPPED;
	b->generation++;
	snprintf(b->cause, sizeof b->cause, "%s", cause);
	add_event(s, b->id, "stopped", cause);
}

static struct host_op *find_op(struct sim *s, const char *id)
{
	for (size_t i = 0; i < s->n_ops; i++)
		if (strcmp(s->op[i].id, id) == 0)
			return &s->op[i];
	return NULL;
}

static struct host_op *note_op(struct sim *s, const char *id, const char *target)
{
	struct host_op *op = find_op(s, id);
	if (!op && s->n_ops < MAX_OPS) {
		op = &s->op[s->n_ops++];
		*op = (struct host_op){0};
		snprintf(op->id, sizeof op->id, "%s", id);
		snprintf(op->target, sizeof op->target, "%s", target);
	}
	return op;
}

static struct box *new_box(struct sim *s, const char *id)
{
	if (s->n_boxes == MAX_BOXES)
		return NULL;
	struct box *b = &s->box[s->n_boxes++];
	*b = (struct box){.state = SANDBOX_RUNNING, .generation = 1};
	snprintf(b->id, sizeof b->id, "%s", id);
	return b;
}

// --- what the host does, as the real one: known operations are not done again

static int no_box(const char *id, struct err *e)
{
	return err_set(e, ERR_NOT_FOUND, "no sandbox '%s'", id);
}

static int do_create(struct sim *s, const char *op, const char *id, struct err *e)
{
	struct host_op *known = find_op(s, op);
	if (known && known->runs)
		return find_box(s, id) ? 0 : no_box(id, e);
	if (find_box(s, id))
		return err_set(e, ERR_CONFLICT, "sandbox '%s' exists", id);
	if (!s->calm && chance(s, 10)) // undone, and forgotten
		return err_set(e, ERR_INTERNAL, "no luck");
	if (!new_box(s, id))
		return err_set(e, ERR_LIMIT, "full");
	note_op(s, op, id)->runs++;
	add_event(s, id, "running", "");
	return 0;
}

static int do_state(struct sim *s, const char *op, const char *id, enum sandbox_state from,
	enum sandbox_state to, const char *event, struct err *e)
{
	struct host_op *known = find_op(s, op);
	struct box *b = find_box(s, id);
	if (!b || b->forgotten)
		return no_box(id, e);
	if (known && known->runs)
		return 0;
	if (b->state != from)
		return err_set(
			e, ERR_CONFLICT, "sandbox '%s' is %s", id, sandbox_state_name(b->state));
	note_op(s, op, id)->runs++;
	b->state = to;
	b->generation++;
	add_event(s, id, event, "");
	return 0;
}

static int do_on_timeout(
	struct sim *s, const char *op, const char *id, enum on_timeout on_timeout, struct err *e)
{
	struct host_op *known = find_op(s, op);
	struct box *b = find_box(s, id);
	if (!b || b->forgotten)
		return no_box(id, e);
	if (known && known->runs)
		return 0;
	if (!alive(b))
		return err_set(e, ERR_CONFLICT, "sandbox '%s' is stopped", id);
	note_op(s, op, id)->runs++;
	b->on_timeout = on_timeout;
	add_event(s, id, "on_timeout_set", "");
	return 0;
}

static int do_destroy(
	struct sim *s, const char *op, const char *id, const char *cause, struct err *e)
{
	struct host_op *known = find_op(s, op);
	struct box *b = find_box(s, id);
	if (known && known->runs)
		return 0;
	if (!b || b->forgotten)
		return no_box(id, e);
	if (!alive(b)) {
		b->forgotten = true;
		return 0;
	}
	if (b->foreign)
		wrong(s, "%s was removed, and no operation made it", id);
	if (str_eq(cause, "unknown") && b->acked)
		wrong(s, "%s was removed as unknown, and its create had been acknowledged", id);
	note_op(s, op, id)->runs++;
	end_box(s, b, cause);
	return 0;
}

static bool has_snapshot(const struct sim *s, const char *id)
{
	for (size_t i = 0; i < s->n_snapshots; i++)
		if (strcmp(s->snapshot[i], id) == 0)
			return true;
	return false;
}

static int do_snapshot(
	struct sim *s, const char *op, const char *id, const char *snapshot, struct err *e)
{
	struct host_op *known = find_op(s, op);
	struct box *b = find_box(s, id);
	if (!b || !alive(b))
		return no_box(id, e);
	if (known && known->runs)
		return has_snapshot(s, snapshot) ? 0 : err_set(e, ERR_NOT_FOUND, "deleted");
	if (has_snapshot(s, snapshot))
		return err_set(e, ERR_CONFLICT, "snapshot id was used before");
	if (s->n_snapshots == MAX_SNAPSHOTS || (!s->calm && chance(s, 10)))
		return err_set(e, ERR_NO_SPACE, "no luck");
	note_op(s, op, id)->runs++;
	snprintf(s->snapshot[s->n_snapshots++], UUID_SIZE, "%s", snapshot);
	return 0;
}

static int do_snapshot_delete(struct sim *s, const char *snapshot)
{
	for (size_t i = 0; i < s->n_snapshots; i++)
		if (strcmp(s->snapshot[i], snapshot) == 0) {
			memmove(s->snapshot[i], s->snapshot[--s->n_snapshots], UUID_SIZE);
			break;
		}
	return 0;
}

// *ret_child[i]: what became of it.
static int do_fork(struct sim *s, const struct late *l, int *ret_child, struct err *e)
{
	struct host_op *known = find_op(s, l->op);
	struct box *b = find_box(s, l->id);
	if (!b || !alive(b))
		return no_box(l->id, e);
	if (known && known->runs)
		return err_set(e, ERR_CONFLICT, "this fork was done before");
	note_op(s, l->op, l->id)->runs++;
	for (size_t i = 0; i < l->n; i++) {
		struct err why = {0};
		ret_child[i] = do_create(s, l->child_ops[i], l->children[i], &why);
	}
	return 0;
}

static int perform(struct sim *s, const struct late *l, int *ret_child, struct err *e)
{
	switch (l->call) {
	case CREATE:
		return do_create(s, l->op, l->id, e);
	case DESTROY:
		return do_destroy(s, l->op, l->id, l->cause, e);
	case PAUSE:
		return do_state(s, l->op, l->id, SANDBOX_RUNNING, SANDBOX_PAUSED, "paused", e);
	case RESUME:
		return do_state(s, l->op, l->id, SANDBOX_PAUSED, SANDBOX_RUNNING, "resumed", e);
	case FORK:
		return do_fork(s, l, ret_child, e);
	case SNAPSHOT:
		return do_snapshot(s, l->op, l->id, l->snapshot, e);
	case SNAPSHOT_DELETE:
		return do_snapshot_delete(s, l->snapshot);
	case SET_TIMEOUT:
		return find_box(s, l->id) ? 0 : no_box(l->id, e);
	case SET_ON_TIMEOUT:
		return do_on_timeout(s, l->op, l->id, l->on_timeout, e);
	}
	return 0;
}

// --- the network: every call of the control plane goes through here

static int unheard(struct err *e)
{
	int rc = err_set(e, ERR_UNAVAILABLE, "the host does not answer");
	if (e)
		e->errnum = EHOSTUNREACH;
	return rc;
}

// The mistake is made here: the engine cannot tell such an answer from the host's word.
static int unheard_call(struct sim *s, struct err *e)
{
	int rc = unheard(e);
	if (s->mistake == MISTAKE_LOST)
		e->errnum = 0;
	return rc;
}

static void note_asked(struct sim *s, struct late *l)
{
	for (size_t i = 0; i < s->n_asked; i++)
		if (strcmp(s->asked[i], l->op) == 0) {
			if (s->mistake == MISTAKE_NEW_ID)
				new_uuid(s, l->op);
			return;
		}
	if (s->n_asked < MAX_OPS)
		memcpy(s->asked[s->n_asked++], l->op, UUID_SIZE);
}

static bool cut(struct sim *s)
{
	s->calls++;
	return s->partition || (!s->calm && chance(s, 4));
}

static int tell(struct sim *s, struct late *l, int *ret_child, struct err *e)
{
	struct err local = {0};
	static const char *const names[] = {"create", "destroy", "pause", "resume", "fork",
		"snapshot", "snapshot_delete", "set_timeout", "set_on_timeout"};
	if (!e)
		e = &local;
	*e = (struct err){0};
	note_asked(s, l);
	if (cut(s)) {
		bool later = !s->partition && s->n_late < MAX_LATE && chance(s, 50);
		if (later)
			s->late[s->n_late++] = *l;
		say(s, "  %s %s: %s", names[l->call], l->id, later ? "delayed" : "not sent");
		return unheard_call(s, e);
	}
	if (s->no_volume)
		return err_set(e, ERR_UNAVAILABLE, "no volume");
	int rc = perform(s, l, ret_child, e);
	if (!s->calm && chance(s, 12)) {
		say(s, "  %s %s: %s, and the reply was lost", names[l->call], l->id,
			rc == 0 ? "done" : e->text);
		*e = (struct err){0};
		return unheard_call(s, e);
	}
	say(s, "  %s %s: %s", names[l->call], l->id, rc == 0 ? "done" : e->text);
	return rc;
}

static void fill(const struct box *b, struct host_sandbox *ret)
{
	*ret = (struct host_sandbox){.state = b->state,
		.generation = b->generation,
		.created_ns = 1,
		.stopped_ns = alive(b) ? 0 : 2};
	snprintf(ret->id, sizeof ret->id, "%s", b->id);
	snprintf(ret->cause, sizeof ret->cause, "%s", b->cause);
}

static int answer(struct sim *s, int rc, const char *id, struct host_sandbox *ret, struct err *e)
{
	struct box *b = rc == 0 ? find_box(s, id) : NULL;
	if (rc == 0 && !b)
		return no_box(id, e);
	if (b)
		fill(b, ret);
	return rc;
}

static struct late request(enum call call, const char *op, const char *id)
{
	struct late l = {.call = call};
	snprintf(l.op, sizeof l.op, "%s", op);
	snprintf(l.id, sizeof l.id, "%s", id);
	return l;
}

static int host_create_(
	void *host, const struct host_create *req, struct host_sandbox *ret, struct err *e)
{
	struct late l = request(CREATE, req->op_id, req->id);
	return answer(host, tell(host, &l, NULL, e), req->id, ret, e);
}

static int host_destroy_(
	void *host, const char *op, const char *id, const char *cause, struct err *e)
{
	struct late l = request(DESTROY, op, id);
	snprintf(l.cause, sizeof l.cause, "%s", cause);
	return tell(host, &l, NULL, e);
}

static int host_pause_(
	void *host, const char *op, const char *id, struct host_sandbox *ret, struct err *e)
{
	struct late l = request(PAUSE, op, id);
	return answer(host, tell(host, &l, NULL, e), id, ret, e);
}

static int host_resume_(
	void *host, const struct host_resume *req, struct host_sandbox *ret, struct err *e)
{
	struct late l = request(RESUME, req->op_id, req->id);
	return answer(host, tell(host, &l, NULL, e), req->id, ret, e);
}

static int host_fork_(void *host, struct host_fork *req, struct err *e)
{
	struct late l = request(FORK, req->op_id, req->id);
	int child[2] = {0};
	for (size_t i = 0; i < req->n && i < 2; i++, l.n++) {
		snprintf(l.children[i], sizeof l.children[i], "%s", req->children[i].id);
		snprintf(l.child_ops[i], sizeof l.child_ops[i], "%s", req->children[i].op_id);
	}
	int rc = tell(host, &l, child, e);
	for (size_t i = 0; rc == 0 && i < req->n; i++) {
		struct host_fork_child *c = &req->children[i];
		c->rc = child[i] < 0 ? err_set(&c->e, ERR_INTERNAL, "no luck")
				     : answer(host, 0, c->id, c->info, &c->e);
		req->done(req->ctx, i);
	}
	return rc;
}

static int host_snapshot_create_(void *host, const struct host_snapshot_create *req,
	struct host_snapshot *ret, struct err *e)
{
	struct late l = request(SNAPSHOT, req->op_id, req->id);
	snprintf(l.snapshot, sizeof l.snapshot, "%s", req->snapshot);
	int rc = tell(host, &l, NULL, e);
	if (rc == 0) {
		*ret = (struct host_snapshot){.kind = "template",
			.vcpus = 1,
			.memory_mb = 1,
			.disk_mb = 1,
			.created_ns = 1};
		snprintf(ret->id, sizeof ret->id, "%s", req->snapshot);
	}
	return rc;
}

static int host_snapshot_delete_(void *host, const char *op, const char *snapshot, struct err *e)
{
	struct late l = request(SNAPSHOT_DELETE, op, "");
	snprintf(l.snapshot, sizeof l.snapshot, "%s", snapshot);
	return tell(host, &l, NULL, e);
}

static int host_set_timeout_(void *host, const char *op, const char *id, uint64_t at, struct err *e)
{
	struct late l = request(SET_TIMEOUT, op, id);
	return tell(host, &l, NULL, e);
}

static int host_set_on_timeout_(
	void *host, const char *op, const char *id, enum on_timeout on_timeout, struct err *e)
{
	struct late l = request(SET_ON_TIMEOUT, op, id);
	l.on_timeout = on_timeout;
	return tell(host, &l, NULL, e);
}

static int host_set_token_(
	void *host, const char *op, const char *id, const char *token, struct err *e)
{
	return err_set(e, ERR_UNIMPLEMENTED, "no token is made anew here");
}

static int read_call(struct sim *s, struct err *e)
{
	if (cut(s))
		return unheard(e);
	return s->no_volume ? err_set(e, ERR_UNAVAILABLE, "no volume") : 0;
}

static int host_get_(void *host, const char *id, struct host_sandbox *ret, struct err *e)
{
	struct sim *s = host;
	int rc = read_call(s, e);
	if (rc < 0)
		return rc;
	struct box *b = find_box(s, id);
	if (!b || b->forgotten)
		return no_box(id, e);
	fill(b, ret);
	return 0;
}

static int host_list_(void *host, struct host_sandbox **ret, size_t *ret_n, struct err *e)
{
	struct sim *s = host;
	int rc = read_call(s, e);
	if (rc < 0)
		return rc;
	*ret = calloc(s->n_boxes + 1, sizeof **ret);
	*ret_n = 0;
	for (size_t i = 0; i < s->n_boxes; i++)
		if (alive(&s->box[i]))
			fill(&s->box[i], &(*ret)[(*ret_n)++]);
	return 0;
}

static int host_snapshots_(void *host, struct host_snapshot **ret, size_t *ret_n, struct err *e)
{
	struct sim *s = host;
	int rc = read_call(s, e);
	if (rc < 0)
		return rc;
	*ret = calloc(s->n_snapshots + 1, sizeof **ret);
	for (size_t i = 0; i < s->n_snapshots; i++) {
		(*ret)[i] = (struct host_snapshot){.kind = "template",
			.vcpus = 1,
			.memory_mb = 1,
			.disk_mb = 1,
			.created_ns = 1};
		snprintf((*ret)[i].id, UUID_SIZE, "%s", s->snapshot[i]);
	}
	*ret_n = s->n_snapshots;
	return 0;
}

static int host_info_(void *host, struct host_info *ret, struct err *e)
{
	struct sim *s = host;
	if (cut(s))
		return unheard(e);
	*ret = (struct host_info){.volume_ok = !s->no_volume};
	return 0;
}

static const struct hostagent_ops ops = {
	.create = host_create_,
	.destroy = host_destroy_,
	.pause = host_pause_,
	.resume = host_resume_,
	.fork = host_fork_,
	.snapshot_create = host_snapshot_create_,
	.snapshot_delete = host_snapshot_delete_,
	.snapshots = host_snapshots_,
	.get = host_get_,
	.list = host_list_,
	.set_timeout = host_set_timeout_,
	.set_on_timeout = host_set_on_timeout_,
	.set_token = host_set_token_,
	.info = host_info_,
};

// --- the mistakes: what the engine checks, weakened

static bool has_row(const struct reconcile_input *in, const char *id)
{
	for (size_t i = 0; i < in->n_rows; i++)
		if (str_eq(in->rows[i].id, id))
			return true;
	return false;
}

// Operations do not shield their sandboxes.
static int judge_open(const struct reconcile_input *in, struct reconcile_action **ret,
	size_t *ret_n, struct err *e)
{
	struct reconcile_op some[MAX_OPS];
	struct reconcile_input bad = *in;
	bad.n_ops = MIN(in->n_ops, ARRAY_SIZE(some));
	for (size_t i = 0; i < bad.n_ops; i++) {
		some[i] = in->ops[i];
		if (some[i].state == RECONCILE_OP_OPEN)
			some[i].sandbox = NULL;
	}
	bad.ops = some;
	return reconcile(&bad, ret, ret_n, e);
}

static int remove_all(const struct reconcile_input *in, struct reconcile_action **ret,
	size_t *ret_n, struct err *e)
{
	int rc = reconcile(in, ret, ret_n, e);
	for (size_t i = 0; rc == 0 && i < *ret_n; i++)
		if ((*ret)[i].kind == RECONCILE_REPORT_UNKNOWN && !has_row(in, (*ret)[i].id))
			(*ret)[i].kind = RECONCILE_REMOVE_UNKNOWN;
	return rc;
}

static int silence(const struct reconcile_input *in, struct reconcile_action **ret, size_t *ret_n,
	struct err *e)
{
	struct reconcile_input bad = *in;
	bad.reachable = bad.volume_ok = true;
	return reconcile(&bad, ret, ret_n, e);
}

static bool always_unchanged(struct engine *en, const struct sandbox_row *row, uint64_t version)
{
	return true;
}

static bool never(struct engine *en, const char *id)
{
	return false;
}

static bool always(struct engine *en, const char *id)
{
	return true;
}

static bool never_overtaken(const struct task *t)
{
	return false;
}

static struct engine_guards guards[MISTAKE_MAX]; // without a judge: as built

static void build_guards(void)
{
	for (enum mistake m = MISTAKE_JUDGE_OPEN; m < MISTAKE_MAX; m++)
		guards[m] = engine_guards;
	guards[MISTAKE_JUDGE_OPEN].judge = judge_open;
	guards[MISTAKE_JUDGE_OPEN].unchanged = always_unchanged;
	guards[MISTAKE_REMOVE_ALL].judge = remove_all;
	guards[MISTAKE_REMOVE_ALL].unwanted = always;
	guards[MISTAKE_SILENCE].judge = silence;
	guards[MISTAKE_STALE].unchanged = always_unchanged;
	guards[MISTAKE_STALE].made_since = never;
	guards[MISTAKE_STALE].unwanted = always;
	guards[MISTAKE_REVIVE].overtaken = never_overtaken;
}

// --- the control plane of the simulation

static void must(int rc, const struct err *e)
{
	if (rc >= 0)
		return;
	fprintf(stderr, "simulation: %s\n", e->text);
	abort();
}

static int bring(void *ctx, struct err *e);

static void start_control(struct sim *s)
{
	struct err e = {0};
	struct engine *en = &s->engine;
	must(rows_load(s->db, "k", 1, &s->rows, &e), &e);
	must(underway_load(s->db, &s->underway, &e), &e);
	*en = (struct engine){.guards = &guards[s->mistake]};
	if (!en->guards->judge)
		en->guards = NULL;
	en->db = s->db;
	en->rows = s->rows;
	en->underway = s->underway;
	en->host = (struct hostagent){&ops, s};
	en->now_ns = now_ns;
	en->new_uuid = new_uuid;
	en->bring_events = bring;
	en->ctx = s;
	must(engine_init(en, &e), &e);
}

static void stop_control(struct sim *s)
{
	for (size_t i = 0; i < MAX_TASKS; i++)
		if (s->flight[i].used)
			task_done(&s->flight[i].task);
	memset(s->flight, 0, sizeof s->flight);
	s->look = look_free(s->look);
	engine_done(&s->engine);
	s->underway = underway_free(s->underway);
	s->rows = rows_free(s->rows);
}

static void sql(struct sim *s, const char *text)
{
	if (sqlite3_exec(db_handle(s->db), text, NULL, NULL, NULL) != SQLITE_OK) {
		fprintf(stderr, "simulation: %s: %s\n", text, sqlite3_errmsg(db_handle(s->db)));
		abort();
	}
}

// The feed, without its thread: events and cursor in one transaction.
static void bring_events(struct sim *s, size_t max)
{
	struct err e = {0};
	uint64_t cursor = 0;
	sqlite3_stmt *st;
	sqlite3_prepare_v2(db_handle(s->db), "SELECT cursor FROM hosts", -1, &st, NULL);
	if (sqlite3_step(st) == SQLITE_ROW)
		cursor = (uint64_t)sqlite3_column_int64(st, 0);
	sqlite3_finalize(st);
	if (cursor == s->n_events)
		return;
	must(db_begin(s->db, &e), &e);
	for (; cursor < s->n_events && max > 0; cursor++, max--) {
		const struct host_event *ev = &s->event[cursor];
		must(db_exec(s->db, &e,
			     "INSERT INTO events (host, host_seq, at_ns, sandbox, kind, cause, "
			     "data) VALUES ('local', ?, ?, ?, ?, ?, '{}')",
			     "iisss", (int64_t)ev->seq, (int64_t)ev->at_ns, ev->sandbox, ev->kind,
			     ev->cause),
			&e);
	}
	must(db_exec(s->db, &e, "UPDATE hosts SET cursor = ?", "i", (int64_t)cursor), &e);
	must(db_commit(s->db, &e), &e);
}

static int bring(void *ctx, struct err *e)
{
	struct sim *s = ctx;
	if (cut(s))
		return unheard(e);
	bring_events(s, SIZE_MAX);
	return 0;
}

static bool is_deleted(const struct sim *s, const char *id)
{
	for (size_t i = 0; i < s->n_deleted; i++)
		if (str_eq(s->deleted[i], id))
			return true;
	return false;
}

static void note_deleted(struct sim *s, const char *id)
{
	if (s->n_deleted < ARRAY_SIZE(s->deleted) && !is_deleted(s, id))
		snprintf(s->deleted[s->n_deleted++], sizeof s->deleted[0], "%s", id);
}

// What a deletion has said holds from then on.
static void watch_deleted(struct sim *s)
{
	for (size_t i = 0; i < s->n_deleted; i++) {
		_cleanup_(row_unrefp) struct sandbox_row *row = rows_get(s->rows, s->deleted[i]);
		if (row && !row_ended(row))
			wrong(s, "%s was deleted, and is %s again", row->id,
				row_state_name(row->now));
	}
}

static void watch_generations(struct sim *s)
{
	for (size_t i = 0; i < s->n_boxes; i++) {
		struct sandbox_row *row = rows_get(s->rows, s->box[i].id);
		if (!row)
			continue;
		if (row->generation < s->highest[i])
			wrong(s, "%s went back from generation %lu to %lu", row->id, s->highest[i],
				(uint64_t)row->generation);
		s->highest[i] = row->generation;
		row_unref(row);
	}
}

// --- steps

static void finished(struct sim *s, struct flight *f)
{
	struct task *t = &f->task;
	say(s, "  %s %s: %s", operation_kind_name(t->op.kind), t->op.sandbox,
		task_is_done(t)			? "acknowledged"
		: t->outcome == OUTCOME_UNKNOWN ? "not known yet"
						: t->e.text);
	bool done = task_is_done(t), lost = t->outcome == OUTCOME_UNKNOWN;
	if (f->key >= 0 && !lost) {
		struct client_key *k = &s->key[f->key];
		k->answered = true;
		k->status = !done;
		snprintf(k->sandbox, sizeof k->sandbox, "%s", t->op.sandbox);
	}
	if (done && t->op.kind == OPERATION_DESTROY)
		note_deleted(s, t->op.sandbox);
	else if (done && is_deleted(s, t->op.sandbox) && t->op.kind == OPERATION_CREATE)
		wrong(s, "the create of %s was acknowledged after its deletion", t->op.sandbox);
	if (done && t->op.kind == OPERATION_CREATE) {
		struct box *b = find_box(s, t->op.sandbox);
		if (b)
			b->acked = true;
		else
			wrong(s, "%s was acknowledged and never made", t->op.sandbox);
	}
	for (size_t i = 0; i < t->n_children && done; i++) {
		struct box *b = t->children[i].fate == CHILD_ALIVE
					? find_box(s, t->children[i].row->id)
					: NULL;
		if (b)
			b->acked = true;
		else if (t->children[i].fate == CHILD_ALIVE)
			wrong(s, "a child was acknowledged and never made");
	}
	if (done && t->op.kind == OPERATION_SNAPSHOT && !has_snapshot(s, t->op.snapshot))
		wrong(s, "snapshot %s was acknowledged and never made", t->op.snapshot);
	task_done(t);
	*f = (struct flight){0};
}

static void go_on(struct sim *s, struct flight *f)
{
	if (!f->asked) {
		engine_ask(&s->engine, &f->task);
		f->asked = true;
		return;
	}
	engine_finish(&s->engine, &f->task);
	finished(s, f);
}

static struct flight *free_flight(struct sim *s)
{
	for (size_t i = 0; i < MAX_TASKS; i++)
		if (!s->flight[i].used)
			return &s->flight[i];
	return NULL;
}

// A sandbox that the database knows as alive, or, for a deletion, as being created.
static bool choose(struct sim *s, bool creating_too, char out[64])
{
	struct sandbox_row *list[MAX_BOXES];
	size_t n = rows_older(s->rows, UINT64_MAX, list, MAX_BOXES), live = 0;
	bool same = chance(s, 60);
	for (size_t i = 0; i < n; i++) {
		if (!row_ended(list[i]) && (creating_too || list[i]->now != ROW_CREATING) &&
			(pick(s, (unsigned)++live) == 0 ||
				(same && str_eq(list[i]->id, s->touched)))) {
			snprintf(out, 64, "%s", list[i]->id);
			live += same && str_eq(list[i]->id, s->touched) ? 1000000 : 0;
		}
		row_unref(list[i]);
	}
	return live > 0;
}

static void new_id(struct sim *s, char out[64])
{
	snprintf(out, 64, "i%016llx", (unsigned long long)next(s));
}

// A request whose key was seen before is answered by that operation.
static bool answered_by_key(struct sim *s, int key)
{
	struct client_key *k = &s->key[key];
	struct operation op = {0};
	struct err e = {0};
	char name[16];
	snprintf(name, sizeof name, "k%d", key);
	int rc = operations_find_key(s->db, API_KEY, name, s->now, &op, &e);
	must(rc, &e);
	if (rc == 0)
		return false;
	if (op.state == OPERATION_OPEN) {
		struct err why = {0};
		engine_settle(&s->engine, op.id, &why); // the next try sees what came of it
	} else {
		if (k->answered && (k->status != (op.state == OPERATION_FAILED) ||
					   !str_eq(k->sandbox, op.sandbox)))
			wrong(s, "key %s was answered in two ways", name);
		k->answered = true;
		k->status = op.state == OPERATION_FAILED;
		snprintf(k->sandbox, sizeof k->sandbox, "%s", op.sandbox);
	}
	operation_done(&op);
	return true;
}

static void begin(struct sim *s, enum operation_kind kind)
{
	struct flight *f = free_flight(s);
	struct err e = {0};
	char id[64] = "", children[2][64], called[8];
	struct row_new new[2];
	size_t n = 0;
	static json_t *none;
	if (!none)
		none = json_object();
	if (!f || (kind != OPERATION_CREATE && kind != OPERATION_SNAPSHOT_DELETE &&
			  !choose(s, kind == OPERATION_DESTROY, id)))
		return;
	*f = (struct flight){.key = -1};
	struct task *t = &f->task;
	t->op.kind = kind;
	if (kind == OPERATION_CREATE) {
		if (chance(s, 40)) {
			f->key = (int)pick(s, MAX_KEYS);
			if (answered_by_key(s, f->key)) {
				*f = (struct flight){0};
				return;
			}
			s->key[f->key] = (struct client_key){.used = true};
			snprintf(t->op.key, sizeof t->op.key, "k%d", f->key);
			snprintf(t->op.api_key, sizeof t->op.api_key, API_KEY);
		}
		new_id(s, id);
		n = 1;
		new[0] = (struct row_new){
			.id = id, .template = "base", .metadata = none, .env = none};
		if (chance(s, 40)) {
			snprintf(called, sizeof called, "c%u", pick(s, 3));
			new[0].name = called;
		}
		new[0].api_key = API_KEY;
	} else if (kind == OPERATION_UPDATE) {
		t->op.request = json_object();
		if (chance(s, 60))
			json_object_set_new(t->op.request, "on_timeout",
				json_string(chance(s, 50) ? "pause" : "kill"));
		snprintf(called, sizeof called, "c%u", pick(s, 3));
		if (chance(s, 60))
			json_object_set_new(t->op.request, "name",
				chance(s, 80) ? json_string(called) : json_null());
	} else if (kind == OPERATION_FORK) {
		json_t *list = json_array();
		for (n = 0; n < 2; n++) {
			char op[UUID_SIZE];
			new_id(s, children[n]);
			new_uuid(s, op);
			json_array_append_new(
				list, json_pack("{s:s, s:s}", "id", children[n], "op", op));
			new[n] = (struct row_new){.id = children[n],
				.template = "base",
				.metadata = none,
				.env = none};
		}
		t->op.request = json_pack("{s:o}", "children", list);
	} else if (kind == OPERATION_SNAPSHOT || kind == OPERATION_SNAPSHOT_DELETE) {
		char name[16];
		snprintf(name, sizeof name, "n%u", pick(s, 4));
		t->op.request = json_pack("{s:s, s:s, s:b}", "name", name, "parent", "base",
			"overwrite", chance(s, 50));
		if (kind == OPERATION_SNAPSHOT)
			new_uuid(s, t->op.snapshot);
	} else if (kind == OPERATION_DESTROY) {
		t->op.request = json_pack("{s:s}", "cause", "killed");
	}
	snprintf(t->op.sandbox, sizeof t->op.sandbox, "%s", id);
	say(s, "client: %s %s%s%s", operation_kind_name(kind), id, t->op.key[0] ? " key " : "",
		t->op.key);
	unsigned calls = s->calls;
	int rc = engine_begin(&s->engine, t, new, n, &e);
	if (kind == OPERATION_DESTROY && s->calls != calls)
		wrong(s, "the deletion of %s waited for something else", id);
	if (rc < 0) {
		say(s, "  refused: %s", e.text);
		task_done(t);
		*f = (struct flight){0};
		return;
	}
	f->used = true;
}

static void deliver_late(struct sim *s, size_t i)
{
	struct late l = s->late[i];
	int child[2];
	struct err e = {0};
	s->late[i] = s->late[--s->n_late];
	if (s->no_volume)
		return;
	struct host_op *op = find_op(s, l.op);
	bool ran = op && op->runs;
	say(s, "late: %s", l.id);
	perform(s, &l, child, &e);
	if ((op = find_op(s, l.op)) && !ran)
		op->late = true;
	for (size_t k = 0; k < l.n; k++)
		if ((op = find_op(s, l.child_ops[k])))
			op->late = true;
}

static void host_step(struct sim *s)
{
	struct box *b = s->n_boxes ? &s->box[pick(s, (unsigned)s->n_boxes)] : NULL;
	for (int i = 0; b && !alive(b) && i < 3; i++)
		b = &s->box[pick(s, (unsigned)s->n_boxes)];
	switch (pick(s, 8)) {
	case 0:
		if (b && alive(b) && !b->foreign) {
			say(s, "host: %s panics", b->id);
			end_box(s, b, "guest_panic");
		}
		break;
	case 1:
	case 6:
	case 7:
		if (b && b->state == SANDBOX_RUNNING && !b->foreign) {
			say(s, "host: %s is paused by its time-out", b->id);
			b->state = SANDBOX_PAUSED;
			b->generation++;
			add_event(s, b->id, "paused", "timeout");
			snprintf(s->touched, sizeof s->touched, "%s", b->id);
		}
		break;
	case 2:
		if (b && !alive(b) && !b->forgotten) {
			say(s, "host: %s is forgotten", b->id);
			b->forgotten = true;
		}
		break;
	case 3:
		say(s, "host: restarted");
		// What was on its way to it is gone, or not.
		while (s->n_late && chance(s, 50))
			s->n_late--;
		break;
	case 4:
		if (chance(s, 20) && s->n_boxes < MAX_BOXES) {
			char id[64];
			new_id(s, id);
			new_box(s, id)->foreign = true;
			say(s, "host: %s is there, and nobody knows why", id);
		}
		break;
	default:
		if (s->n_late)
			deliver_late(s, pick(s, (unsigned)s->n_late));
		break;
	}
}

static void step(struct sim *s)
{
	static const enum operation_kind kinds[] = {OPERATION_CREATE, OPERATION_CREATE,
		OPERATION_PAUSE, OPERATION_RESUME, OPERATION_RESUME, OPERATION_DESTROY,
		OPERATION_DESTROY, OPERATION_FORK, OPERATION_SNAPSHOT, OPERATION_SNAPSHOT_DELETE,
		OPERATION_SET_TIMEOUT, OPERATION_UPDATE, OPERATION_UPDATE};
	struct err e = {0};
	unsigned what = pick(s, 100);
	s->now += 1000000000ull * pick(s, 20);
	if (what < 26) {
		begin(s, kinds[pick(s, ARRAY_SIZE(kinds))]);
	} else if (what < 66) {
		size_t i = pick(s, MAX_TASKS), n = 0;
		while (n++ < MAX_TASKS && !s->flight[i].used)
			i = (i + 1) % MAX_TASKS;
		if (s->flight[i].used)
			go_on(s, &s->flight[i]);
	} else if (what < 78) {
		host_step(s);
	} else if (what < 82) {
		say(s, "control: restarted");
		stop_control(s);
		start_control(s);
	} else if (what < 85) {
		s->partition = !s->partition;
		say(s, "network: %s", s->partition ? "cut" : "whole");
	} else if (what < 87) {
		s->no_volume = !s->no_volume;
		say(s, "volume: %s", s->no_volume ? "gone" : "there");
	} else if (what < 92) {
		bring_events(s, 1 + pick(s, 5));
		must(engine_apply_events(&s->engine, 1 + pick(s, 5), &e), &e);
	} else if (s->look && what < 95) {
		say(s, "control: applies what it saw");
		engine_apply(&s->engine, s->look);
		s->look = look_free(s->look);
	} else if (!s->look) {
		say(s, "control: looks");
		must(engine_look(&s->engine, false, &s->look, &e), &e);
	}
	watch_generations(s);
	watch_deleted(s);
}

static void settle(struct sim *s)
{
	struct err e = {0};
	say(s, "--- all is healed");
	s->partition = s->no_volume = false;
	s->calm = true;
	while (s->n_late)
		deliver_late(s, 0);
	if (s->look)
		engine_apply(&s->engine, s->look);
	s->look = look_free(s->look);
	watch_generations(s);
	for (size_t i = 0; i < MAX_TASKS; i++)
		while (s->flight[i].used)
			go_on(s, &s->flight[i]);
	for (int round = 0; round < 6; round++) {
		bring_events(s, SIZE_MAX);
		must(engine_apply_events(&s->engine, SIZE_MAX, &e), &e);
		must(engine_look(&s->engine, false, &s->look, &e), &e);
		engine_apply(&s->engine, s->look);
		s->look = look_free(s->look);
	}
}

// --- the invariants

static void check_rows(struct sim *s)
{
	struct sandbox_row *list[MAX_BOXES * 2];
	size_t n = rows_older(s->rows, UINT64_MAX, list, ARRAY_SIZE(list));
	for (size_t i = 0; i < n; i++) {
		struct sandbox_row *row = list[i];
		const struct host_sandbox *ended = row_ended(row);
		struct box *b = find_box(s, row->id);
		if (ended && !ended->cause[0])
			wrong(s, "%s ended without a cause", row->id);
		if (ended && b && alive(b))
			wrong(s, "%s has ended here (%s) and lives", row->id, ended->cause);
		// What came late of a deleted one may have ended by itself then.
		if (ended && b && !alive(b) && !str_eq(ended->cause, b->cause) &&
			!is_deleted(s, row->id))
			wrong(s, "%s ended by %s, noted is %s", row->id, b->cause, ended->cause);
		if (!ended && (!b || !alive(b)))
			wrong(s, "%s lives here (%s) and not there", row->id,
				row_state_name(row->now));
		if (!ended && b && alive(b) &&
			(row->generation != b->generation ||
				row->now !=
					(b->state == SANDBOX_PAUSED ? ROW_PAUSED : ROW_RUNNING)))
			wrong(s, "%s is %s here and %s there", row->id, row_state_name(row->now),
				sandbox_state_name(b->state));
		if (!ended && b && alive(b) && row->on_timeout != b->on_timeout)
			wrong(s, "%s has another on_timeout here than there", row->id);
		for (size_t k = 0; k < i && !ended && row->name[0]; k++)
			if (!row_ended(list[k]) && str_eq(list[k]->name, row->name))
				wrong(s, "%s and %s are both called %s", row->id, list[k]->id,
					row->name);
	}
	for (size_t i = 0; i < n; i++) {
		struct sandbox_row *row = list[i];
		_cleanup_(row_unrefp) struct sandbox_row *found =
			row->name[0] ? rows_named(s->rows, API_KEY, row->name) : NULL;
		if (row->name[0] && (!found || (found != row && !row_ended(row))))
			wrong(s, "%s is not found by its name %s", row->id, row->name);
		if (row->claim || row->changing)
			wrong(s, "%s is still claimed", row->id);
	}
	for (size_t i = 0; i < n; i++) {
		struct sandbox_row *row = list[i];
		row_unref(row);
	}
}

static void check_boxes(struct sim *s)
{
	for (size_t i = 0; i < s->n_boxes; i++) {
		const struct box *b = &s->box[i];
		struct sandbox_row *row = rows_get(s->rows, b->id);
		bool known = row && !row_ended(row);
		bool was_known = row != NULL;
		row_unref(row);
		if (b->foreign && !alive(b))
			wrong(s, "%s was nobody's, and is gone", b->id);
		else if (!b->foreign && alive(b) && !known)
			wrong(s, "%s lives, and nobody knows of it", b->id);
		else if (b->acked && !was_known)
			wrong(s, "%s was acknowledged, and there is no row of it", b->id);
		else if (b->acked && !alive(b) && str_eq(b->cause, "unknown"))
			wrong(s, "%s was acknowledged and removed as unknown", b->id);
	}
}

static int check_op(void *ctx, sqlite3_stmt *st)
{
	struct sim *s = ctx;
	const char *id = db_text(st, 0), *kind = db_text(st, 1), *state = db_text(st, 2);
	const struct host_op *op = find_op(s, id);
	bool ran = op && op->runs;
	if (op && op->runs > 1)
		wrong(s, "%s %s ran %u times", kind, id, op->runs);
	if (str_eq(state, "open"))
		wrong(s, "%s %s is still open", kind, id);
	// A request that came late may do what had been given up; and of what has ended since then
	// the host does not tell what was done with it before.
	const struct box *target = op ? find_box(s, op->target) : NULL;
	bool gone = target && !alive(target) &&
		    (str_eq(kind, "create") || str_eq(kind, "pause") || str_eq(kind, "resume") ||
			    str_eq(kind, "update"));
	if (str_eq(state, "failed") && ran && !gone && !op->late && !str_eq(kind, "fork") &&
		!str_eq(kind, "snapshot"))
		wrong(s, "%s %s was done, and told as failed", kind, id);
	static const char *const run_by_id[] = {"create", "pause", "resume"};
	for (size_t i = 0; i < ARRAY_SIZE(run_by_id); i++)
		if (str_eq(state, "done") && str_eq(kind, run_by_id[i]) && !ran)
			wrong(s, "%s %s was told as done, and never ran", kind, id);
	return 0;
}

static int check_named(void *ctx, sqlite3_stmt *st)
{
	struct sim *s = ctx;
	s->n_names++;
	if (!has_snapshot(s, db_text(st, 0)))
		wrong(s, "the snapshot of a name is gone");
	return 0;
}

static int check_applied(void *ctx, sqlite3_stmt *st)
{
	struct sim *s = ctx;
	if ((size_t)sqlite3_column_int64(st, 0) != s->n_events ||
		(size_t)sqlite3_column_int64(st, 1) != s->n_events)
		wrong(s, "events: %zu happened, %lld are noted, %lld applied", s->n_events,
			sqlite3_column_int64(st, 0), sqlite3_column_int64(st, 1));
	return 0;
}

static void check(struct sim *s)
{
	struct err e = {0};
	struct operation_ref *open;
	size_t n;
	check_rows(s);
	check_boxes(s);
	watch_deleted(s);
	must(underway_list(s->underway, &open, &n, &e), &e);
	if (n)
		wrong(s, "operation %s is open", open[0].id);
	operation_refs_free(open, n);
	must(db_query(s->db, &e, check_op, s, "SELECT id, kind, state FROM operations", ""), &e);
	s->n_names = 0;
	must(db_query(s->db, &e, check_named, s, "SELECT snapshot_id FROM templates", ""), &e);
	if (s->n_names != s->n_snapshots && s->n_snapshots < MAX_SNAPSHOTS)
		wrong(s, "%zu snapshots have %zu names", s->n_snapshots, s->n_names);
	must(db_query(s->db, &e, check_applied, s,
		     "SELECT (SELECT count(*) FROM events), applied FROM hosts", ""),
		&e);
	for (int i = 0; i < MAX_KEYS; i++)
		if (s->key[i].used)
			answered_by_key(s, i);
	// What is durable is all there is to it.
	stop_control(s);
	start_control(s);
	check_rows(s);
}

// One history. true: nothing is wrong.
static bool run(struct sim *s, uint64_t seed)
{
	struct db *db = s->db;
	enum mistake mistake = s->mistake;
	bool verbose = s->verbose;
	*s = (struct sim){.db = db, .mistake = mistake, .verbose = verbose, .seed = seed};
	s->rng = (seed + 1) * 0x9E3779B97F4A7C15ull | 1;
	for (int i = 0; i < 4; i++)
		next(s);
	s->now = 1700000000000000000ull;
	start_control(s);
	for (int i = 0; i < STEPS && !s->failed; i++)
		step(s);
	if (!s->failed)
		settle(s);
	if (!s->failed)
		check(s);
	stop_control(s);
	sql(s, "DELETE FROM sandboxes; DELETE FROM operations; DELETE FROM events;"
	       "DELETE FROM templates; DELETE FROM operation_subjects;"
	       "DELETE FROM sqlite_sequence; UPDATE hosts SET cursor = 0, applied = 0");
	return !s->failed;
}

static void open_db(struct sim *s)
{
	struct err e = {0};
	must(db_open(":memory:", control_migrations, &s->db, &e), &e);
	sql(s, "INSERT INTO keys (id, name, sha256, prefix, created_ns, last_used_ns) VALUES "
	       "('" API_KEY "', 'k', 'h', 'p', 1, 0)");
}

static const char *const mistakes[MISTAKE_MAX] = {
	"none", "judge_open", "remove_all", "silence", "new_id", "lost", "stale", "revive"};

static int many(struct sim *s, uint64_t from, uint64_t n)
{
	for (uint64_t seed = from; seed < from + n; seed++)
		if (!run(s, seed)) {
			printf("seed %lu: %s\nreplay: test_simulation %lu\n", seed, s->why, seed);
			return 1;
		}
	return 0;
}

static int find_mistakes(struct sim *s)
{
	int rc = 0;
	for (enum mistake i = MISTAKE_NONE + 1; i < MISTAKE_MAX; i++) {
		uint64_t seed = 0;
		s->mistake = i;
		while (seed < TRIES && run(s, seed))
			seed++;
		if (seed == TRIES)
			rc = 1;
		printf("mistake %s: %s", mistakes[i], seed == TRIES ? "not found\n" : "found");
		if (seed < TRIES)
			printf(" by seed %lu: %s\n", seed, s->why);
	}
	s->mistake = MISTAKE_NONE;
	return rc;
}

static int bench(struct sim *s, double seconds)
{
	uint64_t start = clock_monotonic_ns(), n = 0;
	struct timespec a, b;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
	while ((double)(clock_monotonic_ns() - start) < seconds * 1e9)
		if (many(s, n++, 1) != 0)
			return 1;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
	double wall = (double)(clock_monotonic_ns() - start) / 1e9;
	double cpu = (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9;
	printf("%lu histories of %d steps in %.1f s: %.0f per second, %.0f per CPU second\n", n,
		STEPS, wall, (double)n / wall, (double)n / cpu);
	return 0;
}

int main(int argc, char **argv)
{
	static struct sim s;
	uint64_t seed;
	int rc = 2;
	log_setup("test", LOG_LEVEL_ERROR);
	mallopt(M_TRIM_THRESHOLD, 64 << 20); // else half of the time is the kernel's
	mallopt(M_MMAP_THRESHOLD, 16 << 20);
	build_guards();
	open_db(&s);
	if (argc == 1) {
		rc = many(&s, 0, 3000);
		if (rc == 0)
			rc = find_mistakes(&s);
	} else if (str_eq(argv[1], "bench")) {
		rc = bench(&s, argc > 2 ? strtod(argv[2], NULL) : 5);
	} else if (str_eq(argv[1], "from") && argc > 3) {
		rc = many(&s, strtoull(argv[2], NULL, 10), strtoull(argv[3], NULL, 10));
	} else if (str_to_u64(argv[1], UINT64_MAX, &seed) == 0) {
		for (enum mistake i = 0; argc > 2 && i < MISTAKE_MAX; i++)
			if (str_eq(mistakes[i], argv[2]))
				s.mistake = i;
		s.verbose = true;
		rc = !run(&s, seed);
	}
	db_close(s.db);
	return rc;
}
