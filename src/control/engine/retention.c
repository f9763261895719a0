// SPDX-License-Identifier: Apache-2.0
// How this works. A pass reads what there is, writes down what changed since the last pass (a stamp
// for each), lets the rules judge (retention_judge.c), and acts. Killed at any line it is done
// over: a warning and its event are one transaction, a removal is an operation with its own
// journal, and what is gone by then is forgotten by the next pass. That a sandbox is as it was
// judged is the host's to say, in the operation itself (hostagent_ops.expire); of a snapshot it is
// said in the transaction that takes its name. What was said and done since the pass looked (it may
// be minutes) is read again in the transaction that begins the removal (retention_still_due).
#include "control/engine/retention.h"
#include <inttypes.h>
#include <string.h>
#include "base/clock.h"
#include "base/json.h"
#include "base/lock.h"
#include "base/log.h"
#include "base/str.h"
#include "control/engine/run.h"

#define AWAY_MAX_NS (7 * 86400 * NSEC_PER_SEC)
#define ROWS_AT_ONCE 100u

const char *retention_action_name(enum retention_action a)
{
	static const char *const names[] = {"warn", "wait", "remove", "later", "busy", "failed"};
	return names[a];
}

void retention_advance(struct retention_clock *c, uint64_t mono_ns, uint64_t wall_ns, bool first)
{
	bool knows = first && c->wall_ns && wall_ns > c->wall_ns;
	c->served_ns += mono_ns;
	c->age_ns += mono_ns + (knows ? MIN(wall_ns - c->wall_ns, AWAY_MAX_NS) : 0);
	c->wall_ns = wall_ns;
}

// What there is; things[i] belongs to subjects[i].
struct thing {
	char stamp[80], snapshot[UUID_SIZE];
	uint64_t generation, used_ns; // as of retention_due
	struct retention_item *item;
};

struct pass {
	struct engine *en;
	struct feed *feed;
	bool dry_run;
	struct retention_clock clock;
	struct retention_rule *rules;
	struct retention_item *items;
	struct retention_kept *kept;
	struct retention_subject *subjects;
	struct thing *things;
	size_t n_rules, n_items, n_kept, n, size;
	bool bytes_known;
	struct retention_outcome *outcomes;
	size_t n_outcomes, removed, failed, last_tried;
};

static void pass_done(struct pass *p)
{
	free(p->rules);
	free(p->items);
	free(p->kept);
	free(p->subjects);
	free(p->things);
	free(p->outcomes);
}

// --- what there is

static int add(struct pass *p, const struct retention_subject *s, const struct thing *t)
{
	if (p->n == p->size) {
		size_t size = MAX(p->size * 2, (size_t)64);
		struct retention_subject *a = reallocarray(p->subjects, size, sizeof *a);
		if (a)
			p->subjects = a;
		struct thing *b = a ? reallocarray(p->things, size, sizeof *b) : NULL;
		if (!b)
			return -ENOMEM;
		p->things = b;
		p->size = size;
	}
	p->subjects[p->n] = *s;
	p->things[p->n++] = *t;
	for (size_t i = 0; i < p->n_kept; i++)
		p->subjects[p->n - 1].kept |=
			p->kept[i].kind == s->kind && str_eq(p->kept[i].id, s->id);
	return 0;
}

static int add_row(struct pass *p, struct sandbox_row *row, struct err *e)
{
	struct retention_subject s = {.kind = RETENTION_SANDBOX};
	struct thing t = {.generation = row->generation};
	if (row->now != ROW_PAUSED || row_ended(row))
		return 0;
	int rc = retention_last_operation(p->en->db, row->id, &t.used_ns, e);
	if (rc < 0)
		return rc;
	snprintf(s.id, sizeof s.id, "%s", row->id);
	row_get_name(row, s.name);
	snprintf(s.api_key, sizeof s.api_key, "%s", row->api_key);
	snprintf(s.template, sizeof s.template, "%s", row->template);
	snprintf(t.stamp, sizeof t.stamp, "%" PRIu64 " %" PRIu64, t.generation, t.used_ns);
	rc = add(p, &s, &t);
	return rc < 0 ? err_errno(e, rc, "retention") : 0;
}

