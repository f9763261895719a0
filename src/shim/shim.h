// SPDX-License-Identifier: Apache-2.0
// What the sandbox room and the program stasis-shim agree on.
//
// stasis-shim is started by the server once per sandbox with the path of a JSON file (struct
// shim_spec below as an object, same names). It outlives the server. In order:
//  1. setsid, own mount/IPC/UTS namespaces, joins the slot's network namespace;
//  2. builds the jail root as a tmpfs on <run>/<id>/root (nodev where possible): read-only bind of
//  the runtime
//     tree (programs and libraries of the VMM, see shim_runtime_build), read-only binds of kernel
//     and initrd, read-write bind of rootfs.img, device nodes null, zero, urandom, net/tun, kvm (if
//     usable), userfaultfd (if there), owned by the sandbox's uid; /proc of the new PID namespace
//     (hidepid, read-only paths masked);
//  3. forks PID 1 of a new PID namespace, pivot_root, detaches the old root, drops to uid/gid,
//     all capabilities and bounding set gone, no_new_privs, rlimits (nofile, core 0, fsize);
//  4. PID 1 starts the VMM (argv), with console output to the console.log descriptor, size-bounded;
//  forwards nothing else;
//  5. writes <run>/<id>/state.json (shim's pid in the host's namespace, start time, boot id) when
//  the VMM's
//     API socket is accepting, at once, without polling delay (inotify or the like);
//  6. waits for all children; when the VMM (or later the pager) ends, kills the rest, writes
//     <run>/<id>/exit.json fsynced, and ends. The outer process holds an exclusive flock on
//     <run>/<id>/shim.lock all its life: "is it alive" is answered by pidfd or by the lock.
// SIGTERM to the shim: ends the VMM (SIGKILL after 2 s) with cause "killed".
#pragma once
#include "base/err.h"

// Fixed paths in every jail; a VMM's state file bakes them in.
#define JAIL_API_SOCK "/run/api.sock"
#define JAIL_ROOTFS "/rootfs.img"
#define JAIL_KERNEL "/vmlinux"
#define JAIL_INITRD "/initrd"
#define JAIL_MEM "/mem" // layer or image for a restore (next issue)
#define JAIL_VMSTATE "/vmstate"
#define JAIL_PAGER_SOCK "/run/pager.sock"

struct shim_bind {
	const char *source; // host path
	const char *target; // jail path; the mount point is made
	bool writable;
};

struct shim_spec {
	const char *id;		  // sandbox id
	const char *dir;	  // <run>/<id>, exists, 0711
	const char *netns;	  // path of the slot's namespace
	uint32_t uid, gid;	  // the sandbox's own
	const char *runtime_dir;  // tree made by shim_runtime_build
	const char *console_path; // host path of console.log; appended; cut to the newest half at
				  // console_max
	uint64_t console_max;	  // bytes; 0: 4 MiB
	const char *const *vmm_argv; // jail paths, NULL-terminated
	const struct shim_bind *binds;
	size_t n_binds;
	const char *const *pager_argv; // NULL: none (next issue)
};

struct shim_state { // state.json
	char id[64];
	int32_t pid;	     // the shim's, in the host's namespace
	uint64_t start_time; // clock ticks, /proc/PID/stat field 22
	char boot_id[40];
	uint32_t uid;
	int32_t vmm_pid; // in the host's namespace
};

struct shim_exit {	// exit.json
	char first[16]; // which ended first: "vmm", "pager", "shim" (asked to stop)
	int32_t status; // as waitpid
	char cause[32]; // "vmm_exit" (status 0), "vmm_crash", "pager_lost", "killed"; guest causes
			// are judged from the console by the reader (shim_judge_console)
	char detail[256]; // "exit status 1", "signal: killed", last line of the VMM's stderr
	uint64_t at_ns;	  // CLOCK_REALTIME
};

// Builds (once per set of programs; atomic, content-addressed by path+size+mtime of what goes in) a
// directory with the VMM programs, their shared libraries (ELF DT_NEEDED closure, QEMU's
// accelerator modules, firmware), all root-owned read-only, usable as a jail's base. *ret_dir is
// owned by the caller. Programs not in *programs* are not in the jail: no shell, no coreutils.
int shim_runtime_build(const char *base_dir, const char *const *programs,
	const char *const *extra_files, char **ret_dir, struct err *e);

// Starts the shim program; returns when state.json is written (the VMM's socket accepts) or the
// shim failed (error has what it said and exit.json's cause). *ret_pidfd is owned by the caller;
// the shim is not a child that needs reaping by the caller (double fork).
int shim_start(const char *shim_program, const struct shim_spec *spec, int timeout_ms,
	struct shim_state *ret, int *ret_pidfd, struct err *e);
int shim_read_state(const char *dir, struct shim_state *ret, struct err *e);
int shim_read_exit(const char *dir, struct shim_exit *ret,
	struct err *e); // -ENOENT: not ended, or killed hard
// Opens the running shim named by state.json after a server restart: checks boot id and start time.
// -ESRCH when it is gone.
int shim_adopt(const char *dir, struct shim_state *ret, int *ret_pidfd, struct err *e);
// SIGTERM, wait, SIGKILL after grace_ms; then everything of the jail is unmounted and <dir>
// removed. Idempotent: also cleans the directory of a shim that was SIGKILLed (its PID namespace
// dies with it).
int shim_stop(const char *dir, int pidfd, int grace_ms, struct err *e);
// "guest_panic" when the end of the console shows a kernel panic, "guest_poweroff" for a power-off
// or reboot, else NULL.
const char *shim_judge_console(const char *console_path);
