// SPDX-License-Identifier: Apache-2.0
// What the agent tells the host of itself: the value of AGENT_HEADER (agentclient/version.h).
#pragma once
#include "agentclient/version.h"

// init: the version of stasis-init, NULL where it did not tell.
void identity_text(const char *init, char out[AGENT_HEADER_SIZE]);
