// SPDX-License-Identifier: Apache-2.0
// A snapshot that a machine is loaded from.
#pragma once
#include "disk/image.h"
#include "sandbox/table/store.h"
#include "snapshot/store.h"

struct source {
	struct store_snapshot row;
	struct snapshot_info info;
	struct header *header;
	const struct vmm_choice *vmm; // that loads its memory; NULL: not asked for
	bool working_set;	      // one was recorded
	struct host *host;	      // it is in use (refs.h) until source_done
	struct layer_set held;
};
void source_done(struct source *src); // all zeros: nothing to do
// Reads and checks everything; ERR_UNAVAILABLE when this host's VMM cannot load it.
// disk_only: only the disk is wanted.
int source_open(struct host *h, const char *id, bool disk_only, struct source *ret, struct err *e);

// Of one that was taken without its guest's agent: it is resumed once, as memory, by its own
// sandbox. ERR_NOT_QUIESCED for what it is not good for. source_once: was it resumed before?
int source_refuse_unquiesced(const struct source *src, const char *what, struct err *e);
int source_once(struct host *h, const struct source *src, struct err *e);

// Could source_open load its memory? An error only where that cannot be said.
int source_check(struct host *h, const char *id, struct host_snapshot_check *ret, struct err *e);

// The frozen machine of a base image: the id of its snapshot, "" when there is none for this image
// and VMM.
int source_find_prewarmed(
	struct host *h, const struct image_info *img, char ret_snapshot[UUID_SIZE], struct err *e);
// A frozen machine cannot be loaded, whatever the reason: it goes, and the upkeep makes it anew.
void source_drop_prewarmed(struct host *h, const char *snapshot);
// What such a snapshot is found by: all that makes another machine of it.
void source_image_key(const struct host *h, const struct image_info *img, char out[65]);
