// SPDX-License-Identifier: Apache-2.0
// The directory of a snapshot: <data>/snapshots/<id>/{snapshot.json, vmstate, memory.hdr, disk.img,
// working_set, resumed}, its layers in <data>/layers. A snapshot exists once snapshot.json does;
// without it the directory is the remains of an attempt.
//
// All calls take the data directory's descriptor. Errors name the file and the reason.
#pragma once
#include "snapshot/header.h"
#include "snapshot/info.h"

// Files to move (rename) into the snapshot, relative to dirfd, on the file system of the store.
struct snapshot_files {
	int dirfd;
	const char *vmstate;
	const char *disk;	 // NULL: none
	const char *working_set; // NULL: none
};

// Publishes a snapshot whose layers are published already. Each file is durable before
// snapshot.json, which is durable when it returns 0. On error nothing is left and the files are
// where they were. Format, sizes and checksums are filled in.
int snapshot_write(int data_fd, struct snapshot_info *info, const struct header *h,
	const struct snapshot_files *files, struct err *e);

// Reads and checks everything but the content of layers and disk: snapshot.json, the header, the
// vmstate's checksum, sizes, and that each layer is there and whole. *ret_header may be NULL.
int snapshot_read(int data_fd, const char *id, struct snapshot_info *ret,
	struct header **ret_header, struct err *e);
// snapshot.json alone.
int snapshot_read_info(int data_fd, const char *id, struct snapshot_info *ret, struct err *e);
// After a merge: the same image in other layers. Durable.
int snapshot_replace_header(int data_fd, const char *id, const struct header *h, struct err *e);

// One that is not quiesced is resumed once, and this is when: its guest is about to run. Durable,
// and beside the snapshot itself, so that no older copy of host.db forgets it.
int snapshot_mark_resumed(int data_fd, const char *id, struct err *e);
// 1, 0, or the -errno that keeps it from being known.
int snapshot_was_resumed(int data_fd, const char *id);

// Calls f with the id of each snapshot; complete is false for the remains of an attempt. A result
// other than 0 ends it and is returned.
typedef int (*snapshot_list_fn)(void *ctx, const char *id, bool complete);
int snapshot_list(int data_fd, snapshot_list_fn f, void *ctx, struct err *e);
// snapshot.json first, durably. A missing snapshot is success. Layers are left to the collection.
int snapshot_delete(int data_fd, const char *id, struct err *e);
