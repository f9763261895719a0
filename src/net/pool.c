// SPDX-License-Identifier: Apache-2.0
//
// How this works
//
// Every index has one state; the lock protects only the states. Work on a slot (milliseconds, some
// tens for a new one) is done without the lock, by whoever moved it to BUSY.
//
//	FREE ─▶ BUSY ─▶ READY ─▶ TAKEN ─▶ GIVEN ─▶ BUSY ─▶ RESTING ─▶ BUSY ─▶ READY
//	  ▲       │                                  │                  │
//	  └───────┴──────────────────────────────────┴──────────────────┘ failed, or one too many
//
// A given slot is cut off from the guest at once and then rests without a tap: a caller that was
// just connecting to the old guest gets "host unreachable", never the next guest.
#include <pthread.h>
#include <string.h>
#include "base/clock.h"
#include "base/lock.h"
#include "base/log.h"
#include "net/maker.h"
#include "net/netns.h"

// Longer than the gap between the first repetitions of a SYN (1 s, 2 s).
#define REST_NS (3 * NSEC_PER_SEC)
// After a failure to make a slot ahead; take() tries at once and reports.
#define RETRY_NS NSEC_PER_SEC
// Whoever took a slot is starting a VM and needs the processors: while at least half of the pool is
// there, new ones are made when nobody has taken one for so long.
#define CALM_NS NSEC_PER_SEC

enum state { FREE, BUSY, READY, TAKEN, KEPT, GIVEN, RESTING };

struct entry {
	enum state state;
	uint64_t rested_ns; // RESTING: when it may be used again
	// For which the walls are open to it; stale: the slot's own, not known.
	struct resolvers open;
	bool stale;
};

struct slot_pool {
	struct maker maker;
	unsigned warm, max;
	pthread_mutex_t lock;
	pthread_cond_t changed; // a state, or stop
	pthread_t thread;
	bool started, stop;
	uint64_t retry_ns, taken_ns;
	struct resolvers usual; // for which slots are opened ahead
	struct entry *slots;	// max
};

static unsigned count(const struct slot_pool *p, enum state state)
{
	unsigned n = 0;
	for (unsigned i = 0; i < p->max; i++)
		n += p->slots[i].state == state;
	return n;
}

// Index of the first slot in that state, or max.
static unsigned find(const struct slot_pool *p, enum state state)
{
	unsigned i = 0;
	while (i < p->max && p->slots[i].state != state)
		i++;
	return i;
}

static void move(struct slot_pool *p, unsigned i, enum state state)
{
	p->slots[i].state = state;
	pthread_cond_broadcast(&p->changed);
}

// The following are called with the lock held and give it up while they work.

static int work(struct slot_pool *p, unsigned i,
	int (*fn)(const struct maker *, unsigned, struct err *), struct err *e)
{
	p->slots[i].state = BUSY;
	pthread_mutex_unlock(&p->lock);
	int rc = fn(&p->maker, i, e);
	pthread_mutex_lock(&p->lock);
	return rc;
}

static void destroy(struct slot_pool *p, unsigned i)
{
	struct err e = {0};
	if (work(p, i, maker_remove, &e) < 0)
		log_debug("network slot not removed slot=%u: %s", i, err_text(&e, 0));
	p->slots[i].stale = p->slots[i].open.n > 0;
	move(p, i, FREE);
}

static int set_resolvers(
	struct slot_pool *p, unsigned i, const struct resolvers *now, struct err *e)
{
	struct entry *s = &p->slots[i];
	const struct resolvers old = s->open, new = *now;
	if (!s->stale && resolvers_are_same(&old, &new))
		return 0;
	pthread_mutex_unlock(&p->lock);
	int rc = maker_set_resolvers(&p->maker, i, &old, &new, e);
	pthread_mutex_lock(&p->lock);
	if (rc == 0)
		s->open = new;
	// Of one that failed half of the walls may be open.
	s->stale = rc < 0;
	return rc;
}

static void clean(struct slot_pool *p, unsigned i)
{
	struct err e = {0};
	int rc = work(p, i, maker_park, &e);
	// No guest is there, and the next one most likely has these.
	if (rc == 0)
		rc = set_resolvers(p, i, &p->usual, &e);
	if (rc < 0) {
		log_debug("network slot is made anew slot=%u: %s", i, err_text(&e, rc));
		destroy(p, i);
		return;
	}
	p->slots[i].rested_ns = clock_monotonic_ns() + REST_NS;
	move(p, i, RESTING);
}

static void finish_rest(struct slot_pool *p, unsigned i)
{
	struct err e = {0};
	// After a rush the pool shrinks again, but not to the very edge: the next make costs more
	// than keeping some.
	if (count(p, READY) >= 2 * p->warm) {
		destroy(p, i);
		return;
	}
	int rc = work(p, i, maker_unpark, &e);
	if (rc < 0) {
		log_debug("network slot is made anew slot=%u: %s", i, err_text(&e, rc));
		destroy(p, i);
	} else {
		move(p, i, READY);
	}
}

