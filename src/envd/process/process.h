// SPDX-License-Identifier: Apache-2.0
// The processes of the sandbox. They belong to the table, not to the client that started them: a
// client is a subscriber, any number may attach and leave, and each sees the output from its
// attachment on. The caller ignores SIGPIPE for the whole program.
#pragma once
#include <jansson.h>
#include "base/err.h"
#include "envd/process/gate.h"
#include "envd/process/end.h"
#include "envd/process/oom.h"
#include "envd/process/users.h"

#define PROCESS_END_KEPT_NS (30 * 1000000000ull) // a late Connect still learns how it ended
#define PROCESS_START_WAIT_MS 20000

struct process_table;
struct process_sub;

struct process_start {
	const char *cmd;
	char *const *argv, *const *env; // NULL-terminated
	const char *cwd, *tag;		// tag may be NULL
	const struct user *user;	// NULL: stays who we are
	bool stdin_open, pty;
	bool ends_on_exit; // its end does not wait for others that hold its output
	uint16_t cols, rows;
	uint64_t timeout_ns; // SIGKILL for its group after that; 0: none
	json_t *config;	     // borrowed; shown by process_list
	int client_fd;	     // over 0: nothing is started when this connection has ended
};

struct process_selector {
	pid_t pid;
	const char *tag; // NULL: by pid
};

enum process_stream { PROCESS_STDOUT, PROCESS_STDERR, PROCESS_PTY };

struct process_chunk {
	unsigned refs; // under the table's lock
	enum process_stream stream;
	size_t len;
	char data[];
};

enum process_event {
	PROCESS_DATA,  // *ret is set: give it back with process_chunk_release
	PROCESS_END,   // process_sub_end tells how
	PROCESS_IDLE,  // nothing until the given time
	PROCESS_GONE,  // the client closed its connection
	PROCESS_MOVED, // another agent has it soon (handover.h): it can be connected to again
};

// cgroup_fd: what is frozen; -1: nothing can be. Borrowed. Processes are put into its child "user",
// so that it has none of its own and they can make cgroups with limits beside theirs. cgroup_ns:
// the file of the cgroup namespace in which they are, where there is one. Raises our own limit of
// open files as far as it goes; processes get the one that we were started with.
struct process_table *process_table_new(int cgroup_fd, const char *cgroup_ns);
// Kills all processes and waits for them; streams see their ends. No start may follow.
void process_table_stop(struct process_table *t);
// Stops if need be; no call may be running and no subscriber be left.
struct process_table *process_table_free(struct process_table *t);
DEFINE_CLEANUP(struct process_table *, process_table_free)

// From now on ends say what the kernel killed for lack of memory. The machine is the sandbox's
// alone.
void process_table_watch_oom(struct process_table *t);
// Borrowed; NULL where nothing is watched.
struct oom_watch *process_table_oom(struct process_table *t);

// Which starts pass, and which freezes them all: borrowed.
struct gate *process_table_gate(struct process_table *t);

// The starter is the first subscriber. While the processes are frozen it waits, for at most
// PROCESS_START_WAIT_MS; ERR_CONFLICT after that.
int process_start(struct process_table *t, const struct process_start *s, struct process_sub **ret,
	struct err *e);
int process_connect(struct process_table *t, const struct process_selector *which,
	struct process_sub **ret, struct err *e);
// [{"config", "pid", "tag"}], owned by the caller.
json_t *process_list(struct process_table *t);
// SIGKILL goes to the whole process group, any other signal to the leader. Where the leader has
// ended and others hold its output, both go to what is left of the group; ERR_NOT_FOUND when that
// is nobody, or the kernel cannot do it (before Linux 6.9). Signalling makes the end come with the
// leader's, whoever else holds its output.
int process_signal(
	struct process_table *t, const struct process_selector *which, int sig, struct err *e);
// Blocks while the process does not read. pty tells which kind the caller believes it to be.
int process_write(struct process_table *t, const struct process_selector *which, bool pty,
	const void *data, size_t len, struct err *e);
// Closing twice is fine. -ENOTTY for a terminal.
int process_close_stdin(
	struct process_table *t, const struct process_selector *which, struct err *e);
int process_resize(struct process_table *t, const struct process_selector *which, uint16_t cols,
	uint16_t rows, struct err *e);

pid_t process_sub_pid(const struct process_sub *s);
// until_ns: CLOCK_MONOTONIC, UINT64_MAX for ever. socket is watched for the client's going, -1:
// none.
enum process_event process_sub_next(
	struct process_sub *s, uint64_t until_ns, int socket, struct process_chunk **ret);
// More output, or the end, can be had without waiting.
bool process_sub_ready(struct process_sub *s);
const struct process_end *process_sub_end(const struct process_sub *s); // after PROCESS_END
void process_chunk_release(struct process_sub *s, struct process_chunk *c);
struct process_sub *process_sub_free(struct process_sub *s);
DEFINE_CLEANUP(struct process_sub *, process_sub_free)

// For what takes processes over (handover.h); struct process is in table.h.
struct process;
// A running or ended one from elsewhere gets its pump and its place in the list, as the newest.
int process_adopt(struct process_table *t, struct process *p);
// Without a place in a table; the caller's until process_adopt.
struct process *process_blank(struct process_table *t);
void process_drop(struct process *p);
