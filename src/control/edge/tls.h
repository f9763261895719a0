// SPDX-License-Identifier: Apache-2.0
// The edge's own copies of the operator's certificate and key. nginx may be started again at any
// time, and must find a pair that fits and that it has taken once, whatever has become of the
// files.
#pragma once
#include "base/err.h"

#define TLS_PATH_SIZE 300

struct tls_pair {
	char cert[TLS_PATH_SIZE], key[TLS_PATH_SIZE]; // of the copies; "": none
};

// Copies both below dir; generation is in the names. ERR_INVALID where they are no certificate and
// its key, or it is not valid now.
int tls_take(const char *dir, const char *cert, const char *key, unsigned generation,
	struct tls_pair *ret, struct err *e);
void tls_drop(const struct tls_pair *p);