// newest[i]: when the newest sandbox was made from list[i].
static int each_row(
	struct pass *p, const struct template *list, size_t n, uint64_t *newest, struct err *e)
{
	struct sandbox_row *rows[ROWS_AT_ONCE];
	uint64_t before = UINT64_MAX;
	int rc = 0;
	for (size_t got = ROWS_AT_ONCE; rc == 0 && got == ROWS_AT_ONCE;) {
		got = rows_older(p->en->rows, before, rows, ROWS_AT_ONCE);
		for (size_t i = 0; i < got; i++) {
			before = rows[i]->created_ns;
			for (size_t k = 0; k < n; k++)
				if (str_eq(list[k].name, rows[i]->template))
					newest[k] = MAX(newest[k], rows[i]->created_ns);
			if (rc == 0)
				rc = add_row(p, rows[i], e);
			row_unref(rows[i]);
		}
	}
	return rc;
}

static int list_things(struct pass *p, struct err *e)
{
	_cleanup_free_ struct template *list = NULL;
	size_t n = 0;
	int rc = templates_list(p->en->db, &list, &n, e);
	if (rc < 0)
		return rc;
	_cleanup_free_ uint64_t *newest = calloc(n + 1, sizeof *newest);
	if (!newest)
		return err_errno(e, ENOMEM, "retention");
	rc = each_row(p, list, n, newest, e);
	for (size_t i = 0; rc == 0 && i < n; i++) {
		struct retention_subject s = {.kind = RETENTION_SNAPSHOT};
		struct thing t = {.used_ns = newest[i]};
		memcpy(s.id, list[i].name, sizeof s.id);
		memcpy(s.name, list[i].name, sizeof s.name);
		memcpy(s.api_key, list[i].api_key, sizeof s.api_key);
		memcpy(s.template, list[i].parent, sizeof s.template);
		memcpy(t.snapshot, list[i].snapshot, sizeof t.snapshot);
		snprintf(t.stamp, sizeof t.stamp, "%s %" PRIu64, list[i].snapshot,
			MAX(newest[i], list[i].created_ns));
		if ((rc = add(p, &s, &t)) < 0)
			err_errno(e, rc, "retention");
	}
	return rc;
}

// A sandbox that has ended, a name that is gone.
static void forget_kept(struct pass *p)
{
	for (size_t i = 0; i < p->n_kept; i++) {
		const struct retention_kept *k = &p->kept[i];
		struct template t;
		struct err e = {0};
		_cleanup_(row_unrefp) struct sandbox_row *row = rows_get(p->en->rows, k->id);
		bool gone = k->kind == RETENTION_SANDBOX
				    ? !row || row_ended(row)
				    : templates_get(p->en->db, k->id, &t, &e) < 0 &&
					      e.code == ERR_NOT_FOUND;
		if (gone && retention_keep(p->en->db, k->kind, k->id, false, &e) < 0)
			log_debug("retention: %s", e.text);
	}
}

// --- since when

// The second number may fall: operations and rows that are over are forgotten after a while.
static bool is_same(const char *was, const char *is)
{
	size_t n = strcspn(is, " ");
	return strncmp(was, is, n + 1) == 0 &&
	       strtoull(is + n, NULL, 10) <= strtoull(was + n, NULL, 10);
}

// As retention_items sorts them.
static int by_kind_and_id(const void *a, const void *b)
{
	const struct retention_item *x = a, *y = b;
	return x->kind != y->kind ? (x->kind < y->kind ? -1 : 1) : strcmp(x->id, y->id);
}

