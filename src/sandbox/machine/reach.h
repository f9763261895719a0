// SPDX-License-Identifier: Apache-2.0
// How a machine is reached: its VMM and its agent.
#pragma once
#include "agentclient/version.h"
#include "http/client.h"
#include "sandbox/table/table.h"
#include "vmm/vmm.h"

// Client of the VMM of a running sandbox.
int machine_vmm(struct host *h, const struct sandbox *s, struct vmm **ret, struct err *e);
// Client of its agent; url has room for 96 bytes and lives as long as the client.
int machine_agent(const struct sandbox *s, char url[96], struct http_client **ret, struct err *e);
// What the agent told of itself goes into the sandbox's row; where there was no answer, nothing
// does.
void machine_note_agent(struct host *h, struct sandbox *s, const struct agent_version *v);
// A tick (http_call) that ends a call to a guest whose VMM has ended. ctx: the sandbox.
int machine_is_gone(void *ctx);
// Ends an error with what the guest said last since its machine was started, if anything.
void machine_last_words(struct host *h, const struct sandbox *s, struct err *e);
// The VMM has ended, or does within wait_ms: e says how. "when" completes "the VMM ended while the
// guest ...".
bool machine_has_ended(
	struct host *h, struct sandbox *s, int wait_ms, const char *when, struct err *e);
