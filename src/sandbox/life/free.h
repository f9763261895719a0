// SPDX-License-Identifier: Apache-2.0
// What a sandbox has on this machine is given back: processes, slot, uid, files.
//
// Processes can be slow to die: a disk is stuck, or there is much memory to free. Every caller
// waits for a limited time. What is not gone by then is *freeing*: slot, uid and files are still in
// use, no other sandbox gets them, and the host goes on trying. A server that starts takes up what
// the one before left (watch/settle.h).
#pragma once
#include "sandbox/table/table.h"

#define FREE_MS 2500 // what an operation waits

enum free_what {
	FREE_ALL,	  // the directory too
	FREE_BUT_CONSOLE, // for a while, or until it is resumed
};
// Kills what runs, waits up to wait_ms until all of it is free. The caller has claimed the sandbox
// and may let it go then. -EINPROGRESS: the rest is done in the background.
int sandbox_free(struct host *h, struct sandbox *s, enum free_what what, int wait_ms);
// host.lock held: until it is free, or the deadline. -ETIMEDOUT.
int sandbox_wait_free(struct host *h, struct sandbox *s, uint64_t deadline_ns);
// Of one that another operation still has: as soon as that lets go.
void sandbox_free_later(struct host *h, const struct sandbox *s);
// Ends the claim; row and table lose the sandbox, as soon as it is free.
void sandbox_forget(struct host *h, struct sandbox *s);
