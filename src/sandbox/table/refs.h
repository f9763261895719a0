// SPDX-License-Identifier: Apache-2.0
// Who needs which layer, snapshot and runtime (a kept VMM): counts in memory, built at the start
// and kept by every operation, so that nothing is ever searched for what is in use.
//
// A layer is needed by each snapshot whose header names it, by base.hdr of each running sandbox,
// and by the operation that makes it. A snapshot is needed until it is dropped, and after that by
// those who read it (a create, a resume, a merge). A runtime is needed by each snapshot whose
// snapshot.json names it, by what runs on it, and as the one that new sandboxes get. What nobody
// needs any more is on a list that the upkeep empties: it removes files, nobody waits for it.
// Thread-safe, with a lock of its own that is held over nothing slow.
#pragma once
#include "snapshot/header.h"

struct refs;
struct refs *refs_new(void);
struct refs *refs_free(struct refs *r);

// Layers of a header; NULL: none. -ENOMEM: none of them is held.
struct layer_set {
	uint32_t n;
	char (*ids)[UUID_SIZE];
};
int layer_set_of(const struct header *h, struct layer_set *ret);
void layer_set_done(struct layer_set *s);
int refs_hold_layers(struct refs *r, const struct layer_set *s);
void refs_release_layers(struct refs *r, const struct layer_set *s);
int refs_hold_layer(struct refs *r, const char *id);
void refs_release_layer(struct refs *r, const char *id);

// id "": nothing to hold.
int refs_hold_runtime(struct refs *r, const char *id);
void refs_release_runtime(struct refs *r, const char *id);
bool refs_next_runtime(struct refs *r, char ret_id[UUID_SIZE]);
// The snapshot holds it as long as it is there itself, "": none. -ENOENT: no such snapshot.
int refs_name_runtime(struct refs *r, const char *snapshot, const char *id);
bool refs_snapshot_names(struct refs *r, const char *snapshot, const char *id);

// A snapshot whose files are there. A second call replaces its layers (a merge).
int refs_add_snapshot(struct refs *r, const char *id, const struct header *h);
// -ENOENT when there is none, or it is dropped. Its layers as they are now are held as well, so
// that a header that was read before a merge can still be used. Given back with both.
int refs_use_snapshot(struct refs *r, const char *id, struct layer_set *ret);
void refs_unuse_snapshot(struct refs *r, const char *id, struct layer_set *held);
// Nobody can begin to use it any more. Its files go when its last user has, and then its layers.
// One that is not known (its header cannot be read) is removed too.
int refs_drop_snapshot(struct refs *r, const char *id);
bool refs_has_snapshot(struct refs *r, const char *id);
bool refs_knows_snapshot(struct refs *r, const char *id); // a dropped one too

// The next one that nobody needs: its files are the caller's to remove now. A snapshot's layers are
// released by refs_snapshot_gone, after its files are.
bool refs_next_snapshot(struct refs *r, char ret_id[UUID_SIZE]);
void refs_snapshot_gone(struct refs *r, const char *id);
void refs_snapshot_stays(struct refs *r, const char *id); // could not be removed: again later
// A copy of the layers that a snapshot needs, the caller's; nothing is held. Empty where it is not
// known.
int refs_snapshot_layers(struct refs *r, const char *id, struct layer_set *ret);
bool refs_next_layer(struct refs *r, char ret_id[UUID_SIZE]);
unsigned refs_layer_users(struct refs *r, const char *id); // snapshots, sandboxes, operations
// Whether somebody needs it, or it waits on the list.
bool refs_knows_layer(struct refs *r, const char *id);
