// SPDX-License-Identifier: Apache-2.0
#include "net/resolvers.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <string.h>
#include "base/file.h"
#include "base/str.h"

#define FILE_MAX 65536

// Where systemd-resolved and NetworkManager keep what their own servers on loopback ask
// (systemd-resolved.service(8), NetworkManager.conf(5)).
static const char *const upstream_files[] = {
	"/run/systemd/resolve/resolv.conf", "/run/NetworkManager/no-stub-resolv.conf", NULL};

static bool is_in(uint32_t addr, const char *network)
{
	struct cidr c;
	return cidr_parse(network, &c, NULL) == 0 &&
	       (c.prefix == 0 || (addr ^ c.addr) >> (32 - c.prefix) == 0);
}

// NULL where a guest could ask it.
static const char *why_useless(uint32_t addr)
{
	static const struct {
		const char *network, *why;
	} useless[] = {
		{"0.0.0.0/8", "is no address of a server"},
		{"127.0.0.0/8", "is the guest itself, where nothing serves names"},
		{"224.0.0.0/4", "is a multicast address"},
		{"240.0.0.0/4", "is no address of a server"},
		{"169.254.0.20/30", "is of the guest's own link"}, // SLOT_GUEST_IP
	};
	for (size_t i = 0; i < ARRAY_SIZE(useless); i++)
		if (is_in(addr, useless[i].network))
			return useless[i].why;
	return NULL;
}

static int add(struct resolvers *r, const char *text, struct err *e)
{
	struct in_addr a;
	struct in6_addr six;
	if (inet_pton(AF_INET6, text, &six) == 1)
		return err_set(e, ERR_INVALID, "dns: '%s': guests have no IPv6", text);
	if (inet_pton(AF_INET, text, &a) != 1)
		return err_set(e, ERR_INVALID, "dns: '%s' is not an IPv4 address", text);
	uint32_t addr = ntohl(a.s_addr);
	const char *why = why_useless(addr);
	if (why)
		return err_set(e, ERR_INVALID, "dns: '%s' %s", text, why);
	for (size_t i = 0; i < r->n; i++)
		if (r->addr[i] == addr)
			return err_set(e, ERR_INVALID, "dns: '%s' is there twice", text);
	if (r->n == RESOLVERS_MAX)
		return err_set(e, ERR_INVALID, "dns: at most %d addresses", RESOLVERS_MAX);
	r->addr[r->n++] = addr;
	return 0;
}

int resolvers_parse(const char *text, struct resolvers *ret, struct err *e)
{
	static const char between[] = ", \t";
	struct resolvers r = {0};
	for (const char *p = text; *(p += strspn(p, between));) {
		char one[INET6_ADDRSTRLEN + 1];
		size_t len = strcspn(p, between);
		snprintf(one, sizeof one, "%.*s", (int)MIN(len, sizeof one), p);
		int rc = add(&r, one, e);
		if (rc < 0)
			return rc;
		p += len;
	}
	if (r.n == 0)
		return err_set(e, ERR_INVALID, "dns: needs an address");
	*ret = r;
	return 0;
}

bool resolvers_are_same(const struct resolvers *a, const struct resolvers *b)
{
	return a->n == b->n && memcmp(a->addr, b->addr, a->n * sizeof a->addr[0]) == 0;
}

void resolvers_format(const struct resolvers *r, char out[RESOLVERS_TEXT_SIZE])
{
	size_t len = 0;
	out[0] = '\0';
	for (size_t i = 0; i < r->n; i++) {
		char one[INET_ADDRSTRLEN];
		cidr_format_address(r->addr[i], one);
		len += (size_t)snprintf(
			out + len, RESOLVERS_TEXT_SIZE - len, "%s%s", i ? "," : "", one);
	}
}

// Adds what the file names and a guest can ask; true when there was a server on loopback besides.
static bool read_file(const char *path, struct resolvers *r)
{
	_cleanup_strbuf_ struct strbuf text = {0};
	bool loopback = false;
	if (file_read(AT_FDCWD, path, FILE_MAX, &text) < 0 || !text.data)
		return false;
	for (char *line = text.data, *next; line; line = next) {
		char one[INET6_ADDRSTRLEN + 1];
		struct in_addr a;
		next = strchr(line, '\n');
		if (next)
			*next++ = '\0';
		if (sscanf(line, "nameserver %46s", one) != 1)
			continue;
		if (inet_pton(AF_INET, one, &a) == 1 && ntohl(a.s_addr) >> 24 == IN_LOOPBACKNET)
			loopback = true;
		else if (r->n < RESOLVERS_MAX)
			add(r, one, NULL);
	}
	return loopback;
}

bool resolvers_of_files(const char *main, const char *const upstream[], struct resolvers *ret,
	char from[RESOLVERS_FROM_SIZE])
{
	struct resolvers r = {0};
	bool loopback = read_file(main, &r);
	snprintf(from, RESOLVERS_FROM_SIZE, "%s", main);
	for (size_t i = 0; loopback && r.n == 0 && upstream[i]; i++) {
		read_file(upstream[i], &r);
		snprintf(from, RESOLVERS_FROM_SIZE, "%s", upstream[i]);
	}
	bool found = r.n > 0;
	if (!found) {
		r = (struct resolvers){{0x01010101, 0x08080808}, 2};
		snprintf(from, RESOLVERS_FROM_SIZE, "%s", main);
	}
	*ret = r;
	return found;
}

bool resolvers_of_host(struct resolvers *ret, char from[RESOLVERS_FROM_SIZE])
{
	return resolvers_of_files("/etc/resolv.conf", upstream_files, ret, from);
}
