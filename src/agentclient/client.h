// SPDX-License-Identifier: Apache-2.0
// Client of envd's protocol: used by the host (init, health, buffered exec, straight to the slot's
// address) and by the command line (streams, through the edge).
#pragma once
#include "agentclient/oom.h"
#include "agentclient/version.h"
#include "http/client.h"

#define ENVD_PORT 49983
#define ENVD_INSTANCE_SIZE 17

struct envd_target {
	const char *base_url; // "http://10.213.0.1:49983" or the edge's address
	const char *token;    // X-Access-Token; NULL: none
	const char *
		sandbox_id; // not NULL: through the edge (adds E2b-Sandbox-Id and E2b-Sandbox-Port)
	const char *user;   // Basic authorization; NULL: the agent's default
	// ENVD_INSTANCE_SIZE bytes, may be NULL: filled by health, init, freeze and thaw, also when
	// the agent refuses. Another value than before: the agent was started anew. "": it does not
	// say.
	char *instance;
	// By the same calls, where there was an answer; may be NULL.
	struct agent_version *version;
	// For the calls that end with one answer: see http_call.tick; may be NULL.
	int (*tick)(void *ctx);
	void *ctx;
	// For streams and unary calls: see http_call.alive; may be NULL.
	int (*alive)(void *ctx, struct err *e);
	void *alive_ctx;
	int silence_ms;
};

struct envd_init {
	const char *token;	  // new access token
	json_t *env;		  // map of strings, borrowed; may be NULL
	uint64_t timestamp_ns;	  // CLOCK_REALTIME of the host, taken at the call when 0
	const char *hostname;	  // may be NULL
	const char *default_user; // may be NULL
	const char *dns; // name servers for /etc/resolv.conf, commas between; NULL or "": none told
	bool dns_own;	 // asked for: replaces a file that is the user's
	const void *entropy; // fresh bytes for the kernel's generator
	size_t entropy_len;
	bool grow_root; // resize the root file system to its device
	// After a snapshot/load: the guest is frozen (envd_call_freeze). Everything above is done
	// first, TCP connections of before are ended, then the processes are let go.
	bool resumed;
	// Host's ticks of the time stamp counter per tick that the guest believes in, as parts per
	// million off 1; 0: the same. Only emulated guests need it: the guest's clocks are slowed
	// or sped up by it (adjtimex, at most 10 %).
	int clock_ppm;
};

struct envd_process {
	const char *cmd;	 // NULL: shell is run as /bin/bash -l -c shell
	const char *const *args; // NULL-terminated, without argv[0]; may be NULL
	const char *shell;
	json_t *env; // borrowed, may be NULL
	const char *cwd;
	const char *tag;
	bool stdin_open;
	bool pty;
	// The end comes with the process's exit and what it wrote until then, whoever else holds
	// its output; without it, as E2B's clients expect, with the end of the output.
	bool end_on_exit;
	unsigned cols, rows;
	uint64_t timeout_ms; // Connect-Timeout-Ms; 0: none. The agent kills the process when it
			     // elapses.
	// Events, on the calling thread. Non-zero ends the call with -ECANCELED.
	int (*on_start)(void *ctx, uint32_t pid);
	int (*on_data)(
		void *ctx, int stream, const void *data, size_t len); // 1 stdout, 2 stderr, 0 pty
	int (*tick)(void *ctx);					      // see http_call.tick
	void *ctx;
};

struct envd_exit {
	int exit_code; // -1 when killed by a signal
	bool exited;
	bool output_open;    // others hold its output, and what they write is not told
	char status[64];     // "exit status 1", "signal: killed"
	struct envd_oom oom; // of it, or what it started; count 0: none
};

// GET /health on the client's connection, which stays open for the next call.
int envd_call_health(
	struct http_client *c, const struct envd_target *t, int timeout_ms, struct err *e);
// *ret_guest_ns (may be NULL): how much of the call's time the guest was at work on it. The rest is
// the way there and back, so the time that was told is late by at most that.
int envd_call_init(struct http_client *c, const struct envd_target *t, const struct envd_init *i,
	int timeout_ms, uint64_t *ret_guest_ns, struct err *e);
// Tells an agent that was started anew what every guest is told: token, host name, time. For one
// that has lost its settings; harmless for any other that knows t->token.
int envd_call_greet(struct http_client *c, const struct envd_target *t, const char *hostname,
	int timeout_ms, struct err *e);
// Before a snapshot: stops every process of the user (cgroup freezer; returns when all stand still)
// and writes all dirty data of the guest's file systems to its disk. A failure leaves nothing
// frozen. Repeating it is harmless.
int envd_call_freeze(
	struct http_client *c, const struct envd_target *t, int timeout_ms, struct err *e);
// Lets them go on. For the source of a snapshot, and for undo. Repeating it is harmless.
int envd_call_thaw(
	struct http_client *c, const struct envd_target *t, int timeout_ms, struct err *e);
// A program for the guest's agent to become.
#define ENVD_PROGRAM_MAX (16u << 20)
struct envd_program {
	const void *data;
	size_t len;
	char sha256[65];
};
// The agent keeps its processes, its settings and its port. 0: it is about to; /health says so by
// 503 until either the new one answers or, where it failed, the old one. What it refuses it has not
// begun. resumed: connections of before a snapshot are ended first.
int envd_call_replace(struct http_client *c, const struct envd_target *t,
	const struct envd_program *p, bool resumed, int timeout_ms, struct err *e);
// What the guest's kernel killed for lack of memory. told (may be NULL): a report that has arrived
// and need not be given again.
int envd_call_oom(struct http_client *c, const struct envd_target *t,
	const struct envd_oom_report *told, int timeout_ms, struct envd_oom_report *ret,
	struct err *e);
// Where a port of the guest is listened on: on its loopback, on other addresses.
int envd_call_ports(struct http_client *c, const struct envd_target *t, uint16_t port,
	int timeout_ms, bool *ret_loopback, bool *ret_outside, struct err *e);
// Runs to the end of the stream. 0 with *ret set when the process ended; ERR_INVALID for a missing
// program or directory, ERR_TIMEOUT when it was killed by the time-out, ERR_BAD_GATEWAY when the
// guest went away.
int envd_run(struct http_client *c, const struct envd_target *t, const struct envd_process *p,
	struct envd_exit *ret, struct err *e);
// Any unary call: method "process.Process/SendSignal". *ret (may be NULL) is owned by the caller.
// Borrows req.
int envd_unary(struct http_client *c, const struct envd_target *t, const char *method, json_t *req,
	int timeout_ms, json_t **ret, struct err *e);
