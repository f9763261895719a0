// SPDX-License-Identifier: Apache-2.0
// A process that plays the VMM: memory under a userfaultfd, handed over exactly as Firecracker
// does.
#pragma once
#include "../snapshot/world.h"

struct vm {
	uint8_t *memory[2]; // the regions, apart in the address space
	uint64_t size[2];
	int uffd, socket;
	bool write_protect;
};

// Can this process make a userfaultfd that serves the kernel's faults? Needs root.
bool vm_possible(void);
// n regions (1 or 2) of the sizes, registered.
void vm_init(struct vm *vm, bool write_protect, uint64_t size0, uint64_t size1);
void vm_done(struct vm *vm);
// Connects (the path must be there) and hands over.
void vm_hand_over(struct vm *vm, const char *path);
int vm_connect(const char *path);
void vm_json(const struct vm *vm, char *out, size_t size);
// fd -1: none
void vm_send(int socket, const char *text, size_t len, int fd);
uint64_t vm_size(const struct vm *vm);
uint8_t *vm_at(const struct vm *vm, uint64_t offset); // address of an offset of guest memory
