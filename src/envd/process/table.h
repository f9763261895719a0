// SPDX-License-Identifier: Apache-2.0
// What a process is, and the table of them: for process.c, which says how it works, and handover.c.
#pragma once
#include <pthread.h>
#include <sys/resource.h>
#include <jansson.h>
#include "envd/process/end.h"
#include "envd/process/gate.h"
#include "envd/process/oom.h"

#define QUEUE_CHUNKS 32

struct process_chunk;

struct process {
	struct process *next;
	struct process_table *table;
	unsigned refs; // list, pump, subscribers, calls
	pid_t pid;
	int pidfd;
	int out[2]; // read by the pump: stdout and stderr, or the terminal and -1
	bool pty, ends_on_exit;
	char *tag;
	json_t *config;
	uint64_t deadline_ns; // TIME_NEVER: none
	int wake_fd; // wakes a pump whose leader is gone, or that waits for a client; else -1
	bool reaped, forced, timed_out, ended, wake_tried;
	bool parked;	    // its pump stands still
	bool attached;	    // a client had it when it was held
	uint64_t client_ns; // nothing is read before that, or a client's coming; 0: at once
	int status;
	uint64_t reaped_ns, output_ns; // the pump's: of the leader's end, and of what was read last
	int64_t owed;		       // the pump's: bytes of before the leader's end, still unread
	uint64_t oom_seq;	       // kills before it was started
	uint64_t ended_ns;
	struct process_end end;
	struct process_sub *subs;
	pthread_cond_t space; // a queue has room again
	pthread_mutex_t stdin_lock;
	int stdin_fd; // a terminal's is a duplicate of out[0]
};

struct process_sub {
	struct process_sub *next;
	struct process *p;
	int wake_fd;
	bool asleep;
	struct process_chunk *queue[QUEUE_CHUNKS];
	unsigned head, count;
	size_t bytes;
};

struct process_table {
	pthread_mutex_t lock;
	pthread_cond_t pump_done;
	struct process *list; // newest first, running and lately ended ones
	unsigned n_ended, n_pumps;
	bool closing;
	bool holding;	      // pumps stand still, see handover.h
	unsigned n_parked;    // of the pumps
	pthread_cond_t going; // they go on
	int hold_fd;	      // readable while holding
	int cgroup_fd, cgroup_ns_fd, null_fd;
	int stop_fd;	      // readable when the table is closing: for pumps that only drop
	struct rlimit nofile; // what we were started with: for the processes
	struct gate *gate;
	struct oom_watch *oom; // NULL: none
};
