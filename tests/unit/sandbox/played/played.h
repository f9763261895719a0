// SPDX-License-Identifier: Apache-2.0
// A world without guests in which the host's own code runs: the life cycle, tested in milliseconds.
//
// How it works. The test programs link libsandbox and the rooms base, http, snapshot and disk as
// they are. Of the rooms below that touch a machine they link *players* with the same functions
// (the linker takes a symbol from here before it looks into a library):
//
// * shim.c: shim/shim.h. Starts a "VM", a process that only waits to be killed.
// * vmm.c: vmm/vmm.h. A machine with 1 MiB of memory, with states and dirty tracking.
// * agent.c: agentclient/client.h. The agent in it, which knows its token and stands still when it
//   is told to.
// * slots.c: net/slot.h, net/sockets.h. Numbers.
// * wraps.c: a few functions of base, by the linker's --wrap: programs of ours that are asked who
//   they are, the monotonic clock, and the fault points.
//
// A machine is files in the run directory of its sandbox (struct machine, its memory, the list of
// its binds), changed by read and write alone. So it belongs to nobody's process: the server may be
// killed at any line, another one adopts the machine and finds it as it was left. The VM's process
// is made by a helper of the world (born.c) and outlives every server.
//
// A world (struct world) is a directory with a data volume, a run directory, a base image, and one
// page of memory (struct stage) that all its processes share: the switches that make players
// refuse, fail, fall silent or wait, and the list of fault points that were reached. A test sets
// them from outside, also while another process is the server.
//
// Time. Nothing here sleeps. A player that has to be slow either *holds*: it waits until the test
// lets it go, and the test knows that it got there; or it *skips*: the monotonic clock of all
// processes is moved on by the time that would have passed. So 30 s of a silent agent take no time.
//
// What a test compares is struct content: a number for each page of memory and for a few blocks of
// the disk. The player writes the whole page from its number, the test reads all bytes back: of a
// running machine from its memory, of a snapshot through header and layers.
#pragma once
#include <stdatomic.h>
#include <sys/types.h>
#include "agentclient/client.h"
#include "agentclient/probe.h"
#include "sandbox/host.h"
#include "shim/shim.h"
#include "vmm/vmm.h"

#define PLAYED_MEMORY_MB 1u
#define PLAYED_PAGES 256u
#define PLAYED_BLOCKS 4u // of the disk that tests write, 4 KiB each
#define PLAYED_PAGE 4096u

// ---- the stage: what all processes of a world share

// FAULT_FAIL_ALWAYS: each time, not the count-th alone.
enum fault_way { FAULT_NONE, FAULT_FAIL, FAULT_FAIL_ALWAYS, FAULT_KILL, FAULT_HOLD };

// What a player does when it is called. Each stands for something seen on real hosts.
enum trouble {
	TROUBLE_NONE,
	TROUBLE_FAILS,	// an error, nothing was done
	TROUBLE_LOST,	// done, but the answer does not come in time
	TROUBLE_SILENT, // not done, no answer: the time-out passes
	TROUBLE_HOLDS,	// waits until the test lets it go, or its process ends; then does it
	TROUBLE_LATE,	// done, after 50 s without a processor
};

#define STAGE_HITS 512
struct stage {
	_Atomic uint64_t skipped_ns; // by which the monotonic clock is ahead
	// One fault point ("*": any): what happens when it is reached; count: at the count-th time
	// from now.
	char point[64];
	_Atomic int way, count;
	_Atomic int spare_commits; // not at a point of the name .before_commit
	// Calls of players ("vmm_snapshot_create", "envd_*", ...) of sandboxes ("": any): patterns
	// of the shell.
	char call[40], of[64];
	_Atomic int trouble;
	_Atomic int once; // the trouble is over after one call
	// So many points and calls hold; the test sets let_go.
	_Atomic int holding, let_go;
	// Processes told to die do not, until this is 0 again: stuck in a disk, or much to free.
	_Atomic int stuck;
	_Atomic int reached; // how often point was reached
	_Atomic unsigned n_hits;
	char hits[STAGE_HITS][48]; // points reached, in order
	_Atomic unsigned n_calls;
	char calls[STAGE_HITS][40]; // of players, in order
	_Atomic int vms;	    // processes that live
	// Kills for lack of memory that each agent has to tell; how often one was asked. It lies:
	// they are told again and again.
	_Atomic uint64_t kills;
	_Atomic unsigned asked_for_kills;
	_Atomic int kills_lie;
	// What agents of machines that are booted from now on tell of themselves; "": what the
	// current one does.
	char agent[96];
	_Atomic int emulated;	       // a server that starts finds no KVM
	_Atomic unsigned vmm_upgrades; // of the VMM that a server that starts finds
	// What the volume is said to have; its size is VOLUME_SIZE.
	_Atomic uint64_t disk_used, inodes_used;
};

