// SPDX-License-Identifier: Apache-2.0
// What the sandbox room and the program stasis-shim agree on.
//
// stasis-shim is started by the server once per sandbox with the path of a JSON file (struct
// shim_spec below as an object, same names). It outlives the server. It is one process: PID 1 of
// the sandbox's own PID namespace, so that
//  - its end, however it comes, ends everything in the sandbox, and its pidfd becomes readable only
//    after all of that is gone;
//  - the server never has to reap it: the process that the server starts ends at once and hands a
//    pidfd of PID 1 back.
// In order it (src/shim/main.c lists what rights it holds in each stage)
//  1. takes <dir>/shim.lock (held all its life), joins the slot's network namespace, forks PID 1;
//  2. PID 1: setsid, own mount, IPC and UTS namespaces, a tmpfs on <dir>/root seen only by itself:
//     /usr (the runtime tree, read-only), /stasis (our programs, too), the binds, /dev with null,
//     zero, full, random, urandom, net/tun, userfaultfd (if the host has it), kvm (if asked for),
//     /proc of the new PID namespace (only processes, only one's own), /tmp (in the tmpfs, so
//     small), and /run, which is the host directory <dir>/run. pivot_root into it;
//  3. starts the VMM as the sandbox's uid: no capability, no way to get one, no_new_privs, limits;
//     its stdout goes to the console log, its stderr to <dir>/shim.log, both bounded;
//  4. when the API socket accepts: takes /run away from the sandbox's uid (from then on nothing can
//     be made, replaced or filled there: a VMM makes its other files in /tmp), writes
//     <dir>/state.json, tells the starter;
//  5. when the VMM (or the pager) ends: kills the rest, writes <dir>/exit.json (fsynced), ends.
// SIGTERM to the shim: SIGTERM to the VMM, SIGKILL after 2 s, cause "killed".
//
// Nothing but the files in <dir> has to be cleaned up after any end: mounts are in a namespace that
// goes with the shim.
#pragma once
#include <sys/types.h>
#include "base/err.h"

// Fixed paths in every jail; a VMM's state file bakes them in.
#define JAIL_API_SOCK "/run/api.sock"
#define JAIL_ROOTFS "/rootfs.img"
#define JAIL_KERNEL "/vmlinux"
#define JAIL_INITRD "/initrd"
#define JAIL_MEM "/mem"		  // the one layer of an image, for a restore by file
#define JAIL_HEADER "/memory.hdr" // of the image, for the pager
#define JAIL_LAYERS "/layers"	  // its layers and their sums, each a bind of one file
#define JAIL_WORKING_SET "/working_set"
#define JAIL_SNAP "/snap" // the one directory where files for the host are left: see snap_dir
#define JAIL_VMSTATE "/vmstate"
#define JAIL_VMM_LOG "/run/vmm.log"
#define JAIL_PAGER_SOCK "/run/pager.sock"
#define JAIL_BIN "/usr/bin"	   // in a tree: its programs
#define JAIL_LIB "/usr/lib/stasis" // in a tree: shared objects that come alone
// Our own programs, from a tree of their own (its usr/): the VMM's tree may be of another day.
#define JAIL_OWN "/stasis"
#define JAIL_OWN_BIN JAIL_OWN "/bin"	    // JAIL_OWN_BIN "/fcqemu"
#define JAIL_OWN_LIB JAIL_OWN "/lib/stasis" // JAIL_OWN_LIB "/ramhook.so"

struct shim_bind {
	const char *source; // host path of a regular file
	const char *target; // jail path; the mount point is made
	bool writable;	    // the source is given to the sandbox's uid (chown)
};

struct shim_spec {
	const char *id;		  // sandbox id
	const char *dir;	  // <run>/<id>, exists, root's, 0700
	const char *netns;	  // path of the slot's namespace
	uint32_t uid, gid;	  // the sandbox's own, not 0
	const char *runtime_dir;  // tree made by shim_tree_build: the jail's /usr
	const char *own_dir;	  // another: its usr/ is JAIL_OWN in the jail. NULL: none
	const char *console_path; // host path of console.log; appended; cut to the newest half at
				  // console_max
	uint64_t console_max;	  // bytes, at least 4 KiB; 0: 4 MiB
	// Host path of what the VMM writes into JAIL_VMM_LOG, a pipe that is there until its API
	// socket accepts; bounded, appended. NULL: no pipe.
	const char *vmm_log_path;
	uint64_t fsize_max; // largest file (memfd too) the VMM may write; 0: 1 TiB. At least the
			    // guest's memory and disk
	bool kvm;	    // the jail gets /dev/kvm
	const char *const *vmm_argv; // jail paths, NULL-terminated
	const struct shim_bind *binds;
	size_t n_binds;
	const char *const *pager_argv; // NULL: none
	// Host directory bound at JAIL_SNAP, writable: it is given to the sandbox's uid (chown,
	// 0700). The VMM leaves snapshot files there, the pager its record and figures; all of it
	// is the guest's word and is opened with O_NOFOLLOW and checked. NULL: none.
	const char *snap_dir;
	// Number of the next record of the host's kernel log, kept in state.json; 0: not known.
	uint64_t kmsg_from;
};

struct shim_state { // state.json
	char id[64];
	int32_t pid;	     // the shim's, in the host's namespace
	uint64_t start_time; // clock ticks, /proc/PID/stat field 22
	char boot_id[40];
	uint32_t uid;
	int32_t vmm_pid;    // in the host's namespace
	uint64_t kmsg_from; // of the spec: what the log says of this one's processes begins there
};

