// SPDX-License-Identifier: Apache-2.0
// Why a connection to a sandbox's agent broke off, told in the sandbox's words.
#pragma once
#include "cli/base/api.h"

// What that means for what was under way, behind "the sandbox was paused: " and the like.
struct ending_words {
	const char *paused; // "the command goes on in it when it is resumed"
	const char *gone;   // "the command is gone with it"
	// Where nothing is known of the sandbox's end: the whole message; NULL: e as it is.
	const char *unknown;
};

// Of a call to the agent that failed with e: where its connection broke since the sandbox was
// paused, went back to a snapshot or ended, e says so and returns what goes with it; ERR_CONFLICT,
// ERR_TIMEOUT for one whose time was over. Any other error stays as it is. Waits for a moment,
// since the connection breaks before the server has written down why; Ctrl-C ends that.
int ending_explain(struct cli *c, const struct guest *g, const struct ending_words *words, int rc,
	struct err *e);
