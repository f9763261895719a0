// SPDX-License-Identifier: Apache-2.0
// Guests that were halted. They have no power switch that their VMM would see: it runs on with
// processors that do nothing, for ever. The end of the console says so; but any program of the
// guest may write that too, so nothing is ended whose kernel still answers a connection.
#pragma once
#include "sandbox/table/host.h"

#define HALT_SILENT 4u
#define HALT_ASK_MS 2000 // for an answer to one question

// Looks at the console's end, where the console has changed. Should the guest be asked now?
bool halt_listen(struct host *h, const char *id);
// Takes seconds. Ends the machine of a guest whose kernel has answered none of HALT_SILENT
// questions in a row: the end is judged as any other (life/end.c).
void halt_ask(struct host *h, const char *id);
