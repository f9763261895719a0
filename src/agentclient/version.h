// SPDX-License-Identifier: Apache-2.0
// Which agent a guest runs: what the agent tells of itself, what is recorded of it, and what is
// known to be weak in which. The agent lives in a snapshot's memory, as it was when that was taken.
//
// A version is "0.1.0-3+1f0e...": the product's, the agent's revision, its build (the first 8 bytes
// of the ELF file's build id). The revision grows with each fault of the agent that is mended, and
// with each call that it learns. All of it is the guest's word.
//
// Revisions: 1 has no X-Envd-Instance; 2 has it, and both tell nothing else; 3 tells its version
// and can be replaced (envd_call_replace).
#pragma once
#include "base/macro.h"

#define AGENT_REVISION 3u
#define AGENT_HEADER "X-Stasis-Agent"
#define AGENT_VERSION_SIZE 64
#define AGENT_BUILD_SIZE 17
#define AGENT_HEADER_SIZE 96
// Tests build agents of another version.
#ifndef AGENT_PRODUCT
#define AGENT_PRODUCT STASIS_VERSION
#endif
// By which stasis-init tells the agent its own version, in the same form without a build.
#define AGENT_INIT_VARIABLE "STASIS_INIT_VERSION"

struct agent_version {
	// "0.1.0-3+<build> init=0.1.0-3" of one that tells; "unknown-1", "unknown-2" of one that
	// does not.
	char text[AGENT_VERSION_SIZE];
	char build[AGENT_BUILD_SIZE]; // "": not told
	unsigned revision;
	bool can_replace;
};

// header: NULL, "" and what makes no sense are the same: it tells nothing. instance: it has one.
void agent_version_read(const char *header, bool instance, struct agent_version *ret);
// Of a recorded text; 0 for "", which says that nobody has asked, and what makes no sense.
unsigned agent_version_revision(const char *text);
// Whether the first is of an older product, or of the same with a lower revision. Texts of
// versions or of records.
bool agent_version_is_older(const char *text, const char *than);
// For people: "0.1.0-3+...", "before 0.1.0-3".
const char *agent_version_shown(const char *text);

struct agent_weakness {
	unsigned first, last; // revisions
	bool owner_only;      // the edge lets nobody to such a guest who does not show its token
	const char *text;     // what is weak
};
// The i-th weakness of a recorded agent, NULL beyond the last. Nobody has asked: those that any
// agent may have, of which none is owner_only.
const struct agent_weakness *agent_weakness(const char *text, unsigned i);
bool agent_is_owner_only(const char *text);
