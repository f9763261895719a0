// SPDX-License-Identifier: Apache-2.0
// What each sandbox uses of the machine: for /metrics, and one by one.
#pragma once
#include "sandbox/table/table.h"

// The claimed sandbox is about to start, and has a slot: what it uses is counted from now on.
// Interfaces are older than the guest in them, so that their counts of now are noted.
void meter_begin(struct sandbox *s);
// Prometheus text of all, at most h->metrics_sandboxes of them, those that run first.
int meter_print(struct host *h, struct strbuf *out, struct err *e);