#define VOLUME_SIZE (100ull << 30)
#define VOLUME_INODES 1000000ull

#define PLAYED_AGENT STASIS_VERSION "-3+00112233aabbccdd init=" STASIS_VERSION "-3"

// ---- the world

struct world {
	char dir[64], data[96], run[96];
	bool firecracker, pause_room;
	struct host_overcommit overcommit; // all 0: the default
	bool superset; // the VMM writes all pages that hold something, changed or not
	struct stage *stage;
	int born; // socket to the helper that makes processes
	pid_t born_pid;
};
// The world of this process; the players find it here.
extern struct world world;

bool world_make_dir(void);     // the runner removes it, whatever became of the case
void world_make(void);	       // in it; ends the test when something is wrong
void world_drop(void);	       // ends all its processes
void world_new_image(void);    // another base image of the same name
struct host *world_open(void); // opens the host; fails the test when that fails
int world_try_open(struct host **ret, struct err *e);
void stage_calm(void); // no faults, no trouble, nothing holds
void stage_fault(const char *point, enum fault_way way);
void stage_trouble(const char *call, const char *id, enum trouble t, bool once);
void stage_wait_holding(void);
void stage_let_go(void);
void stage_skip_ms(uint64_t ms);

// ---- inside, for players

#define MACHINE_BOOTED 1u
struct machine {
	char id[64];
	int32_t pid;
	uint64_t start_time;
	int32_t state; // enum vmm_state
	bool booted, frozen, loaded, emulated;
	char token[96], instance[20];
	char dns[48];	    // that the agent was told last
	char agent[96];	    // what the agent tells of itself: AGENT_HEADER; "-", "--": nothing,
			    // and nor an instance
	uint32_t instances; // agents started so far
	uint32_t memory_mib;
	uint8_t dirty[PLAYED_PAGES];  // written since the last snapshot
	char tree[SHIM_TREE_ID_SIZE]; // of its VMM
	char rootfs[256], snap[256], vmstate[256], mem[256], header[256], layers[256];
};
int machine_read(const char *dir, struct machine *ret);
int machine_write(const char *dir, const struct machine *m);
bool machine_lives(const struct machine *m);
int machine_memory(const char *dir, int flags); // descriptor
// The machine behind an agent's URL or a slot's address: its run directory.
int machine_at(const char *address, char dir[512]);
// What a call meets: 0 to go on; else an error that the caller returns. *ret_lost: do it, then
// return -ETIMEDOUT.
int trouble_meet(const char *call, const char *id, int timeout_ms, int (*tick)(void *), void *ctx,
	bool *ret_lost, struct err *e);
// Waits for ever, as one who does not answer does: the clock moves on, ticks are given.
int trouble_wait(int timeout_ms, int (*tick)(void *), void *ctx, const char *what, struct err *e);
int born_start(const char *dir, pid_t *ret); // a process that waits; its number is in <dir>/pid
void born_stop(void);
void page_fill(void *page, uint32_t number);
// The number of a page's content, UINT32_MAX when it is none of page_fill's.
uint32_t page_number(const void *page);
// The first page from this one on that is not a hole of the file; UINT32_MAX: none.
unsigned page_next_data(int fd, unsigned page);

// ---- the guest, for tests

struct content {
	uint32_t page[PLAYED_PAGES]; // 0: all zeros
	uint32_t disk[PLAYED_BLOCKS];
};
extern const struct content content_booted; // memory of a machine that was just booted
// The guest writes. False when it stands still or does not run.
bool guest_write(const char *id, unsigned page, uint32_t number);
bool guest_write_disk(const char *id, unsigned block, uint32_t number);
// False when there is no machine.
bool guest_read(const char *id, struct content *ret);
// The name servers that its agent was told last. False when there is no machine.
bool guest_dns(const char *id, char ret[48]);
bool guest_goes_on(const char *id); // runs, its processes are not frozen
// Through header and layers. False (with the reason) when it cannot be read.
bool snapshot_content(const char *snapshot, struct content *ret, struct err *e);
// The first difference in words, NULL when there is none.
const char *content_differs(const struct content *want, const struct content *is);
// Its agent has another token, and is another instance (NULL: the one it is). False when there is
// no machine.
bool guest_set_agent(const char *id, const char *instance, const char *token);
void guest_crash(const char *id, const char *cause); // NULL: killed hard, nothing is written
