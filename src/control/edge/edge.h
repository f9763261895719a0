// SPDX-License-Identifier: Apache-2.0
// The edge: nginx, started and supervised by the server with a configuration of its own.
#pragma once
#include "control/edge/conf.h"

struct edge;

// Group that nginx's workers run in, and so must be able to use the API socket; (gid_t)-1 when this
// process is not root and the workers run as itself.
gid_t edge_group(void);
// And the user; -1 where they run as whoever starts them.
uid_t edge_user(void);
// Ends a leftover nginx of a killed server, then returns when the new one accepts connections.
int edge_start(const struct edge_config *cfg, struct edge **ret, struct err *e);
// Writes the configuration anew, with the certificate and key as their files are now, and has nginx
// take it; connections go on. Where it is not good the old one stays. cfg: as at the start.
int edge_reload(struct edge *g, const struct edge_config *cfg, struct err *e);
// Stops accepting; what runs may go on for a moment.
void edge_drain(struct edge *g);
struct edge *edge_stop(struct edge *g);
DEFINE_CLEANUP(struct edge *, edge_stop)
