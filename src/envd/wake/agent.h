// SPDX-License-Identifier: Apache-2.0
// The agent: what /init sets, and the processes.
#pragma once
#include <net/if.h>
#include <netinet/in.h>
#include <pthread.h>
#include "agentclient/version.h"
#include "envd/process/process.h"

// Clients choose their dialect by this number (protocol page, A.7). 0.6.0 promises what is here but
// for two things, which are refused with a reason: gzip uploads (asked for since 0.5.7, only by
// clients told to) and watchers. File metadata starts at 0.6.2.
#define ENVD_VERSION "0.6.0"

#define INIT_TOKEN_MAX 512
#define INIT_CLOCK_PPM_MAX 100000

// Who may call /init, /freeze, /thaw and /oom: that peer, over that interface. Traffic through the
// edge has the same address; the edge lets none of these calls through. Programs in the guest come
// over another interface, whatever address they call.
struct agent_host {
	struct in_addr peer;
	char interface[IF_NAMESIZE]; // "": anybody, by hand
};

struct agent {
	pthread_mutex_t lock; // guards the settings below
	char *token;	      // NULL: closed, until the first /init sets one
	json_t *env;	      // replaced as a whole, never changed: readers keep a reference
	char *default_user, *default_workdir; // NULL: not set
	uint64_t last_init_ns;		      // newest timestamp seen
	uint64_t cpu_busy, cpu_total;	      // at the last /metrics
	struct process_table *processes;
	bool set_clock; // obey /init's timestamp
	bool as_root;	// we can become other users
	bool guest;	// the machine is ours: a resume ends its connections and runs its hooks
	int clock_ppm;	// that the clock's rate was last set for
	const char *state_file; // NULL: nothing outlives us (settings.h)
	struct agent_host host;
	struct trim *trim; // NULL: freed space stays where it is
	char instance[17]; // new with each start: the host sees that it talks to another one
	char identity[AGENT_HEADER_SIZE]; // see identity.h
	struct http_server *server;
	_Atomic bool moving; // another agent takes over (handover.h)
	int successor_fd;    // its program; in that one: itself, until it is installed; -1: none
	int listen_fd;	     // for it; -1: the server has it
	pthread_mutex_t resume_lock; // one resume after the other; taken before lock
};

// The variables of every process: a new reference, never NULL.
json_t *agent_env(struct agent *a);
