// SPDX-License-Identifier: Apache-2.0
// What users do, and what the model says of it.
#include "played/play.h"
#include <string.h>
#include <sys/mman.h>
#include "base/clock.h"
#include "base/str.h"

struct play *play_new(void)
{
	struct play *p =
		mmap(NULL, sizeof *p, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	check(p != MAP_FAILED, "mmap");
	for (unsigned i = 0; i < PLAY_BOXES; i++)
		id_new_sandbox(p->box[i].id);
	for (unsigned i = 0; i < PLAY_SNAPS; i++)
		id_new_uuid(p->snap[i].id);
	return p;
}

const char *play_token(const struct play *p, unsigned box)
{
	static const char *const tokens[PLAY_BOXES] = {
		"t0", "t1", "t2", "t3", "t4", "t5", "t6", "t7", "t8", "t9"};
	return tokens[box];
}

static const char *op_or_new(const char *op, char made[UUID_SIZE])
{
	if (op)
		return op;
	id_new_uuid(made);
	return made;
}

void play_settle(struct host *h)
{
	for (int i = 0; i < 20000; i++) {
		struct host_template *list = NULL;
		size_t n = 0;
		struct err e = {0};
		check(host_templates(h, &list, &n, &e) == 0 && n == 1, "templates: %s", e.text);
		bool frozen = list[0].frozen;
		free(list);
		if (frozen)
			return;
		clock_sleep_ns(NSEC_PER_MSEC / 2);
	}
	check(false, "the base image is never made ready");
}

struct host *play_open(void)
{
	struct host *h = world_open();
	play_settle(h);
	return h;
}

void play_close(struct host *h)
{
	host_close(h, false);
}

int play_create(struct host *h, struct play *p, unsigned box, int snap, bool cold, const char *op,
	struct err *e)
{
	struct host_sandbox s;
	char made[UUID_SIZE];
	struct host_create req = {.cold = cold, .token = play_token(p, box)};
	snprintf(req.op_id, sizeof req.op_id, "%s", op_or_new(op, made));
	snprintf(req.id, sizeof req.id, "%s", p->box[box].id);
	snprintf(req.template, sizeof req.template, "base");
	if (snap >= 0)
		snprintf(req.snapshot, sizeof req.snapshot, "%s", p->snap[snap].id);
	return host_create(h, &req, &s, e);
}

int play_pause(struct host *h, struct play *p, unsigned box, const char *op, struct err *e)
{
	struct host_sandbox s;
	char made[UUID_SIZE];
	return host_pause(h, op_or_new(op, made), p->box[box].id, &s, e);
}

int play_resume(struct host *h, struct play *p, unsigned box, int snap, bool disk_only,
	const char *op, struct err *e)
{
	struct host_sandbox s;
	char made[UUID_SIZE];
	struct host_resume req = {.disk_only = disk_only, .token = play_token(p, box)};
	snprintf(req.op_id, sizeof req.op_id, "%s", op_or_new(op, made));
	snprintf(req.id, sizeof req.id, "%s", p->box[box].id);
	if (snap >= 0)
		snprintf(req.from, sizeof req.from, "%s", p->snap[snap].id);
	return host_resume(h, &req, &s, e);
}

int play_snapshot(
	struct host *h, struct play *p, unsigned box, unsigned snap, const char *op, struct err *e)
{
	struct host_snapshot s;
	char made[UUID_SIZE];
	struct host_snapshot_create req = {0};
	snprintf(req.op_id, sizeof req.op_id, "%s", op_or_new(op, made));
	snprintf(req.id, sizeof req.id, "%s", p->box[box].id);
	snprintf(req.snapshot, sizeof req.snapshot, "%s", p->snap[snap].id);
	return host_snapshot_create(h, &req, &s, e);
}

int play_delete(struct host *h, struct play *p, unsigned snap, const char *op, struct err *e)
{
	char made[UUID_SIZE];
	return host_snapshot_delete(h, op_or_new(op, made), p->snap[snap].id, e);
}

int play_destroy(struct host *h, struct play *p, unsigned box, const char *op, struct err *e)
{
	char made[UUID_SIZE];
	return host_destroy(h, op_or_new(op, made), p->box[box].id, "killed", e);
}

int play_fork(
	struct host *h, struct play *p, unsigned box, unsigned first, const char *op, struct err *e)
{
	struct host_sandbox info[2];
	struct host_fork_child children[2] = {0};
	char made[UUID_SIZE];
	struct host_fork req = {.children = children, .n = 2};
	snprintf(req.op_id, sizeof req.op_id, "%s", op_or_new(op, made));
	snprintf(req.id, sizeof req.id, "%s", p->box[box].id);
	for (unsigned i = 0; i < 2; i++) {
		id_new_uuid(children[i].op_id);
		memcpy(children[i].id, p->box[first + i].id, sizeof children[i].id);
		children[i].token = play_token(p, first + i);
		children[i].info = &info[i];
	}
	int rc = host_fork(h, &req, e);
	for (unsigned i = 0; rc == 0 && i < 2; i++)
		if (children[i].rc < 0)
			p->box[first + i].state = BOX_NONE;
	return rc;
}

void play_mark(struct play *p, unsigned box)
{
	static const uint8_t pages[] = {0, 1, 7, 8, 9, 90, 101, 200};
	struct box *b = &p->box[box];
	uint32_t n = ++p->number;
	for (unsigned i = 0; i < 3; i++) {
		unsigned page = pages[(n * 3 + i) % ARRAY_SIZE(pages)];
		// Sometimes a page that had something becomes zeros.
		uint32_t number = n % 4 == 3 && i == 0 ? 0 : n * 10 + i;
		check(guest_write(b->id, page, number), "guest of box %u writes", box);
		b->c.page[page] = number;
	}
	check(guest_write_disk(b->id, n % PLAYED_BLOCKS, n), "guest of box %u writes", box);
	b->c.disk[n % PLAYED_BLOCKS] = n;
}

// ---- the model

void then_created(struct play *p, unsigned box, int snap)
{
	p->box[box].state = BOX_RUNNING;
	p->box[box].c = snap >= 0 ? p->snap[snap].c : content_booted;
}

void then_paused(struct play *p, unsigned box)
{
	p->box[box].state = BOX_PAUSED;
}

void then_resumed(struct play *p, unsigned box, int snap, bool disk_only)
{
	struct box *b = &p->box[box];
	b->state = BOX_RUNNING;
	if (snap >= 0)
		b->c = p->snap[snap].c;
	if (disk_only)
		memcpy(b->c.page, content_booted.page, sizeof b->c.page);
}

void then_snapshot(struct play *p, unsigned box, unsigned snap)
{
	p->snap[snap].there = true;
	p->snap[snap].c = p->box[box].c;
	memcpy(p->snap[snap].box, p->box[box].id, sizeof p->snap[snap].box);
}

void then_deleted(struct play *p, unsigned snap)
{
	p->snap[snap].there = false;
}

void then_destroyed(struct play *p, unsigned box)
{
	p->box[box].state = BOX_NONE;
}

void then_forked(struct play *p, unsigned box, unsigned first)
{
	for (unsigned i = first; i < first + 2; i++) {
		p->box[i].state = BOX_RUNNING;
		p->box[i].c = p->box[box].c;
	}
}
