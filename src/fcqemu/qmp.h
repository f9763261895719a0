// SPDX-License-Identifier: Apache-2.0
// Client of QEMU's control protocol (QMP) on an inherited socket. Every call has a time-out: a QEMU
// that hangs (a lost page server blocks it with its lock held) must not hang us. Answers that come
// too late are recognised by their id and dropped.
#pragma once
#include <jansson.h>
#include "base/err.h"
#include "base/str.h"

struct qmp {
	int fd;	   // -1: not connected
	int watch; // -1, or a socket of somebody without whom QEMU would hang: its end ends a wait
	uint64_t last_id;
	uint64_t events; // seen so far
	struct strbuf in;
	char version[32]; // of QEMU, from its greeting
};

// Takes fd over; watch (see above) is only looked at, until the caller sets it to -1. Reads the
// greeting and negotiates.
int qmp_open(struct qmp *q, int fd, int watch, int timeout_ms, struct err *e);
void qmp_close(struct qmp *q);
// args is stolen, NULL for none; pass_fd -1 or a descriptor sent along (getfd). *ret (may be NULL)
// is owned by the caller.
int qmp_call(struct qmp *q, const char *command, json_t *args, int pass_fd, int timeout_ms,
	json_t **ret, struct err *e);
// Waits until more than that many events were seen; what for is named in the error. An answer may
// be older than the events that came before it: read q->events, ask, then wait.
int qmp_wait_event(struct qmp *q, uint64_t events, const char *what, int timeout_ms, struct err *e);
// Reads away what QEMU tells unasked. -ECONNRESET when it has closed.
int qmp_drain(struct qmp *q);
