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
// For how long an agent that answers nothing is waited for.
unsigned machine_agent_wait_ms(const struct host *h, const struct sandbox *s);
// A call to an agent that is not waited for once it is silent: where it has answered nothing for
// that long, not even GET /health, or has not finished in max_ms.
struct agent_wait {
	struct host *h;
	struct sandbox *s;
	uint64_t begun_ns, heard_ns; // CLOCK_MONOTONIC
	unsigned wait_ms, max_ms;
	bool doubted, silent;
};
void agent_wait_begin(struct agent_wait *w, struct host *h, struct sandbox *s, unsigned max_ms);
// An answer has come: the wait begins anew, up to max_ms.
void agent_wait_heard(struct agent_wait *w);
// A tick (http_call). ctx: the wait.
int agent_wait_tick(void *ctx);
// What a call says that was ended by the tick; else rc.
int agent_wait_error(const struct agent_wait *w, int rc, struct err *e);
// A tick (http_call) that ends a call to a guest whose VMM has ended. ctx: the sandbox.
int machine_is_gone(void *ctx);
// Ends an error with what the guest said last since its machine was started, if anything.
void machine_last_words(struct host *h, const struct sandbox *s, struct err *e);
// The VMM has ended, or does within wait_ms: e says how. "when" completes "the VMM ended while the
// guest ...".
bool machine_has_ended(
	struct host *h, struct sandbox *s, int wait_ms, const char *when, struct err *e);
