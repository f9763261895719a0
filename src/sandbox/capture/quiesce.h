// SPDX-License-Identifier: Apache-2.0
// The guest's processes stand still, or go on, by its agent.
#pragma once
#include "http/client.h"
#include "sandbox/table/host.h"

// *client is made at the first call and kept by the caller, for the next one. An agent that is
// silent is waited for as long as the setting says (machine/reach.h): ERR_TIMEOUT.
int quiesce(
	struct host *h, struct sandbox *s, struct http_client **client, bool frozen, struct err *e);
