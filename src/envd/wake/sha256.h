// SPDX-License-Identifier: Apache-2.0
// SHA-256 (FIPS 180-4), for the agent, which is linked statically and has no crypto library.
#pragma once
#include "base/macro.h"

#define SHA256_TEXT_SIZE 65

void sha256_text(const void *data, size_t len, char out[SHA256_TEXT_SIZE]); // 64 hex digits
