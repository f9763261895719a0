// SPDX-License-Identifier: Apache-2.0
// nginx's configuration: written once, out of nginx.conf.in.
#pragma once
#include <pwd.h>
#include "control/edge/edge.h"

// Whom nginx's workers run as where it is started by root; NULL: nobody suitable.
const struct passwd *conf_worker_user(struct passwd *pw, char *buf, size_t size);
// listen: address and port as nginx has them.
int conf_write(const char *path, const char *listen, const struct edge_config *cfg, struct err *e);
// nginx takes it.
int conf_check(const char *program, const char *dir, const char *path, struct err *e);
