// SPDX-License-Identifier: Apache-2.0
// IPv4 networks in host byte order.
#pragma once
#include <netinet/in.h>
#include "base/err.h"

struct cidr {
	uint32_t addr; // no bits set beyond the prefix
	unsigned prefix;
};

#define CIDR_TEXT_SIZE (INET_ADDRSTRLEN + 3)

// "10.213.0.0/16"; a plain address is a /32. Bits beyond the prefix are an error that names the
// network meant.
int cidr_parse(const char *text, struct cidr *ret, struct err *e);
void cidr_format(const struct cidr *c, char out[CIDR_TEXT_SIZE]);
void cidr_format_address(uint32_t addr, char out[INET_ADDRSTRLEN]);
bool cidr_overlaps(const struct cidr *a, const struct cidr *b);
