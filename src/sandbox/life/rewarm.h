// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "sandbox/table/host.h"

// host_snapshot_create of a request that names another snapshot (rewarm): the disk of that boots on
// this host's own VMM and is captured as the new one. Asked again with the same ids it is done
// once. The other stays as it is.
int rewarm(struct host *h, const struct host_snapshot_create *req, struct host_snapshot *ret,
	struct err *e);
