// SPDX-License-Identifier: Apache-2.0
// snapshot.json: what a snapshot is and what it needs to be loaded again. It is enough to make the
// snapshot's row of host.db anew. docs/snapshot-format.md has every key.
//
// A member that is empty or 0 and may be so is null in the file: not known, or not used yet.
#pragma once
#include "base/err.h"
#include "base/id.h"
#include "base/str.h"
#include "snapshot/cpu.h"
#include "snapshot/seal.h"

#define SNAPSHOT_FORMAT_VERSION 2u
#define SNAPSHOT_MAX_VMSTATE (64ull << 20)

enum snapshot_kind {
	SNAPSHOT_PAUSE,
	SNAPSHOT_CHECKPOINT,
	SNAPSHOT_TEMPLATE,
	SNAPSHOT_FROZEN, // the machine of a base image, booted once
	SNAPSHOT_KIND_MAX,
};
const char *snapshot_kind_name(enum snapshot_kind k); // "pause"
// SNAPSHOT_KIND_MAX for what is unknown.
enum snapshot_kind snapshot_kind_from_name(const char *name);

enum snapshot_contents { SNAPSHOT_MEMORY_AND_DISK, SNAPSHOT_DISK, SNAPSHOT_CONTENTS_MAX };

// The writer fills in all but the last group; zeroed members are right where nothing is known.
struct snapshot_info {
	unsigned format;	// that it was read from; what is written is the newest
	char id[UUID_SIZE];	//
	char parent[UUID_SIZE]; // "" for none
	enum snapshot_kind kind;
	char sandbox[64], template[64]; // "" only in format 1, as the next two
	char accel[16];			// "kvm", "tcg"
	struct cpu_info cpu;		// of the host that wrote it
	char image_key[65];		// of SNAPSHOT_FROZEN: the base image and VMM it is of
	char vmm_name[32];		// "firecracker", "fcqemu"
	char vmm_version[64];		//
	char vmm_sha256[65];		// of the program that wrote vmstate: 64 hex digits
	char vmm_state[64];		// its format: "10.0.0", "qemu-7.2.22"
	char runtime[80];		// the VMM's tree below <data>/runtime
	char agent_version[64];		// of the guest's agent
	char kernel_id[72];		//
	uint32_t vcpus;			// 1..256
	uint64_t memory_bytes;		// the header's size
	uint64_t disk_bytes; // of the root disk as the sandbox has it: disk_mb of its row
	uint64_t tsc_khz;    // 0 where the guest's clock does not depend on it
	uint64_t created_ns; // CLOCK_REALTIME when the guest stopped
	enum snapshot_contents contents;
	bool quiesced;		     // the agent froze the guest's processes and synced before
	struct snapshot_token token; // of the agent
	char auth_key_id[65], auth_alg[32], auth_mac[129];

	char image[UUID_SIZE]; // the header's
	uint64_t vmstate_size;
	uint64_t disk_size; // of disk.img; 0: no disk
	// XXH3, 0: not known. header: the checksum in the header itself; sums: see layers_digest.
	uint64_t header_xxh3, vmstate_xxh3, sums_xxh3;
};

// Text of snapshot.json: in the format that it names, the newest for 0.
int snapshot_encode(const struct snapshot_info *info, struct strbuf *out);
// Strict: exactly the bytes that snapshot_encode writes, in this format or an older one. -EIO.
int snapshot_decode(const char *text, size_t len, struct snapshot_info *ret, struct err *e);
// Are the members that the writer fills in such that they can be read back?
int snapshot_check(const struct snapshot_info *info, struct err *e);