static struct retention_item *find_item(struct pass *p, const struct retention_subject *s)
{
	struct retention_item key = {.kind = s->kind};
	memcpy(key.id, s->id, sizeof key.id);
	return p->n_items ? bsearch(&key, p->items, p->n_items, sizeof key, by_kind_and_id) : NULL;
}

// One that is seen for the first time: of a snapshot the time of day when it was made is known.
static uint64_t began(const struct pass *p, const struct retention_subject *s, const char *stamp)
{
	uint64_t made = strtoull(stamp + strcspn(stamp, " "), NULL, 10), away = 0;
	if (s->kind == RETENTION_SNAPSHOT && made < p->clock.wall_ns)
		away = MIN(p->clock.wall_ns - made, p->clock.age_ns);
	return p->clock.age_ns - away;
}

static int follow(struct pass *p, size_t i, struct err *e)
{
	struct retention_subject *s = &p->subjects[i];
	struct thing *t = &p->things[i];
	struct retention_item *known = t->item;
	int rc = 0;
	if (known && is_same(known->stamp, t->stamp)) {
		memcpy(t->stamp, known->stamp, sizeof t->stamp);
	} else {
		struct retention_item now = {.kind = s->kind,
			.since_ns = known ? p->clock.age_ns : began(p, s, t->stamp)};
		memcpy(now.id, s->id, sizeof now.id);
		memcpy(now.stamp, t->stamp, sizeof now.stamp);
		if (!p->dry_run)
			rc = retention_put_item(p->en->db, &now, NULL, e);
		if (known) {
			now.seen = true;
			*known = now;
		} else {
			s->age_sec = (p->clock.age_ns - now.since_ns) / NSEC_PER_SEC;
		}
	}
	if (known)
		s->age_sec =
			(p->clock.age_ns - MIN(known->since_ns, p->clock.age_ns)) / NSEC_PER_SEC;
	return rc;
}

static int follow_all(struct pass *p, struct err *e)
{
	int rc = 0;
	for (size_t i = 0; rc == 0 && i < p->n; i++) {
		p->things[i].item = find_item(p, &p->subjects[i]);
		if (p->things[i].item)
			p->things[i].item->seen = true;
		rc = follow(p, i, e);
	}
	for (size_t i = 0; rc == 0 && !p->dry_run && i < p->n_items; i++)
		if (!p->items[i].seen)
			rc = retention_drop_item(p->en->db, p->items[i].kind, p->items[i].id, e);
	return rc;
}

// --- events

struct telling {
	struct pass *p;
	struct host_event ev;
	uint64_t seq;
};

static int write_event(void *ctx, struct db *db, struct err *e)
{
	struct telling *t = ctx;
	return event_log_add(db, &t->ev, &t->seq, e);
}

static void telling_init(struct telling *t, struct pass *p, const char *kind,
	const struct retention_subject *s, const struct retention_rule *r)
{
	*t = (struct telling){.p = p, .ev.at_ns = p->en->now_ns(p->en->ctx)};
	snprintf(t->ev.kind, sizeof t->ev.kind, "%s", kind);
	snprintf(t->ev.cause, sizeof t->ev.cause, "%s", r->name);
	if (s->kind == RETENTION_SANDBOX)
		snprintf(t->ev.sandbox, sizeof t->ev.sandbox, "%s", s->id);
	t->ev.data = json_pack("{s:s, s:s, s:s, s:s, s:I, s:I}", "kind",
		retention_kind_name(s->kind), "name", s->name, "rule", r->name, "reason", s->reason,
		"grace_sec", (json_int_t)r->grace_sec, "frees_bytes", (json_int_t)s->frees_bytes);
}

static void telling_done(struct telling *t, bool told)
{
	if (told && t->p->feed)
		feed_announce(t->p->feed, &t->ev, t->seq);
	host_event_done(&t->ev);
}

