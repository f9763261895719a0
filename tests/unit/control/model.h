// SPDX-License-Identifier: Apache-2.0
// A host in memory, with the same struct of functions as the real one. Sandboxes "run" at once at
// one address unless a failure is ordered.
#pragma once
#include <pthread.h>
#include <stdatomic.h>
#include "hostagent/hostagent.h"

#define MODEL_MAX 512

struct model {
	pthread_mutex_t lock;
	pthread_cond_t event_added;
	struct host_sandbox box[MODEL_MAX];
	size_t n;
	struct host_event event[MODEL_MAX * 4];
	size_t n_events;
	uint64_t acked; // events up to this number are gone
	struct host_snapshot snapshot[MODEL_MAX];
	size_t n_snapshots;
	// Orders, given while the server's threads ask.
	_Atomic enum err_code fail_events, fail_ack;
	char journal[40];
	_Atomic enum err_code fail_create, fail_destroy, fail_get, fail_pause, fail_resume,
		fail_fork, fail_snapshot, fail_snapshot_delete, fail_snapshots, fail_on_timeout,
		fail_token;
	size_t fail_expire_from; // of these boxes expire always fails; 0: of none
	const char *foreign;	 // why it loads no snapshot; NULL: it does
	bool denied;		 // the older runtime
	atomic_bool lose_reply;	 // of create and pause: done, and the caller does not hear of it
	char done[MODEL_MAX][UUID_SIZE]; // operations, which are not done again
	size_t n_done;
	atomic_uint fail_children; // bit i: child i of the next forks does not come up
	// Called by fork before its child i is done, and by snapshot_create before it is made.
	void (*before_child)(void *ctx, size_t i);
	void (*before_snapshot)(void *ctx);
	// Called by create, pause, resume, usage, expire, set_timeout and set_on_timeout before
	// anything is done, with their names.
	void (*before)(void *ctx, const char *call);
	void *ctx;
	atomic_bool volume_gone;
	atomic_bool tells_no_end; // of a sandbox: model_end() is an event that is still to come
	char address[48];	  // of all sandboxes; 127.0.0.1 unless set
	const char *log;	  // the console of all; NULL: one that names the sandbox
	char last_token[80];
	unsigned tokens_set;
	char last_env[200];
	struct host_create last_create; // its pointers dangle
	struct host_resume last_resume;
	struct host_fork last_fork;
};

struct hostagent model_host(struct model *m);
void model_init(struct model *m);
void model_done(struct model *m);
// The guest ends by itself; forget: as if the host had lost it.
void model_end(struct model *m, const char *id, const char *cause);
// An event; data (owned by the model from then on) may be NULL.
void model_tell(struct model *m, const char *id, const char *kind, const char *cause, json_t *data);
void model_forget(struct model *m, const char *id);
// What snapshot_create leaves, without anybody having asked.
void model_add_snapshot(struct model *m, const char *snapshot, const char *id, const char *kind);
bool model_has_snapshot(struct model *m, const char *snapshot);
