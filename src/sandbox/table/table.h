// SPDX-License-Identifier: Apache-2.0
// The sandboxes of this host, by their ids, and the paths of each.
#pragma once
#include "sandbox/table/host.h"

// All: host.lock held.
unsigned host_live(
	const struct host *h); // sandboxes that have, or are getting, something to run on
struct sandbox *host_find(struct host *h, const char *id);
int host_insert(struct host *h, struct sandbox *s);
bool host_is_unknown(const struct host *h, unsigned kind, const char *name);
void host_remove(struct host *h, struct sandbox *s);  // unlinks and frees; not one being freed
void host_release(struct host *h, struct sandbox *s); // ends the claim; what runs is watched
// When it ends by itself (CLOCK_REALTIME, 0: never); counted by the monotonic clock from now on, so
// that a clock that is set ends nothing. host.lock held.
void sandbox_set_end(struct sandbox *s, uint64_t ends_at_ns);
// One after the other, NULL at the end: s = host_next(h, NULL). The next one is known before this
// one may be removed.
struct sandbox *host_next(const struct host *h, const struct sandbox *s);

// The paths of a sandbox: <run>/<id> and sandboxes/<id>[/<file>] below the data directory.
int host_run_path(const struct host *h, const char *id, char out[512]);
int host_disk_path(const struct host *h, const char *id, const char *file, char out[512]);
// Descriptor of its directory below the data directory, or -errno.
int host_open_disk(const struct host *h, const char *id, struct err *e);
