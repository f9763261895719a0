// SPDX-License-Identifier: Apache-2.0
// The guest's one interface. Failures are said on the console; the guest goes on without.
#pragma once
#include "guestinit/cmdline.h"

// lo and eth0, with address and gateway.
void network_set_up(const struct cmdline *c);
// /etc/resolv.conf, unless the root file system has its own.
void network_write_resolv_conf(const struct cmdline *c);
