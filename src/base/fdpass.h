// SPDX-License-Identifier: Apache-2.0
// A descriptor that travels with bytes over a Unix socket.
#pragma once
#include <sys/types.h>
#include "base/macro.h"

// Sends in one call, with flags as MSG_DONTWAIT; fd -1: the bytes alone. At least one byte must go
// along. How many went (a stream may take fewer; the descriptor goes with the first), or -errno: a
// peer that is gone is -EPIPE, not a signal.
ssize_t fdpass_send(int socket, const void *data, size_t len, int fd, int flags);
// One receive: how many bytes came, 0 at the end, or -errno. A descriptor that came along is put
// into *fd, close-on-exec, and owned by the caller; where *fd holds one already (not -1), and of
// several all but the first, are closed.
ssize_t fdpass_receive(int socket, void *buf, size_t size, int *fd, int flags);
