// SPDX-License-Identifier: Apache-2.0
// Random bytes and the identifiers made of them.
#pragma once
#include "base/macro.h"

#define SANDBOX_ID_LEN 21 // "i" and 20 of [a-z0-9]: a DNS label with a port prefix stays under 63
#define SANDBOX_ID_SIZE (SANDBOX_ID_LEN + 1)
#define UUID_SIZE 37

void id_random_bytes(void *out, size_t len); // getrandom; never fails short of a broken kernel
void id_new_sandbox(char out[SANDBOX_ID_SIZE]);
bool id_is_sandbox(const char *s);     // ^[a-z0-9]{1,40}$
bool id_is_made(const char *s);	       // of the very form that id_new_sandbox gives
void id_new_uuid(char out[UUID_SIZE]); // RFC 4122 version 4, lower case
bool id_is_uuid(const char *s);
// 2*len lower-case hex digits and a NUL.
void id_hex(const void *data, size_t len, char *out);
// Names of templates and snapshots: [a-z0-9][a-z0-9._-]{0,62}.
bool id_is_name(const char *s);