static void tell(struct pass *p, const char *kind, const struct retention_subject *s,
	const struct retention_rule *r)
{
	struct telling t;
	struct err e = {0};
	telling_init(&t, p, kind, s, r);
	const struct db_also also = {write_event, &t};
	int rc = engine_write(p->en, &also, &e);
	if (rc < 0)
		log_warn("not told event=%s id=%s: %s", kind, s->id, err_text(&e, rc));
	telling_done(&t, rc == 0);
}

// --- what is done

static int warn(struct pass *p, size_t i, const struct retention_rule *r, struct err *e)
{
	const struct retention_subject *s = &p->subjects[i];
	struct retention_item now = {.kind = s->kind,
		.since_ns = p->clock.age_ns - s->age_sec * NSEC_PER_SEC,
		.warned_ns = p->clock.served_ns};
	memcpy(now.id, s->id, sizeof now.id);
	memcpy(now.stamp, p->things[i].stamp, sizeof now.stamp);
	if (p->things[i].item)
		now.since_ns = p->things[i].item->since_ns;
	memcpy(now.rule, r->name, sizeof now.rule);
	struct telling t;
	telling_init(&t, p, "retention_due", s, r);
	const struct db_also also = {write_event, &t};
	int rc = retention_put_item(p->en->db, &now, &also, e);
	telling_done(&t, rc == 0);
	if (rc == 0)
		log_info("retention: due kind=%s id=%s rule=%s grace_sec=%" PRIu64 " %s",
			retention_kind_name(s->kind), s->id, r->name, r->grace_sec, s->reason);
	return rc;
}

// Whose time is over; a rule that took it no longer is as if it had not been warned.
static int unwarn(struct pass *p, size_t i, struct err *e)
{
	struct retention_item *item = p->things[i].item;
	if (p->dry_run || !item || !item->rule[0])
		return 0;
	struct retention_rule r = {0};
	memcpy(r.name, item->rule, sizeof r.name);
	item->rule[0] = '\0';
	int rc = retention_put_item(p->en->db, item, NULL, e);
	if (rc == 0)
		tell(p, "retention_kept", &p->subjects[i], &r);
	return rc;
}

static int check_due(void *ctx, struct db *db, struct err *e)
{
	return retention_still_due(db, ctx, e);
}

static int remove_one(struct pass *p, size_t i, const struct retention_rule *r, struct err *e)
{
	const struct retention_subject *s = &p->subjects[i];
	struct retention_due due = {s->kind, s->id, r->name, r->created_ns, p->things[i].used_ns};
	const struct db_also check = {check_due, &due};
	struct task t = {.first = &check};
	struct telling end;
	telling_init(&end, p, "retention_removed", s, r);
	if (s->kind == RETENTION_SANDBOX) {
		t.op.kind = OPERATION_DESTROY;
		snprintf(t.op.sandbox, sizeof t.op.sandbox, "%s", s->id);
		t.op.request = json_pack("{s:s, s:b, s:I, s:s, s:O}", "cause",
			end_cause_name(END_RETENTION), "forget", 0, "generation",
			(json_int_t)p->things[i].generation, "rule", r->name, "tells", end.ev.data);
	} else {
		t.op.kind = OPERATION_SNAPSHOT_DELETE;
		t.op.request = json_pack("{s:s, s:s, s:s, s:O}", "name", s->id, "snapshot",
			p->things[i].snapshot, "rule", r->name, "tells", end.ev.data);
	}
	int rc = t.op.request ? engine_begin(p->en, &t, NULL, 0, e)
			      : err_errno(e, ENOMEM, "retention");
	if (rc == 0) {
		engine_ask(p->en, &t);
		engine_finish(p->en, &t);
		if (!task_is_done(&t))
			rc = err_set(e, t.e.code ? t.e.code : ERR_INTERNAL, "%s", t.e.text);
	}
	end.seq = t.event;
	telling_done(&end, t.event != 0);
	task_done(&t);
	if (rc < 0) {
		log_warn("retention: not removed kind=%s id=%s rule=%s: %s",
			retention_kind_name(s->kind), s->id, r->name, err_text(e, rc));
		return rc;
	}
	log_info("retention: removed kind=%s id=%s rule=%s %s", retention_kind_name(s->kind), s->id,
		r->name, s->reason);
	struct err why = {0};
	if (retention_drop_item(p->en->db, s->kind, s->id, &why) < 0)
		log_debug("retention: forgotten by the next pass id=%s: %s", s->id, why.text);
	return 0;
}

