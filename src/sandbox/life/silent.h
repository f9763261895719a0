// SPDX-License-Identifier: Apache-2.0
// An agent that owes an answer (sandbox.owed): it did not thaw its guest after a snapshot that
// failed, or its guest was loaded from a snapshot that was taken without it. The sandbox runs. A
// job of the pool looks with growing breaks whether the agent answers anything, and asks again
// then; an event "agent_answers" tells. The job gives way to any operation.
#pragma once
#include "sandbox/table/table.h"

// At the end of a claim, host.lock held. Nothing is owed, or a job is at it: nothing is done.
void silent_ask(struct host *h, struct sandbox *s);