static int make_ahead(struct slot_pool *p, unsigned i)
{
	struct err e = {0};
	int rc = work(p, i, maker_make, &e);
	if (rc == 0 && set_resolvers(p, i, &p->usual, &e) < 0)
		log_debug("network slot not opened ahead slot=%u: %s", i, err_text(&e, 0));
	if (rc < 0)
		log_debug("network slot not made slot=%u: %s", i, err_text(&e, rc));
	move(p, i, rc < 0 ? FREE : READY);
	return rc;
}

static unsigned longest_rested(const struct slot_pool *p)
{
	unsigned best = p->max;
	for (unsigned i = 0; i < p->max; i++)
		if (p->slots[i].state == RESTING &&
			(best == p->max || p->slots[i].rested_ns < p->slots[best].rested_ns))
			best = i;
	return best;
}

// When the next slot may be made ahead.
static uint64_t make_at(const struct slot_pool *p)
{
	uint64_t calm = count(p, READY) * 2 < p->warm ? 0 : p->taken_ns + CALM_NS;
	return MAX(calm, p->retry_ns);
}

static void *pool_main(void *arg)
{
	struct slot_pool *p = arg;
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&p->lock);
	while (!p->stop) {
		uint64_t now = clock_monotonic_ns(), wake = TIME_NEVER;
		unsigned i = find(p, GIVEN);
		if (i < p->max) {
			clean(p, i);
			continue;
		}
		if ((i = longest_rested(p)) < p->max) {
			if (p->slots[i].rested_ns <= now) {
				finish_rest(p, i);
				continue;
			}
			wake = p->slots[i].rested_ns;
		}
		if (count(p, READY) < p->warm && (i = find(p, FREE)) < p->max) {
			if (make_at(p) <= now) {
				if (make_ahead(p, i) < 0)
					p->retry_ns = clock_monotonic_ns() + RETRY_NS;
				continue;
			}
			wake = MIN(wake, make_at(p));
		}
		cond_wait_until(&p->changed, &p->lock, wake);
	}
	return NULL;
}

static int start(struct slot_pool *p, const unsigned *keep, size_t n_keep, struct err *e)
{
	_cleanup_free_ unsigned *whole = calloc(n_keep + 1, sizeof *whole);
	size_t n = 0;
	if (!whole)
		return err_errno(e, ENOMEM, "network slots");
	for (size_t i = 0; i < n_keep; i++)
		if (keep[i] < p->max && maker_is_whole(&p->maker, keep[i])) {
			p->slots[keep[i]].state = KEPT;
			whole[n++] = keep[i];
		}
	int rc = maker_sweep(&p->maker, whole, n, e);
	if (rc == 0)
		rc = maker_host_make(&p->maker, e);
	if (rc == 0 && (rc = pthread_create(&p->thread, NULL, pool_main, p)) > 0)
		rc = err_errno(e, rc, "start thread");
	p->started = rc == 0;
	if (rc < 0 && n == 0)
		maker_host_remove(&p->maker, NULL);
	return rc;
}

int slot_pool_new(const struct slot_pool_config *cfg, const unsigned *keep, size_t n_keep,
	struct slot_pool **ret, struct err *e)
{
	struct maker m;
	int rc = maker_init(&m, cfg, e);
	if (rc < 0)
		return rc;
	// Sandboxes that run outlive a lowered limit.
	unsigned max = cfg->max;
	for (size_t i = 0; i < n_keep; i++)
		if (keep[i] < maker_room(&m))
			max = MAX(max, keep[i] + 1);
	struct slot_pool *p = calloc(1, sizeof *p);
	struct entry *slots = calloc(max, sizeof *slots);
	if (!p || !slots) {
		maker_done(&m);
		free(slots);
		free(p);
		return err_errno(e, ENOMEM, "network slots");
	}
	*p = (struct slot_pool){.maker = m, .warm = cfg->warm, .max = max, .slots = slots};
	if (cfg->usual)
		policy_behind_wall(cfg->usual, &p->usual);
	pthread_cond_init(&p->changed, NULL);
	pthread_mutex_init(&p->lock, NULL);
	// Nothing of another server's must be touched before this has passed.
	rc = maker_check_range(&p->maker, false, e);
	if (rc == 0)
		rc = start(p, keep, n_keep, e);
	if (rc < 0) {
		slot_pool_free(p);
		return rc;
	}
	*ret = p;
	return 0;
}

struct slot_pool *slot_pool_free(struct slot_pool *p)
{
	if (!p)
		return NULL;
	if (p->started) {
		pthread_mutex_lock(&p->lock);
		p->stop = true;
		pthread_cond_broadcast(&p->changed);
		pthread_mutex_unlock(&p->lock);
		pthread_join(p->thread, NULL);
		struct err e = {0};
		int rc = 0;
		unsigned used = count(p, TAKEN) + count(p, KEPT);
		for (unsigned i = 0; i < p->max; i++)
			if (p->slots[i].state == READY || p->slots[i].state == GIVEN ||
				p->slots[i].state == RESTING)
				rc = MIN(rc, maker_remove(&p->maker, i, &e));
		if (!used)
			rc = MIN(rc, maker_host_remove(&p->maker, &e));
		if (rc < 0)
			log_debug("network slots not all removed: %s", err_text(&e, rc));
	}
	pthread_cond_destroy(&p->changed);
	pthread_mutex_destroy(&p->lock);
	maker_done(&p->maker);
	free(p->slots);
	free(p);
	return NULL;
}

