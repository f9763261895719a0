// SPDX-License-Identifier: Apache-2.0
// How a running sandbox becomes a snapshot.
#pragma once
#include "http/client.h"
#include "sandbox/capture/stage.h"
#include "sandbox/table/store.h"
#include "snapshot/store.h"

struct capture {
	char snapshot[UUID_SIZE], layer[UUID_SIZE], image[UUID_SIZE];
	const char *kind; // of the snapshot's row
	struct stage stage;
	const char *image_key;
	const struct host_snapshot *of; // that it is to take the place of; NULL: none
	bool quiesced;			// its agent has frozen it
	char unanswered[160];		// why not, where it was stopped all the same; else ""
	bool went_on;			// the guest runs again
	bool asked;			// the VMM was told to write: its tracking may be reset
	bool taken;			// memory and state are complete, in the sandbox's directory
	struct header *header;		// of the image, once its layer is published
	bool published;			// the snapshot exists; its row does not yet
	struct store_snapshot row;
	uint64_t stopped_ns, went_on_ns; // CLOCK_MONOTONIC
	uint64_t promised;		 // of the volume's room (table/space.h)
	struct http_client *agent;	 // the guest's, kept from freeze to thaw
};
// committed: its snapshot has a row. Else it is discarded, and what was not published with it.
void capture_done(struct host *h, struct capture *c, bool committed);
// Chooses the ids and gives the text that goes into the journal before anything is done.
// snapshot NULL: a new id. full: the sandbox's full_next.
int capture_init(
	struct capture *c, const char *kind, const char *snapshot, bool full, char journal[200]);
// Bytes that taking it may write at most: the guest's memory, or what its VMM has of it.
uint64_t capture_needs(struct host *h, struct sandbox *s);
// Guest quiesced and stopped, its dirty memory, device state and disk put beside its disk. The
// guest is left stopped. On error it was let go again. A pause needs no agent: a guest whose agent
// does not freeze it is stopped without (c->quiesced is false). One that is held stands still
// already.
int capture_take(
	struct host *h, struct sandbox *s, struct capture *c, uint64_t *since, struct err *e);
// The guest goes on: stopped VMM resumed, processes thawed. On its own clock. Where its agent does
// not answer the thaw is owed, which the caller commits (s->owed).
int capture_let_go(struct host *h, struct sandbox *s, struct capture *c, struct err *e);
