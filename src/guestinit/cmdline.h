// SPDX-License-Identifier: Apache-2.0
// What stasis-init takes from the kernel command line.
#pragma once
#include "base/macro.h"

#define CMDLINE_MAX_DNS 4

struct cmdline {
	char root[128], rootfstype[32];
	bool ro;
	uint32_t ip, gateway; // network byte order
	unsigned prefix;
	uint32_t dns[CMDLINE_MAX_DNS];
	unsigned n_dns;
};

// Unknown words are for others; the last of several wins. 0, or -EINVAL with the word in bad.
int cmdline_parse(const char *text, struct cmdline *ret, char *bad, size_t bad_size);
