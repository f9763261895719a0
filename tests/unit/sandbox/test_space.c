// SPDX-License-Identifier: Apache-2.0
// The volume's space in the played world: whose it is, what a removal gives back, and what is
// refused where it is short. Run on tmpfs, and on XFS, where disks share blocks.
#include <string.h>
#include <sys/vfs.h>
#include "base/str.h"
#include "played/play.h"

#define OK(call)                                                                                   \
	do {                                                                                       \
		struct err e = {0};                                                                \
		check((call) == 0, "%s: %s", #call, e.text);                                       \
	} while (0)

#define XFS_MAGIC 0x58465342l
// Directories and maps of extents grow and shrink by blocks.
#define SLACK (128u << 10)

static bool on_xfs(void)
{
	struct statfs fs;
	check(statfs(world.data, &fs) == 0, "statfs");
	return fs.f_type == XFS_MAGIC;
}

static struct host_usage_report look(struct host *h, const char *of)
{
	struct host_usage_report r;
	struct host_usage_ask ask = {.of = of};
	OK(host_usage(h, &ask, &r, &e));
	return r;
}

static const struct host_usage_item *item(const struct host_usage_report *r, const char *id)
{
	for (size_t i = 0; i < r->n_items; i++)
		if (str_eq(r->items[i].id, id))
			return &r->items[i];
	check(false, "%s is in no row of the report", id);
	return NULL;
}

// All but the databases, which grow with each operation.
static uint64_t held(const struct host_usage_report *r)
{
	const struct host_usage *s = &r->sum;
	return s->sandbox_bytes + s->snapshot_bytes + s->image_bytes + s->shared_bytes +
	       s->pending_bytes + s->unknown_bytes + s->program_bytes;
}

static bool is_near(uint64_t a, uint64_t b)
{
	return (a > b ? a - b : b - a) <= SLACK;
}

static void check_sums(const struct host_usage_report *r)
{
	const struct host_usage *s = &r->sum;
	uint64_t all = held(r) + s->database_bytes + s->other_bytes, unique = 0;
	check(all == s->used_bytes, "the sum is %lu, used are %lu", all, s->used_bytes);
	for (size_t i = 0; i < r->n_items; i++) {
		unique += r->items[i].unique_bytes;
		check(r->items[i].unique_bytes <= r->items[i].bytes, "more unique than there is");
		check(r->items[i].frees_bytes <= r->items[i].unique_bytes, "it frees more");
	}
	check(unique == s->sandbox_bytes + s->snapshot_bytes + s->image_bytes, "unique bytes");
}

static struct play *family(struct host **ret)
{
	struct play *p = play_new();
	struct host *h = *ret = play_open();
	OK(play_create(h, p, 0, -1, false, NULL, &e));
	then_created(p, 0, -1);
	play_mark(p, 0);
	OK(play_snapshot(h, p, 0, 0, NULL, &e));
	then_snapshot(p, 0, 0);
	OK(play_create(h, p, 1, 0, false, NULL, &e));
	then_created(p, 1, 0);
	play_mark(p, 1);
	then_forked(p, 1, 2);
	OK(play_fork(h, p, 1, 2, NULL, &e));
	play_mark(p, 2);
	OK(play_pause(h, p, 2, NULL, &e));
	then_paused(p, 2);
	play_mark(p, 3);
	OK(play_snapshot(h, p, 3, 1, NULL, &e));
	then_snapshot(p, 3, 1);
	play_mark(p, 3);
	OK(play_pause(h, p, 3, NULL, &e));
	then_paused(p, 3);
	play_idle(h, p, "with a family");
	return p;
}

static void is_gone(struct host *h, const char *id)
{
	struct host_usage_report r = look(h, NULL);
	for (size_t i = 0; i < r.n_items; i++)
		check(!str_eq(r.items[i].id, id), "%s is there after its end", id);
	host_usage_report_done(&r);
}

// What is said that a removal frees is what it frees, of each in turn: others come to have alone
// what they shared.
static void frees(const void *arg)
{
	const char *order = arg; // digits: boxes; a, b: snapshots
	struct host *h;
	struct play *p = family(&h);
	for (const char *x = order; *x; x++) {
		bool box = *x >= '0' && *x <= '9';
		unsigned i = (unsigned)(*x - (box ? '0' : 'a'));
		const char *id = box ? p->box[i].id : p->snap[i].id;
		struct host_usage_report before = look(h, NULL);
		check_sums(&before);
		uint64_t said = item(&before, id)->frees_bytes;
		char gone[64];
		snprintf(gone, sizeof gone, "%s", id);
		if (box) {
			OK(play_destroy(h, p, i, NULL, &e));
			then_destroyed(p, i);
		} else {
			OK(play_delete(h, p, i, NULL, &e));
			then_deleted(p, i);
		}
		play_idle(h, p, "after a removal");
		struct host_usage_report after = look(h, NULL);
		uint64_t freed = held(&before) - held(&after);
		check(is_near(freed, said), "%c: said %lu, freed %lu", *x, said, freed);
		host_usage_report_done(&before);
		host_usage_report_done(&after);
		is_gone(h, gone);
	}
	play_close(h);
}

static void shares(const void *arg)
{
	struct host *h;
	struct play *p = family(&h);
	struct host_usage_report r = look(h, p->box[2].id);
	check_sums(&r);
	bool parent = false, image = false;
	for (size_t i = 0; i < r.n_shares; i++) {
		const struct host_usage_share *s = &r.shares[i];
		check(!str_eq(s->id, p->box[2].id), "it shares with itself");
		check(s->bytes <= item(&r, p->box[2].id)->bytes, "it shares more than it has");
		parent |= str_eq(s->id, p->box[1].id) || str_eq(s->id, p->box[3].id);
		image |= str_eq(s->kind, "image");
	}
	check(parent, "a fork shares nothing with its source");
	check(image || !on_xfs(), "it shares no block with its image");
	check(r.sum.shared_bytes > 0, "nothing is shared");
	host_usage_report_done(&r);
	struct host_usage_ask none = {.of = "nobody"};
	struct err e = {0};
	check(host_usage(h, &none, &r, &e) < 0 && e.code == ERR_NOT_FOUND, "nobody is found");
	play_close(h);
}

static bool yes(void *ctx)
{
	return --*(int *)ctx < 0;
}

// Who goes away stops it, whatever it is at.
static void stops(const void *arg)
{
	struct host *h;
	family(&h);
	for (int n = 0; n < 20; n++) {
		int left = n;
		struct host_usage_ask ask = {.stop = yes, .ctx = &left};
		struct host_usage_report r;
		struct err e = {0};
		check(host_usage(h, &ask, &r, &e) == -ECANCELED && e.code == ERR_CANCELED,
			"it went on");
	}
	play_close(h);
}

int main(int argc, char **argv)
{
	static const struct played_case cases[] = {
		{"usage/frees/children-first", frees, "3210ab"},
		{"usage/frees/parents-first", frees, "ab0123"},
		{"usage/frees/in-between", frees, "1a3b02"},
		{"usage/shares", shares},
		{"usage/stops", stops},
	};
	static const struct known_fault known[] = {{"", ""}};
	return cases_run(argc, argv, cases, ARRAY_SIZE(cases), known, ARRAY_SIZE(known));
}
