// SPDX-License-Identifier: Apache-2.0
// Which VMMs are refused: those below the setting vmm_floor, and those that were denied one by one.
// Nothing starts on them, neither a boot nor a load; what runs goes on.
#pragma once
#include <pthread.h>
#include "sandbox/machine/vmm_choice.h"

#define RUNTIME_WHY_SIZE 200
#define RUNTIME_DENIED_MAX 1000u

struct runtime_rules {
	pthread_mutex_t lock;
	struct vmm_version qemu, firecracker; // at least; text "": any
	char (*denied)[SHIM_TREE_ID_SIZE];
	size_t n_denied;
};

// floor: "qemu 7.2.9, firecracker 1.14.2", each at most once; NULL or "": none. The denied ones are
// read from <data>/runtime.denied.
int runtime_rules_open(struct runtime_rules *r, int data_fd, const char *floor, struct err *e);
void runtime_rules_done(struct runtime_rules *r);
// False: *ret_why says it, half a sentence without a full stop.
bool runtime_is_allowed(
	struct runtime_rules *r, const struct vmm_choice *v, char ret_why[RUNTIME_WHY_SIZE]);
bool runtime_is_denied(struct runtime_rules *r, const char *id);
// Durable. One that is not there, or is of the past, can be denied too.
int runtime_deny(struct runtime_rules *r, int data_fd, const char *id, bool on, struct err *e);
