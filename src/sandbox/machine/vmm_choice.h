// SPDX-License-Identifier: Apache-2.0
// Which VMM this host runs, and with which programs and arguments.
#pragma once
#include "sandbox/table/table.h"
#include "snapshot/cpu.h"
#include "vmm/version.h"

struct vmm_choice {
	bool firecracker; // else fcqemu
	bool kvm;
	char program[256];
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
};

int vmm_choose(const struct host_config *cfg, struct vmm_choice *ret, struct err *e);
int vmm_runtime_build(struct host *h, struct err *e);
// Name, state format and checksum of the program that writes snapshots.
int vmm_identify(struct host *h, struct err *e);
// Rate of the time stamp counter that a guest in this state file believes in; 0: does not matter.
int vmm_state_tsc_khz(const struct host *h, const char *path, uint64_t *ret, struct err *e);
// Program and arguments in the jail, NULL-terminated, at most 16.
void vmm_argv(const struct host *h, const char *argv[16]);
