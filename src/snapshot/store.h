// SPDX-License-Identifier: Apache-2.0
// The directory of a snapshot: <data>/snapshots/<id>/{snapshot.json, vmstate, memory.hdr, disk.img,
// working_set}, its layers in <data>/layers. A snapshot exists once snapshot.json does; without it
// the directory is the remains of an attempt.
//
// All calls take the data directory's descriptor. Errors name the file and the reason.
#pragma once
#include "snapshot/header.h"

#define SNAPSHOT_FORMAT_VERSION 1u
#define SNAPSHOT_MAX_VMSTATE (64ull << 20)

enum snapshot_kind { SNAPSHOT_PAUSE, SNAPSHOT_CHECKPOINT, SNAPSHOT_TEMPLATE, SNAPSHOT_KIND_MAX };
const char *snapshot_kind_name(enum snapshot_kind k); // "pause"

// What snapshot.json holds. The caller fills in all but the last group.
struct snapshot_info {
	char id[UUID_SIZE];
	char parent[UUID_SIZE]; // "" for none
	enum snapshot_kind kind;
	char vmm_name[32];     // "firecracker", "fcqemu"
	char vmm_version[64];  //
	char vmm_sha256[65];   // of the program that wrote vmstate: 64 hex digits
	char vmm_state[64];    // its format: "10.0.0", "qemu-7.2.22"
	char kernel_id[72];    //
	uint32_t vcpus;	       // 1..256
	uint64_t memory_bytes; // the header's size
	uint64_t tsc_khz;      // 0 where the guest's clock does not depend on it
	uint64_t created_ns;   // CLOCK_REALTIME when the guest stopped

	char image[UUID_SIZE]; // the header's; the header guards its own bytes
	uint64_t vmstate_size, vmstate_xxh3;
	uint64_t disk_size; // 0: no disk
};

// Files to move (rename) into the snapshot, relative to dirfd, on the file system of the store.
struct snapshot_files {
	int dirfd;
	const char *vmstate;
	const char *disk;	 // NULL: none
	const char *working_set; // NULL: none
};

// Publishes a snapshot whose layers are published already. Each file is durable before
// snapshot.json, which is durable when it returns 0. On error nothing is left and the files are
// where they were. Sizes and checksums are filled in.
int snapshot_write(int data_fd, struct snapshot_info *info, const struct header *h,
	const struct snapshot_files *files, struct err *e);

// Reads and checks everything but the content of layers and disk: snapshot.json, the header, the
// vmstate's checksum, sizes, and that each layer is there and whole. *ret_header may be NULL.
int snapshot_read(int data_fd, const char *id, struct snapshot_info *ret,
	struct header **ret_header, struct err *e);
// After a merge: the same image in other layers. Durable.
int snapshot_replace_header(int data_fd, const char *id, const struct header *h, struct err *e);
// Adds or replaces the recorded working set (moved). It is advice: not part of the checksums.
int snapshot_set_working_set(
	int data_fd, const char *id, int dirfd, const char *path, struct err *e);

// Calls f with the id of each snapshot; complete is false for the remains of an attempt. A result
// other than 0 ends it and is returned.
typedef int (*snapshot_list_fn)(void *ctx, const char *id, bool complete);
int snapshot_list(int data_fd, snapshot_list_fn f, void *ctx, struct err *e);
// snapshot.json first, durably. A missing snapshot is success. Layers are left to the collection.
int snapshot_delete(int data_fd, const char *id, struct err *e);

// Text of snapshot.json and back, for tests. Strict: exactly the bytes that snapshot_encode writes.
int snapshot_encode(const struct snapshot_info *info, struct strbuf *out);
int snapshot_decode(const char *text, size_t len, struct snapshot_info *ret, struct err *e);
