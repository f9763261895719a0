// SPDX-License-Identifier: Apache-2.0
// A host that does nothing but remember what it was asked, and answer as it was told. It keeps the
// contract's promise about operation ids: the same one again is the same answer, done once.
// Operations on the sandbox "ihangs" never end, and there is no room for "inospace".
#pragma once
#include <pthread.h>
#include "hostagent/hostagent.h"

#define FAKE_MAX_OPS 256

struct fake {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	// What was asked last
	uint64_t generation; // of expire
	char call[32], op_id[64], id[64], cause[64], snapshot[64], token[100], env[300];
	struct host_create create;
	struct host_resume resume;
	uint64_t ends_at_ns, upto;
	enum on_timeout on_timeout;
	bool draining;
	unsigned calls; // of all kinds
	unsigned done;	// operations that were really done
	char ops[FAKE_MAX_OPS][UUID_SIZE];
	unsigned n_ops;
	// Orders
	enum err_code fail;
	const char *fail_text;
	bool closed; // operations wait until it is opened
	unsigned waiting;
	bool hold_last;		     // a fork waits before its last child until it is opened
	struct host_sandbox sandbox; // of all answers
	struct host_snapshot snapshot_answer;
	struct host_info info;
	const char *log;
	size_t log_len;
	uint64_t last_event, acked;
	bool stopped; // an end for those who wait for events, and for operations on "ihangs"
};

struct hostagent fake_host(struct fake *f);
void fake_init(struct fake *f);
void fake_done(struct fake *f);
void fake_open(struct fake *f);
void fake_wait_for(struct fake *f, unsigned waiting); // until so many calls wait
void fake_stop(struct fake *f);
void fake_add_event(struct fake *f);