static bool is_busy(const struct pass *p, size_t i)
{
	const struct thing *t = &p->things[i];
	return p->subjects[i].kind == RETENTION_SANDBOX
		       ? underway_is_on(p->en->underway, p->subjects[i].id)
		       : underway_is_on_snapshot(p->en->underway, t->snapshot);
}

// Whether the same rule has warned of it, and how long it has still.
static bool was_warned(
	const struct pass *p, size_t i, const struct retention_rule *r, uint64_t *ret_left_sec)
{
	const struct retention_item *item = p->things[i].item;
	if (!item || !str_eq(item->rule, r->name))
		return false;
	uint64_t waited =
		(p->clock.served_ns - MIN(item->warned_ns, p->clock.served_ns)) / NSEC_PER_SEC;
	*ret_left_sec = r->grace_sec - MIN(waited, r->grace_sec);
	return true;
}

static int act(struct pass *p, size_t i, struct err *e)
{
	const struct retention_subject *s = &p->subjects[i];
	if (s->rule == SIZE_MAX)
		return unwarn(p, i, e);
	const struct retention_rule *r = &p->rules[s->rule];
	struct retention_outcome *o = &p->outcomes[p->n_outcomes++];
	*o = (struct retention_outcome){.subject = *s};
	memcpy(o->rule, r->name, sizeof o->rule);
	if (!was_warned(p, i, r, &o->left_sec)) {
		o->action = RETENTION_WARN;
		o->left_sec = r->grace_sec;
		return p->dry_run ? 0 : warn(p, i, r, e);
	}
	if (o->left_sec) {
		o->action = RETENTION_WAIT;
	} else if (is_busy(p, i)) {
		o->action = RETENTION_BUSY;
	} else if (p->removed >= RETENTION_PER_PASS || p->failed >= RETENTION_PER_PASS) {
		o->action = RETENTION_LATER;
	} else {
		bool done = p->dry_run || remove_one(p, i, r, &o->e) == 0;
		o->action = done ? RETENTION_REMOVE : RETENTION_FAILED;
		p->removed += done;
		p->failed += !done;
		p->last_tried = i;
	}
	return 0;
}

// --- the pass

static int by_item_id(const void *a, const void *b)
{
	return strcmp(
		((const struct host_usage_item *)a)->id, ((const struct host_usage_item *)b)->id);
}

// Whether a rule is about bytes, or somebody reads them now.
static bool needs_bytes(const struct pass *p)
{
	bool need = p->dry_run;
	for (size_t i = 0; i < p->n_rules; i++)
		need |= p->rules[i].has_bytes;
	return need;
}

// Whether something will be told of, with what its removal frees.
static bool has_news(const struct pass *p)
{
	for (size_t i = 0; i < p->n; i++) {
		uint64_t left = 0;
		size_t rule = p->subjects[i].rule;
		if (rule != SIZE_MAX && (!was_warned(p, i, &p->rules[rule], &left) || !left))
			return true;
	}
	return false;
}

