// SPDX-License-Identifier: Apache-2.0
#include "net/cidr.h"
#include <arpa/inet.h>
#include <string.h>
#include "base/str.h"

static uint32_t mask(unsigned prefix)
{
	return prefix == 0 ? 0 : UINT32_MAX << (32 - prefix);
}

int cidr_parse(const char *text, struct cidr *ret, struct err *e)
{
	char addr[INET_ADDRSTRLEN];
	const char *slash = strchrnul(text, '/');
	size_t len = (size_t)(slash - text);
	uint64_t prefix = 32;
	struct in_addr in;
	if (len >= sizeof addr)
		goto bad;
	memcpy(addr, text, len);
	addr[len] = '\0';
	if (inet_pton(AF_INET, addr, &in) != 1)
		goto bad;
	if (*slash && str_to_u64(slash + 1, 32, &prefix) < 0)
		goto bad;
	struct cidr c = {.addr = ntohl(in.s_addr), .prefix = (unsigned)prefix};
	if (c.addr & ~mask(c.prefix)) {
		c.addr &= mask(c.prefix);
		char meant[CIDR_TEXT_SIZE];
		cidr_format(&c, meant);
		return err_set(e, ERR_INVALID, "%s is not a network: %s is meant?", text, meant);
	}
	*ret = c;
	return 0;
bad:
	return err_set(
		e, ERR_INVALID, "\"%.40s\" is not an IPv4 network such as 10.213.0.0/16", text);
}

void cidr_format_address(uint32_t addr, char out[INET_ADDRSTRLEN])
{
	struct in_addr in = {htonl(addr)};
	inet_ntop(AF_INET, &in, out, INET_ADDRSTRLEN);
}

void cidr_format(const struct cidr *c, char out[CIDR_TEXT_SIZE])
{
	char addr[INET_ADDRSTRLEN];
	cidr_format_address(c->addr, addr);
	snprintf(out, CIDR_TEXT_SIZE, "%s/%u", addr, c->prefix);
}

bool cidr_overlaps(const struct cidr *a, const struct cidr *b)
{
	uint32_t m = mask(MIN(a->prefix, b->prefix));
	return (a->addr & m) == (b->addr & m);
}
