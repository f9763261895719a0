// SPDX-License-Identifier: Apache-2.0
#include "played/judge.h"
#include <string.h>
#include "base/str.h"

const struct act *act;
struct run *run;

static struct play *may[3];
static size_t n_may;

void judge_one_of(struct host *h, bool after, bool others, const char *when)
{
	n_may = 0;
	if (after)
		may[n_may++] = &run->after;
	if (others)
		may[n_may++] = &run->before;
	if (others && act->middle)
		may[n_may++] = &run->middle;
	const char *wrong = play_never(h, (const struct play *const *)may, n_may);
	check(!wrong, "%s: %s", when, wrong);
}

static bool is_after(struct host *h)
{
	const struct play *p = &run->after;
	return !play_differs(h, &p, 1);
}

void judge_again(struct host *h)
{
	struct err e = {0};
	bool was = is_after(h);
	if (was && act->timed)
		return;
	int rc = act->run(h, run, run->op, false, &e);
	if (was && rc < 0)
		check(e.code == ERR_CONFLICT && str_starts(act->name, "fork"),
			"done, and asked again it says: %s", e.text);
	judge_one_of(h, true, !was && rc < 0, "after it was asked again");
	if (is_after(h))
		return;
	e = (struct err){0};
	check(act->run(h, run, NULL, true, &e) == 0, "tried again: %s", e.text);
	// What the first attempt made of a fork stays.
	struct play want = run->before;
	act->then(&want, true);
	if (!str_starts(act->name, "fork") && !str_starts(act->name, "snapshot") &&
		!str_eq(act->name, "resume-once"))
		want = run->after;
	const struct play *made = &run->after;
	for (unsigned i = CHILD; i < CHILD + 2; i++)
		if (play_which(h, &made, 1, i) == 0)
			want.box[i] = made->box[i];
	play_check(h, &want, "after it was tried again");
	run->after = want;
}

void judge_use(struct host *h)
{
	struct play *p = &run->after;
	struct err e = {0};
	if (p->box[SUBJECT].state == BOX_NONE)
		return;
	if (p->box[SUBJECT].state == BOX_PAUSED) {
		check(play_resume(h, p, SUBJECT, -1, false, NULL, &e) == 0, "resume: %s", e.text);
		then_resumed(p, SUBJECT, -1, false);
	}
	play_mark(p, SUBJECT);
	check(play_pause(h, p, SUBJECT, NULL, &e) == 0, "pause: %s", e.text);
	then_paused(p, SUBJECT);
	check(play_resume(h, p, SUBJECT, -1, false, NULL, &e) == 0, "resume: %s", e.text);
	then_resumed(p, SUBJECT, -1, false);
	play_check(h, p, "after it was used");
}
