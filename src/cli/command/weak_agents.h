// SPDX-License-Identifier: Apache-2.0
// Which snapshots of a data directory have agents with a known weakness in their memory.
#pragma once
#include "base/err.h"
#include "base/str.h"

struct weak_agents {
	unsigned snapshots; // that could be read
	unsigned weak;
	struct strbuf names; // the first few: of paused ones the sandbox, else the snapshot's id
};

// Reads snapshot.json of each. *ret is the caller's (weak_agents_done).
int weak_agents_look(const char *data_dir, struct weak_agents *ret, struct err *e);
void weak_agents_done(struct weak_agents *w);
