// SPDX-License-Identifier: Apache-2.0
// Secrets inside of snapshots. A snapshot's directory may be copied, backed up or moved to another
// machine; the token of the agent in its memory is readable with the host's key only.
#pragma once
#include "base/err.h"

#define SEAL_KEY_FILE "host.key" // in the data directory: 32 random bytes, 0600
#define SEAL_TOKEN_MAX 127u

struct seal {
	uint8_t key[32];
	char key_id[17]; // of the key: the first half of its SHA-256, 16 digits
};

// In snapshot.json.
struct snapshot_token {
	uint64_t epoch;			      // 0: the token is as the host made it
	char key_id[17];		      // "": there is no token
	char sealed[2 * (12 + 127 + 16) + 1]; // hexadecimal: nonce, text, tag (AES-256-GCM)
};

// Reads the host's key; makes it, durably, where there is none. Two callers get the same.
int seal_open(int data_fd, struct seal *ret, struct err *e);
// Seals the token for that snapshot alone: its id is authenticated with it.
int seal_token(const struct seal *s, const char *snapshot, const char *token,
	struct snapshot_token *ret, struct err *e);
// ERR_UNAVAILABLE when another key sealed it: the snapshot's disk can be used, its memory cannot.
// ERR_INTERNAL when it was damaged or belongs to another snapshot. "" where there is no token.
int unseal_token(const struct seal *s, const char *snapshot, const struct snapshot_token *t,
	char ret[SEAL_TOKEN_MAX + 1], struct err *e);
