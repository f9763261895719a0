// SPDX-License-Identifier: Apache-2.0
#include "control/edge/listen.h"
#include <arpa/inet.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "base/str.h"

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

int listen_parse(const char *setting, const char *text, struct listen_address *ret, struct err *e)
{
	const char *colon = strrchr(text, ':');
	uint64_t port = 0;
	struct in6_addr binary;
	struct listen_address a = {.ipv6 = text[0] == '['};
	size_t len = colon ? (size_t)(colon - text) : 0;
	if (!colon || str_to_u64(colon + 1, UINT16_MAX, &port) < 0 || port == 0 ||
		(a.ipv6 && (len < 3 || colon[-1] != ']')))
		return err_set(e, ERR_INVALID, "%s '%.80s': must be ADDRESS:PORT or [IPv6]:PORT",
			setting, text);
	snprintf(a.host, sizeof a.host, "%.*s", (int)(a.ipv6 ? len - 2 : len), text + a.ipv6);
	if (!a.ipv6 && str_eq(a.host, "localhost"))
		snprintf(a.host, sizeof a.host, "127.0.0.1");
	if (len >= sizeof a.host || inet_pton(a.ipv6 ? AF_INET6 : AF_INET, a.host, &binary) != 1)
		return err_set(e, ERR_INVALID, "%s '%.80s': '%.*s' is not an IPv%c address",
			setting, text, (int)MIN(len, 60u), text, a.ipv6 ? '6' : '4');
	a.any = a.ipv6 && IN6_IS_ADDR_UNSPECIFIED(&binary);
	a.port = (uint16_t)port;
	*ret = a;
	return 0;
}

static socklen_t binary_of(const struct listen_address *a, union address *ret)
{
	*ret = (union address){0};
	if (a->ipv6) {
		ret->v6.sin6_family = AF_INET6;
		ret->v6.sin6_port = htons(a->port);
		inet_pton(AF_INET6, a->host, &ret->v6.sin6_addr);
		return sizeof ret->v6;
	}
	ret->v4.sin_family = AF_INET;
	ret->v4.sin_port = htons(a->port);
	inet_pton(AF_INET, a->host, &ret->v4.sin_addr);
	return sizeof ret->v4;
}

// Of an address of all of IPv6 the one of all of IPv4.
static struct listen_address beside(const struct listen_address *a)
{
	return (struct listen_address){.host = "0.0.0.0", .port = a->port};
}

static int check_one(const char *setting, const struct listen_address *a, struct err *e)
{
	union address b;
	socklen_t len = binary_of(a, &b);
	_cleanup_close_ int fd = socket(b.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int one = 1;
	if (fd < 0 && a->ipv6)
		return err_errno(e, errno, "%s [%s]:%u: this machine has no IPv6", setting, a->host,
			a->port);
	if (fd < 0)
		return err_errno(e, errno, "socket");
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (a->ipv6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
	if (bind(fd, &b.any, len) < 0)
		return err_errno(e, errno,
			a->ipv6 ? "cannot listen on [%s]:%u (choose another with --%s)"
				: "cannot listen on %s:%u (choose another with --%s)",
			a->host, a->port, setting);
	return 0;
}

int listen_check_free(const char *setting, const struct listen_address *a, struct err *e)
{
	struct listen_address v4 = beside(a);
	int r = check_one(setting, a, e);
	return r == 0 && a->any ? check_one(setting, &v4, e) : r;
}

bool listen_accepts(const struct listen_address *a)
{
	union address b;
	socklen_t len = binary_of(a, &b);
	if (!a->ipv6 && b.v4.sin_addr.s_addr == htonl(INADDR_ANY))
		b.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (a->any)
		b.v6.sin6_addr = in6addr_loopback;
	_cleanup_close_ int fd = socket(b.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	return fd >= 0 && connect(fd, &b.any, len) == 0;
}

void listen_add(struct strbuf *out, const struct listen_address *a, const char *options)
{
	strbuf_addf(out,
		a->ipv6 ? "listen [%s]:%u ipv6only=on %s so_keepalive=on;\n\t\t"
			: "listen %s:%u %s so_keepalive=on;\n\t\t",
		a->host, a->port, options);
	if (a->any)
		strbuf_addf(out, "listen 0.0.0.0:%u %s so_keepalive=on;\n\t\t", a->port, options);
}
