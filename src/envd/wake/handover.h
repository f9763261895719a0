// SPDX-License-Identifier: Apache-2.0
// The agent is replaced by another program, which the host sends: POST /upgrade.
//
// How it goes. The request's thread looks at the program (size, SHA-256, an ELF file of this
// machine), keeps it in a file without a name, and lets it read, in a process of its own, what it
// would be given. Then nothing is accepted any more: connections wait in the listening socket's
// queue. The main thread stops what reads from the processes (process/handover.h), waits for the
// requests under way, writes all into a sealed memfd and becomes the program by exec. That takes
// over processes, socket and settings, and puts itself in the place from which init would start the
// agent again. Whatever fails before the exec, the old agent goes on.
#pragma once
#include <sys/types.h>
#include "envd/wake/agent.h"
#include "http/server.h"

#define HANDOVER_VARIABLE "STASIS_HANDOVER" // descriptor of the state, for the new program
#define HANDOVER_CHECK "--check-handover"   // reads it at standard input, and ends
#define HANDOVER_SIGNAL SIGUSR1		    // to the main thread
#define HANDOVER_PROGRAM_MAX (16u << 20)

// The call; ctx is the struct agent.
void upgrade_post(struct http_request *req, void *ctx);
// On the main thread, after the signal: comes back when there was nothing to do (0) or it failed,
// with the listening socket for another server in *ret_fd; the old server must be given up.
int handover_run(struct agent *a, char *const *argv, int *ret_fd, struct err *e);

// In the new program. -1: it was started in the ordinary way.
int handover_state_fd(void);
// Takes settings and processes; *ret_listen is the socket. a has its table. check: the text alone
// is looked at, a may be NULL.
int handover_take(struct agent *a, int state_fd, bool check, int *ret_listen, struct err *e);
// So that init starts this program, too, should it end.
void handover_install(struct agent *a);