// What each holds.
static void ask_bytes(struct pass *p)
{
	struct host_usage_report u = {0};
	const struct host_usage_ask ask = {.of = ""};
	struct err e = {0};
	if (!p->n)
		return;
	if (p->en->host.ops->usage(p->en->host.host, &ask, &u, &e) < 0) {
		log_warn(
			"retention: what is held is not known, bytes take nothing now: %s", e.text);
		return;
	}
	qsort(u.items, u.n_items, sizeof *u.items, by_item_id);
	for (size_t i = 0; i < p->n; i++) {
		struct host_usage_item key = {0};
		snprintf(key.id, sizeof key.id, "%s",
			p->subjects[i].kind == RETENTION_SANDBOX ? p->subjects[i].id
								 : p->things[i].snapshot);
		const struct host_usage_item *x =
			bsearch(&key, u.items, u.n_items, sizeof *u.items, by_item_id);
		if (x) {
			p->subjects[i].unique_bytes = x->unique_bytes;
			p->subjects[i].frees_bytes = x->frees_bytes;
		}
	}
	p->bytes_known = u.sum.left_out == 0;
	host_usage_report_done(&u);
}

// The clock, read and moved on.
static int move_clock(struct pass *p, struct err *e)
{
	struct engine *en = p->en;
	uint64_t mono = clock_monotonic_ns();
	uint64_t seen = en->retention_seen_ns;
	bool first = seen == 0;
	int rc = retention_get_clock(en->db, &p->clock, e);
	if (rc < 0)
		return rc;
	retention_advance(
		&p->clock, first ? 0 : mono - MIN(seen, mono), en->now_ns(en->ctx), first);
	if (p->dry_run) // which may be beside a pass
		return 0;
	rc = retention_put_clock(en->db, &p->clock, e);
	if (rc == 0)
		en->retention_seen_ns = mono;
	return rc;
}

static int run(struct pass *p, struct err *e)
{
	struct engine *en = p->en;
	int rc = move_clock(p, e);
	if (rc == 0)
		rc = retention_rules(en->db, &p->rules, &p->n_rules, e);
	if (rc == 0)
		rc = retention_items(en->db, &p->items, &p->n_items, e);
	if (rc == 0)
		rc = retention_kept(en->db, &p->kept, &p->n_kept, e);
	if (rc == 0)
		rc = list_things(p, e);
	if (rc == 0)
		rc = follow_all(p, e);
	if (rc < 0)
		return rc;
	if (!p->dry_run)
		forget_kept(p);
	bool asked = needs_bytes(p);
	if (asked)
		ask_bytes(p);
	rc = retention_judge(p->subjects, p->n, p->rules, p->n_rules, p->bytes_known);
	if (rc == 0 && !asked && has_news(p))
		ask_bytes(p);
	p->outcomes = calloc(p->n + 1, sizeof *p->outcomes);
	if (rc < 0 || !p->outcomes)
		return err_errno(e, ENOMEM, "retention");
	// A host that is away, or without its volume, is asked for nothing.
	struct host_info info = {0};
	struct err why = {0};
	if (!p->dry_run && p->n_rules &&
		(en->host.ops->info(en->host.host, &info, &why) < 0 || !info.volume_ok))
		return err_set(e, ERR_UNAVAILABLE, "the host does not answer, or has no volume");
	// Where too many fail for one pass, the next one begins behind them: they keep nobody back.
	size_t first = p->n ? en->retention_first % p->n : 0;
	for (size_t i = 0; rc == 0 && i < p->n; i++)
		rc = act(p, (first + i) % p->n, e);
	if (!p->dry_run)
		en->retention_first = p->failed >= RETENTION_PER_PASS ? p->last_tried + 1 : 0;
	return rc;
}

int engine_retention(struct engine *en, struct feed *feed, bool dry_run,
	struct retention_outcome **ret, size_t *ret_n, struct err *e)
{
	_cleanup_unlock_ pthread_mutex_t *one_at_a_time =
		dry_run ? NULL : mutex_lock(&en->retention);
	_cleanup_(pass_done) struct pass p = {.en = en, .feed = feed, .dry_run = dry_run};
	int rc = run(&p, e);
	if (rc < 0)
		return rc;
	*ret = TAKE_PTR(p.outcomes);
	*ret_n = p.n_outcomes;
	return 0;
}
