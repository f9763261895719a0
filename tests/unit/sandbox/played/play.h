// SPDX-License-Identifier: Apache-2.0
// What must be true of a host: a small model (struct play) of the sandboxes and snapshots that the
// test knows of, and the comparison of a host with it, to the last byte and the last file.
#pragma once
#include "played/cases.h"
#include "played/played.h"

#define PLAY_BOXES 10u
#define PLAY_SNAPS 6u

enum box_state { BOX_NONE, BOX_RUNNING, BOX_PAUSED };
struct box {
	char id[SANDBOX_ID_SIZE];
	enum box_state state;
	struct content c; // now, or of what it is paused at
};
struct snap {
	char id[UUID_SIZE];
	bool there;
	char box[SANDBOX_ID_SIZE]; // whose it is
	struct content c;
};
struct play {
	struct box box[PLAY_BOXES];
	struct snap snap[PLAY_SNAPS];
	uint32_t number; // contents given out so far
};

// In memory that all processes share; ids are chosen, nothing is there yet.
struct play *play_new(void);
// The token that the guest of this box knows.
const char *play_token(const struct play *p, unsigned box);
// Opens the host and waits until its base image is made ready, so that nothing goes on behind the
// test's back.
struct host *play_open(void);
void play_close(struct host *h);
void play_settle(struct host *h); // waits until the base image is ready

// What users do; rc and the error are the host's. op NULL: a new operation.
int play_create(struct host *h, struct play *p, unsigned box, int snap, bool cold, const char *op,
	struct err *e);
int play_pause(struct host *h, struct play *p, unsigned box, const char *op, struct err *e);
// snap -1: what its pause kept.
int play_resume(struct host *h, struct play *p, unsigned box, int snap, bool disk_only,
	const char *op, struct err *e);
int play_snapshot(
	struct host *h, struct play *p, unsigned box, unsigned snap, const char *op, struct err *e);
int play_delete(struct host *h, struct play *p, unsigned snap, const char *op, struct err *e);
int play_destroy(struct host *h, struct play *p, unsigned box, const char *op, struct err *e);
// Two children: boxes first and first + 1; those that failed become BOX_NONE in p.
int play_fork(struct host *h, struct play *p, unsigned box, unsigned first, const char *op,
	struct err *e);
// The guest writes pages and a block, and so does the model.
void play_mark(struct play *p, unsigned box);

// What the model says after each of them.
void then_created(struct play *p, unsigned box, int snap);
void then_paused(struct play *p, unsigned box);
void then_resumed(struct play *p, unsigned box, int snap, bool disk_only);
void then_snapshot(struct play *p, unsigned box, unsigned snap);
void then_deleted(struct play *p, unsigned snap);
void then_destroyed(struct play *p, unsigned box);
void then_forked(struct play *p, unsigned box, unsigned first);

// NULL when each box and snapshot is as in one of the n models, and nothing else is there: no file,
// layer, slot, process, row or open operation. Else what is wrong; gone after the next call.
const char *play_differs(struct host *h, const struct play *const *may, size_t n);
// Waits until it is so (the upkeep tidies behind users' backs), at most some seconds.
const char *play_never(struct host *h, const struct play *const *may, size_t n);
void play_check(struct host *h, const struct play *p, const char *when);
// The same, and the upkeep has nothing left to do either: no template is to be merged.
void play_idle(struct host *h, const struct play *p, const char *when);
// Which of n models box is in; -1: none.
int play_which(struct host *h, const struct play *const *may, size_t n, unsigned box);
