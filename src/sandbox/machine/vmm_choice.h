// SPDX-License-Identifier: Apache-2.0
// Which VMM this host runs, and with which programs and arguments. A sandbox may run on an older
// one, kept for its snapshot (runtimes.h): it has a choice of its own.
#pragma once
#include "sandbox/table/table.h"
#include "shim/shim.h"
#include "snapshot/cpu.h"
#include "vmm/version.h"

#define VMM_QEMU "/usr/bin/qemu-system-x86_64" // on the host, and in the jail
#define VMM_JAIL_FIRECRACKER JAIL_BIN "/firecracker"

struct vmm_choice {
	bool firecracker; // else fcqemu
	bool kvm;
	char program[256]; // Firecracker, or fcqemu
	char qemu[256];	   // on this host, where that drives one
	char version[64];
	struct vmm_version firecracker_version; // of the program, where firecracker
	char kvm_reason[200];			// why KVM is not used; "" when it is
	char qemu_version[48];
	uint64_t tsc_khz;    // of this host
	char name[32];	     // "firecracker", "fcqemu": with the next two in each snapshot
	char state[64];	     // format of its state files
	char sha256[65];     // of the program that writes them
	struct cpu_info cpu; // of this host; tsc_khz as measured
	bool tsc_fixed;	     // KVM cannot give a guest another rate than this host's
	char runtime[SHIM_TREE_ID_SIZE]; // its tree below <data>/runtime
	char upstream[32];		 // version of QEMU or Firecracker: "7.2.22"
};

int vmm_choose(const struct host_config *cfg, struct vmm_choice *ret, struct err *e);
// Name, state format and checksum of the program that writes snapshots.
int vmm_identify(struct host *h, struct err *e);
// Rate of the time stamp counter that a guest in this state file believes in; 0: does not matter.
int vmm_state_tsc_khz(const struct vmm_choice *v, const char *path, uint64_t *ret, struct err *e);
// Program and arguments in the jail, NULL-terminated.
#define VMM_ARGV_MAX 32
void vmm_argv(const struct host *h, const struct vmm_choice *v, const char *argv[VMM_ARGV_MAX]);
// What starts one of our own programs there. *n entries of argv are used so far.
enum own_program { OWN_PAGER, OWN_FCQEMU };
void vmm_add_own(const struct host *h, enum own_program p, const char **argv, size_t *n);
