// SPDX-License-Identifier: Apache-2.0
// SHA-256 and HMAC by OpenSSL (not linked into envd unless used).
#pragma once
#include "base/macro.h"

#define SHA256_HEX_SIZE 65

void hash_sha256_hex(const void *data, size_t len, char out[SHA256_HEX_SIZE]);
// 0 or -errno.
int hash_sha256_file_hex(int dirfd, const char *path, char out[SHA256_HEX_SIZE]);
void hash_hmac_sha256_hex(
	const void *key, size_t key_len, const void *data, size_t len, char out[SHA256_HEX_SIZE]);
