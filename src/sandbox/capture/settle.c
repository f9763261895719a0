// SPDX-License-Identifier: Apache-2.0
// What becomes of a diff when its capture has ended: see capture_settle.
#include "sandbox/capture/settle.h"
#include <fcntl.h>
#include <string.h>
#include "base/file.h"
#include "base/log.h"
#include "sandbox/capture/publish.h"
#include "sandbox/machine/lineage.h"
#include "sandbox/machine/runtimes.h"

// Whether the VMM has left a complete diff: under its name, taken, or a layer already. 1, 0, or the
// -errno that keeps it from being known.
static int diff_is_there(const struct host *h, int dir, const struct capture *c)
{
	char data[sizeof "layers/" + UUID_SIZE], sums[sizeof data + 4];
	snprintf(data, sizeof data, "layers/%.36s", c->layer);
	snprintf(sums, sizeof sums, "%s.sum", data);
	const struct {
		int dir;
		const char *name;
	} names[] = {{dir, SNAP_MEM}, {h->data_fd, c->stage.mem}, {h->data_fd, data},
		{h->data_fd, sums}};
	if (c->header)
		return 1;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		int there = file_there(names[i].dir, names[i].name);
		if (there != 0)
			return there;
	}
	return 0;
}

// A server that was killed after the settling, but before its row said so, had done it.
static bool is_settled(int dir, const char *layer)
{
	_cleanup_(header_freep) struct header *base = NULL;
	if (header_read(dir, LINEAGE_FILE, &base, NULL) < 0)
		return false;
	for (uint32_t i = 0; i < base->n_layers; i++)
		if (str_eq(base->layers[i], layer))
			return true;
	return false;
}

// The diff goes, or cannot be told from one that is not there: whoever settles it once more (the
// row does not say yet how this ended) must not take that for "nothing was reset". So base.hdr,
// which is of no use any more, goes first.
static bool give_up_base(struct host *h, struct sandbox *s, int dir)
{
	if (unlinkat(dir, LINEAGE_FILE, 0) < 0 && errno != ENOENT)
		return false;
	lineage_forget(h, s); // its layers are not needed for it any more
	return true;
}

// The lineage rule (capture.c): base.hdr and the VMM's dirty tracking together are all of the
// guest's memory. A VMM that has written a diff begins its tracking anew. The pages of that diff
// are then in the diff alone: it becomes a layer of base.hdr, or the next snapshot is a full one
// (full_next). The cases, in the order in which they are asked:
//
// * base.hdr names the layer already. A server was killed after the settling and before the row
//   said so: the lineage is certain.
// * There is no base.hdr, although the last one was not to be a full one: the diff was lost by an
//   earlier settling. The next one is full.
// * The diff is complete: the VMM said so (taken), or fcqemu has left it. fcqemu gives the file its
//   name when all of it is there, so a file with that name counts, whatever became of the answer.
//   The diff becomes a layer and base.hdr names it: the lineage is certain, also where it was not
//   before, since then the diff was a full one. If that fails the diff is lost, and the next one is
//   full.
// * Nothing was reset: the VMM was not asked, or fcqemu was and has left no diff. What was known of
//   the lineage before is still true.
// * All else: a Firecracker that was asked and did not say "done", a file system that cannot tell
//   whether the diff is there. Uncertain, so the next one is full.
void capture_settle(struct host *h, struct sandbox *s, struct capture *c)
{
	struct err e = {0};
	_cleanup_close_ int dir = host_open_disk(h, s->info.id, &e);
	if (dir < 0) {
		s->full_next |= c->asked; // what was uncertain stays so
		return;
	}
	if (is_settled(dir, c->layer)) {
		s->full_next = false;
		stage_drop(h, dir, &c->stage);
		return;
	}
	if (!s->full_next && file_there(dir, LINEAGE_FILE) == 0) {
		s->full_next = true;
		lineage_forget(h, s);
		stage_drop(h, dir, &c->stage);
		return;
	}
	// The VMM's answer may have been lost, not what it wrote.
	int there = diff_is_there(h, dir, c);
	bool firecracker = runtime_of(h, s)->firecracker;
	bool complete = c->taken || (there == 1 && !firecracker);
	bool untouched = !c->asked || (there == 0 && !firecracker);
	int rc = complete && !c->header ? capture_ingest(h, s, c, dir, &e) : 0;
	if (rc == 0 && complete)
		rc = lineage_write(h, s, c->header, &e);
	if (rc < 0)
		log_warn("diff lost, the next snapshot will be a full one sandbox=%s error=%s",
			s->info.id, e.text);
	// What was uncertain before stays so unless a full one was taken just now.
	s->full_next = complete ? rc < 0 : untouched ? s->full_next : true;
	if (!s->full_next || untouched || give_up_base(h, s, dir))
		stage_drop(h, dir, &c->stage);
}
