// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "base/err.h"

// Aborts all of this host's TCP connections to the address: their users see an error at once, where
// a guest that is gone would never answer. ret_n: how many; may be NULL. -EOPNOTSUPP where the
// kernel has no SOCK_DESTROY (CONFIG_INET_DIAG_DESTROY).
int sockets_abort(const char *address, unsigned *ret_n, struct err *e);
