// SPDX-License-Identifier: Apache-2.0
// What process/oom.h knows, for clients and for the host.
#pragma once
#include <jansson.h>
#include "envd/process/oom.h"
#include "http/server.h"

// {"process", "pid", "uid", "rssBytes", "memoryBytes", "cgroup", "at", "count"}: the last of so
// many kills. cgroup is null where the guest's memory was over. Owned by the caller.
json_t *oom_json(const struct oom_kill *k, uint64_t count);
// POST /oom, of the host. The body {"told": T, "seq": S} says that the report with these numbers
// has arrived; {} says nothing. The answer is what is still to be told: {"total", "seq", "untold",
// "memoryBytes", "kills": [...]}.
void oom_post(struct http_request *req, void *ctx);