struct shim_exit {	// exit.json
	char first[16]; // which ended first: "vmm", "pager", "shim" (asked to stop)
	int32_t status; // as waitpid
	char cause[32]; // "vmm_exit" (status 0), "vmm_crash", "pager_lost", "killed"; guest causes
			// are judged from the console by the reader (shim_judge_console)
	char detail[256]; // "exit status 1: <last line of stderr>", "signal: killed"
	uint64_t at_ns;	  // CLOCK_REALTIME
};

// A tree holds programs for jails: <trees_dir>/<id>/usr, root-owned and read-only, with their
// shared libraries (ELF DT_NEEDED closure). Programs that are not in it are not in the jail: no
// shell, no coreutils. The id is made of the content, so a tree never changes, and one that is
// there is complete.
#define SHIM_TREE_ID_SIZE 33	       // 32 hex digits
#define SHIM_TREE_ABOUT "runtime.json" // beside usr/: what its maker says of it

// All NULL-terminated, or NULL for none.
struct shim_files {
	const char *const *programs; // host paths; in the jail JAIL_BIN "/<last component>"
	// "host path=jail path", or one path (without '=') where both are the same; ELF files can
	// be run there, so programs under another name are here; the jail path must be below /usr
	// (/lib/... counts as /usr/lib/...). Shared objects bring what they need.
	const char *const *extra;
	// Host paths of shared objects that are loaded into a program of another tree, and use its
	// libraries; in the jail JAIL_LIB "/<last component>".
	const char *const *alone;
	const char *about; // content of SHIM_TREE_ABOUT where the tree is made now; NULL: none
};

struct shim_tree {
	char *dir; // the caller's
	char id[SHIM_TREE_ID_SIZE];
	uint32_t dynamic; // bit i: programs[i] needs the tree's dynamic linker
};

// Makes the tree unless it is there. Durable when it returns 0.
int shim_tree_build(
	const char *trees_dir, const struct shim_files *f, struct shim_tree *ret, struct err *e);
// A missing tree is success; -EBUSY: a running shim has it. Cut short it leaves no tree of that id.
int shim_tree_remove(const char *trees_dir, const char *id, struct err *e);
// Calls f with each id; a result other than 0 ends it. tidy: what was left unfinished is removed,
// and no other process may build meanwhile.
typedef int (*shim_tree_fn)(void *ctx, const char *id);
int shim_tree_list(const char *trees_dir, bool tidy, shim_tree_fn f, void *ctx, struct err *e);
// Id of the tree that the shim of this directory was started with (runtime_dir of its
// specification). -ENOENT: none was.
int shim_read_tree(const char *dir, char ret_id[SHIM_TREE_ID_SIZE], struct err *e);

// Debian's QEMU, in the jail /usr/bin/qemu-system-x86_64, and what it opens for -M microvm besides
// its libraries: firmware and, if they are there, accelerator modules. They are looked for where
// its package has them: below what stands before "/usr/bin/" in its path. NULL-terminated, for
// shim_files.extra; owned by the caller (shim_files_free).
char **shim_qemu_files(const char *qemu);
void shim_files_free(char ***files);

// Starts the shim program; returns when state.json is written (the VMM's socket accepts) or the
// shim failed: then the error says why (for a VMM that ended: how, and the last line of its
// stderr), nothing runs any more and *dir* is empty again. *ret_pidfd is owned by the caller; it is
// not a child: poll it, do not wait for it.
int shim_start(const char *shim_program, const struct shim_spec *spec, int timeout_ms,
	struct shim_state *ret, int *ret_pidfd, struct err *e);
// Host path of the API socket of a running sandbox; out has room for a sun_path (108). Safe to
// connect to as root: the VMM can neither replace it nor make it a link.
int shim_api_socket_path(const char *dir, char out[static 108], struct err *e);
int shim_read_state(const char *dir, struct shim_state *ret, struct err *e);
// Makes the pager write its figures and its record into JAIL_SNAP (SIGUSR1, see pager.h): by way of
// the shim, so that no number of a process has to be trusted. -ESRCH when the shim has ended.
int shim_poke_pager(int pidfd);
int shim_read_exit(const char *dir, struct shim_exit *ret,
	struct err *e); // -ENOENT: not ended, or killed hard
// Opens the running shim named by state.json after a server restart: checks boot id and start time.
// -ESRCH when it is gone.
int shim_adopt(const char *dir, struct shim_state *ret, int *ret_pidfd, struct err *e);
// Memory that the VMM of a running sandbox and its children have for themselves (anonymous, shared
// or swapped out), in bytes: what a pause writes is not more. An estimate: they run on.
int shim_memory(const char *dir, uint64_t *ret);
// The VMM of a running sandbox and its children, in the host's namespace: at most n, 0 behind them.
int shim_processes(const char *dir, int *ret, size_t n);
// Ends the VMM as a user of the shim would (SIGTERM), does not wait; exit.json will say "killed".
// -ESRCH when the shim has ended.
int shim_end(const char *dir, int pidfd);
// The end of a sandbox's processes. dir is the shim's directory. pidfd stays the caller's; -1:
// found by what lies in dir, so a shim that never wrote state.json is found too. All are
// idempotent, and success where nothing runs. shim_kill sends SIGKILL and does not wait. The kernel
// ends all that is in the sandbox.
int shim_kill(const char *dir, int pidfd);
// Waits until everything in the sandbox is gone, then removes dir (read exit.json before).
// -ETIMEDOUT: it is not, dir is left as it is, and the sandbox's slot, uid and files are in use.
int shim_wait_gone(const char *dir, int pidfd, int timeout_ms, struct err *e);
// Both; waits for 10 s.
int shim_stop(const char *dir, int pidfd, struct err *e);
// "guest_panic" when the end of the console shows a kernel panic ("guest_oom": for lack of memory),
// "guest_poweroff" for a power-off or reboot, else NULL.
const char *shim_judge_console(const char *console_path);