int slot_pool_take(struct slot_pool *p, struct slot *ret, struct err *e)
{
	int rc = 0;
	unsigned i;
	pthread_mutex_lock(&p->lock);
	for (;;) {
		if ((i = find(p, READY)) < p->max)
			break;
		if ((i = find(p, FREE)) < p->max) {
			rc = work(p, i, maker_make, e);
			break;
		}
		// All others are in use, or about to be ready again: at most a rest away.
		if (count(p, TAKEN) + count(p, KEPT) == p->max) {
			rc = err_set(e, ERR_LIMIT,
				"all %u network slots are in use: delete or pause sandboxes",
				p->max);
			break;
		}
		pthread_cond_wait(&p->changed, &p->lock);
	}
	p->taken_ns = clock_monotonic_ns();
	if (i < p->max)
		move(p, i, rc < 0 ? FREE : TAKEN);
	pthread_mutex_unlock(&p->lock);
	if (rc == 0)
		maker_describe(&p->maker, i, ret);
	return rc;
}

int slot_pool_adopt(struct slot_pool *p, unsigned index, struct slot *ret, struct err *e)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&p->lock);
	if (index >= p->max || p->slots[index].state != KEPT)
		return err_set(e, ERR_NOT_FOUND,
			"network slot %u is gone, or was made with another --slot-range", index);
	p->slots[index].stale = true;
	move(p, index, TAKEN);
	maker_describe(&p->maker, index, ret);
	return 0;
}

int slot_pool_resolvers(struct slot_pool *p, const struct slot *s, const struct resolvers *r,
	bool usual, struct err *e)
{
	struct resolvers open;
	for (size_t i = 0; i < r->n; i++) {
		char address[INET_ADDRSTRLEN];
		struct cidr one = {r->addr[i], 32};
		cidr_format_address(r->addr[i], address);
		if (cidr_overlaps(&one, &p->maker.policy.range))
			return err_set(e, ERR_INVALID,
				"dns: '%s' is of the network of the guests (slot_range)", address);
	}
	policy_behind_wall(r, &open);
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&p->lock);
	if (usual)
		p->usual = open;
	return set_resolvers(p, s->index, &open, e);
}

void slot_pool_give(struct slot_pool *p, const struct slot *s)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&p->lock);
	if (s->index < p->max && p->slots[s->index].state == TAKEN)
		move(p, s->index, GIVEN);
}

void slot_pool_stats(struct slot_pool *p, unsigned *ret_ready, unsigned *ret_taken)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&p->lock);
	*ret_ready = count(p, READY);
	*ret_taken = count(p, TAKEN) + count(p, KEPT);
}

int slot_cleanup_all(const char *run_dir, struct err *e)
{
	struct maker m;
	int rc = maker_init_names(&m, run_dir, e);
	if (rc < 0)
		return rc == -ENOENT ? 0 : rc;
	rc = maker_sweep(&m, NULL, 0, e);
	return rc < 0 ? rc : maker_host_remove(&m, e);
}

// A pool of one slot beside any other: under a run directory and addresses of its own, which are
// link-local and thus neither routed nor in anyone's range.
int slot_probe(const struct slot_pool_config *cfg, uint64_t *ret_ns, struct err *e)
{
	char run_dir[160];
	struct maker m;
	int rc = maker_init(&m, cfg, e);
	if (rc < 0)
		return rc;
	rc = maker_check_range(&m, true, e);
	if (rc == 0)
		rc = str_format(run_dir, sizeof run_dir, "%s/probe-%d", m.run_dir, getpid());
	maker_done(&m);
	if (rc < 0)
		return rc;
	struct slot_pool_config probe = {.run_dir = run_dir,
		.range = "169.254.0.24/31",
		.max = 1,
		.uid_base = cfg->uid_base};
	rc = maker_init(&m, &probe, e);
	if (rc < 0)
		return rc;
	rc = netns_dir_make(m.netns_dir, e);
	uint64_t begin = clock_monotonic_ns();
	if (rc == 0)
		rc = maker_make(&m, 0, e);
	uint64_t ns = clock_monotonic_ns() - begin;
	int removed = maker_remove(&m, 0, rc < 0 ? NULL : e);
	int cleaned = netns_dir_remove(m.netns_dir, rc < 0 || removed < 0 ? NULL : e);
	rmdir(m.run_dir);
	maker_done(&m);
	rc = rc < 0 ? rc : removed < 0 ? removed : cleaned;
	if (rc == 0)
		*ret_ns = ns;
	return rc;
}
