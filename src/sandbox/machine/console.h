// SPDX-License-Identifier: Apache-2.0
// What a guest's console says. It is the guest's to write, and kept by the shim (console.log).
#pragma once
#include "sandbox/table/host.h"

// Appends the last lines (printable_tail). Nothing where there is no console.
void console_tail(struct host *h, const char *id, struct strbuf *ret);
// The last line that has a text, printable and cut where it is too long; "" when there is none.
void console_line(struct host *h, const char *id, const char *text, char *out, size_t size);
// What a machine that did not come up has said last, since its console had so many bytes: the
// kernel's panic where there is one, else the last line; "" when there is none.
void console_last(struct host *h, const char *id, uint64_t from, char *out, size_t size);
uint64_t console_size(struct host *h, const char *id); // 0 where there is none
// {"console": [line, ...]} for an event; NULL where there are none. Owned by the caller.
json_t *console_event(struct host *h, const char *id);
// Whether what was written since *seen bytes has word of a kill for lack of memory, the agent's or
// the kernel's. *seen becomes the console's size. Opens the file only where it has grown.
bool console_tells_of_kill(struct host *h, const char *id, uint64_t *seen);
// Does its end tell of a halt (the last line) or of a power-off? Looks where its length is not
// *size any more, which is set.
bool console_tells_of_halt(struct host *h, const char *id, uint64_t *size);
