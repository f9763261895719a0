// SPDX-License-Identifier: Apache-2.0
// Memory of another host, or of this one before something of it changed, in the played world: what
// cannot be loaded is refused before anything is started, and what can be had in another way is.
#include <string.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/str.h"
#include "played/play.h"

#define OK(call)                                                                                   \
	do {                                                                                       \
		struct err e = {0};                                                                \
		check((call) == 0, "%s: %s", #call, e.text);                                       \
	} while (0)

// Another start of the server, which finds KVM or not.
static struct host *start_again(struct host *h, bool emulated)
{
	char path[160];
	play_close(h);
	snprintf(path, sizeof path, "%s/probe.json", world.run);
	unlink(path);
	atomic_store(&world.stage->emulated, emulated);
	return play_open();
}

// The upkeep waits long after a failure, and one may be under way still.
static void settle_after_failure(struct host *h)
{
	for (int i = 0; i < 1000; i++) {
		struct host_template *list = NULL;
		size_t n = 0;
		OK(host_templates(h, &list, &n, &e));
		bool frozen = n && list[0].frozen;
		free(list);
		if (frozen)
			return;
		stage_skip_ms(310000);
		clock_sleep_ns(5 * NSEC_PER_MSEC);
	}
	check(false, "the base image is never made ready");
}

static void check_backend(struct host *h, const struct play *p, unsigned box, const char *want)
{
	struct host_sandbox s;
	OK(host_get(h, p->box[box].id, &s, &e));
	check(str_eq(s.backend, want), "backend of box %u is '%s', should be '%s'", box, s.backend,
		want);
}

static void check_refused(int rc, const struct err *e, const char *word, const char *when)
{
	check(rc < 0 && e->code == ERR_UNAVAILABLE, "%s: %d, %s", when, rc, e->text);
	check(strstr(e->text, "--disk-only") && strstr(e->text, word), "%s: %s", when, e->text);
	// The first step of each operation passes a fault point.
	for (unsigned i = 0; i < atomic_load(&world.stage->n_hits); i++) {
		const char *hit = world.stage->hits[i];
		check(!str_starts(hit, "resume.") && !str_starts(hit, "create.") &&
				!str_starts(hit, "rollback."),
			"%s: something was begun: %s", when, hit);
	}
}

// A base image's frozen machine is of one accelerator. The other boots, and has its own soon.
static void frozen_for_the_other(const void *arg)
{
	const bool *first_emulated = arg;
	struct play *p = play_new();
	struct host *h = start_again(play_open(), *first_emulated);
	OK(play_create(h, p, 0, -1, false, NULL, &e));
	then_created(p, 0, -1);
	check_backend(h, p, 0, "file");
	h = start_again(h, !*first_emulated); // until its image is frozen
	OK(play_create(h, p, 1, -1, false, NULL, &e));
	then_created(p, 1, -1);
	check_backend(h, p, 1, "file");
	play_check(h, p, "with the other accelerator");
	play_close(h);
}

// The VMM does not take it, whatever it is that it does not like: the image boots.
static void frozen_and_refused(const void *arg)
{
	struct play *p = play_new();
	struct host *h = play_open();
	stage_trouble("vmm_snapshot_load", "", TROUBLE_FAILS, true);
	OK(play_create(h, p, 0, -1, false, NULL, &e));
	stage_calm();
	then_created(p, 0, -1);
	check_backend(h, p, 0, "boot");
	play_settle(h); // it is made anew
	play_check(h, p, "after a boot in place of a load");
	OK(play_create(h, p, 1, -1, false, NULL, &e));
	then_created(p, 1, -1);
	check_backend(h, p, 1, "file");
	play_check(h, p, "after a load");
	// That no answer comes is no refusal: a boot would take longer still.
	struct err why = {0};
	stage_trouble("vmm_snapshot_load", "", TROUBLE_SILENT, true);
	check(play_create(h, p, 2, -1, false, NULL, &why) < 0 && why.code == ERR_TIMEOUT,
		"a silent load: %s", why.text);
	stage_calm();
	// A boot that fails too is the create's end, and leaves nothing.
	why = (struct err){0};
	stage_trouble("vmm_s*", "", TROUBLE_FAILS, false); // load and start
	check(play_create(h, p, 3, -1, false, NULL, &why) < 0 && strstr(why.text, "vmm_start"),
		"neither load nor boot: %s", why.text);
	stage_calm();
	settle_after_failure(h);
	play_check(h, p, "after failures");
	// A user's snapshot is what was asked for: nothing takes its place.
	OK(play_snapshot(h, p, 0, 0, NULL, &e));
	then_snapshot(p, 0, 0);
	stage_trouble("vmm_snapshot_load", "", TROUBLE_FAILS, true);
	check(play_create(h, p, 4, 0, false, NULL, &why) < 0, "a template that is refused");
	stage_calm();
	play_check(h, p, "after a template that is refused");
	play_close(h);
}

// Its files are damaged, or lost.
static void frozen_and_damaged(const void *arg)
{
	struct play *p = play_new();
	struct host *h = play_open();
	char command[512];
	snprintf(command, sizeof command, "rm -f %s/snapshots/*/vmstate", world.data);
	check(system(command) == 0, "%s", command);
	for (unsigned box = 0; box < 2; box++) {
		OK(play_create(h, p, box, -1, false, NULL, &e));
		then_created(p, box, -1);
		check_backend(h, p, box, box ? "file" : "boot");
		play_settle(h);
	}
	play_check(h, p, "after a damaged frozen machine");
	play_close(h);
}

// The user's memory: refused before anything is begun, and the disk is to be had.
static void paused_with_the_other(const void *arg)
{
	struct play *p = play_new();
	struct host *h = play_open();
	struct err why = {0};
	for (unsigned box = 0; box < 2; box++) {
		OK(play_create(h, p, box, -1, false, NULL, &e));
		then_created(p, box, -1);
		play_mark(p, box);
	}
	OK(play_snapshot(h, p, 0, 0, NULL, &e));
	then_snapshot(p, 0, 0);
	OK(play_pause(h, p, 0, NULL, &e));
	then_paused(p, 0);
	struct host_snapshot_check fits;
	OK(host_snapshot_check(h, p->snap[0].id, &fits, &e));
	check(fits.resumes && !fits.reason[0], "here: %s", fits.reason);
	h = start_again(h, true);
	OK(host_snapshot_check(h, p->snap[0].id, &fits, &e));
	check(!fits.resumes && strstr(fits.reason, "kvm"), "elsewhere: %s", fits.reason);
	check(host_snapshot_check(h, p->snap[1].id, &fits, &why) < 0 && why.code == ERR_NOT_FOUND,
		"one that is not there: %s", why.text);
	atomic_store(&world.stage->n_hits, 0);
	check_refused(play_resume(h, p, 0, -1, false, NULL, &why), &why, "kvm", "resume");
	char remedy[128];
	snprintf(remedy, sizeof remedy, "'stasis resume --disk-only %s'", p->box[0].id);
	check(strstr(why.text, remedy), "of what is paused: %s", why.text);
	check_refused(play_resume(h, p, 0, 0, false, NULL, &why), &why, "kvm", "roll-back");
	snprintf(remedy, sizeof remedy, "'stasis resume --from NAME --disk-only %s'", p->box[0].id);
	check(strstr(why.text, remedy), "of one's own snapshot: %s", why.text);
	check_refused(play_create(h, p, 2, 0, false, NULL, &why), &why, "kvm", "create");
	check(strstr(why.text, "'stasis snapshot rewarm NAME' takes a named one again"),
		"of a template: %s", why.text);
	play_check(h, p, "after refusals");
	OK(play_resume(h, p, 0, -1, true, NULL, &e));
	then_resumed(p, 0, -1, true);
	play_check(h, p, "after the disk alone");
	// Damaged is an answer too.
	char header[256];
	snprintf(header, sizeof header, "%s/snapshots/%s/memory.hdr", world.data, p->snap[0].id);
	check(truncate(header, 10) == 0, "%s", header);
	OK(host_snapshot_check(h, p->snap[0].id, &fits, &e));
	check(!fits.resumes && fits.reason[0], "a damaged one resumes");
	play_close(h);
}

int main(int argc, char **argv)
{
	static const bool yes = true, no = false;
	static const struct played_case cases[] = {
		{"frozen/kvm-tcg", frozen_for_the_other, &no},
		{"frozen/tcg-kvm", frozen_for_the_other, &yes},
		{"frozen/refused", frozen_and_refused},
		{"frozen/damaged", frozen_and_damaged},
		{"paused", paused_with_the_other},
	};
	static const struct known_fault known[] = {{"", ""}};
	return cases_run(argc, argv, cases, ARRAY_SIZE(cases), known, ARRAY_SIZE(known));
}
