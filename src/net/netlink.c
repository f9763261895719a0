// SPDX-License-Identifier: Apache-2.0
#include "net/netlink.h"
#include <arpa/inet.h>
#include <libmnl/libmnl.h>
#include <linux/if_link.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <string.h>

#define BATCH_SIZE 4096 // far above the largest batch: a slot's ten requests are below 1 KiB
#define BATCH_MAX 16
#define REQUEST_MAX 320

struct netlink {
	struct mnl_socket *sock;
	uint32_t seq; // of the first request of the batch
	size_t used, count;
	bool overflow;
	const char *what[BATCH_MAX]; // for the error text
	char buf[BATCH_SIZE];
};

static int open_bus(int bus, struct netlink **ret, struct err *e)
{
	_cleanup_netlink_ struct netlink *n = calloc(1, sizeof *n);
	int on = 1;
	if (!n)
		return err_errno(e, ENOMEM, "netlink");
	n->sock = mnl_socket_open2(bus, SOCK_CLOEXEC);
	if (!n->sock || mnl_socket_bind(n->sock, 0, MNL_SOCKET_AUTOPID) < 0)
		return err_errno(e, errno, "netlink socket");
	// The kernel's own words with an error; without them the errno has to do.
	mnl_socket_setsockopt(n->sock, NETLINK_EXT_ACK, &on, sizeof on);
	mnl_socket_setsockopt(n->sock, NETLINK_CAP_ACK, &on, sizeof on);
	n->seq = 1;
	*ret = TAKE_PTR(n);
	return 0;
}

int netlink_open(struct netlink **ret, struct err *e)
{
	return open_bus(NETLINK_ROUTE, ret, e);
}

struct netlink *netlink_free(struct netlink *n)
{
	if (n && n->sock)
		mnl_socket_close(n->sock);
	free(n);
	return NULL;
}

// The next request of the batch, with room for REQUEST_MAX bytes. NULL when the batch is full,
// which netlink_commit then reports.
static struct nlmsghdr *begin(struct netlink *n, uint16_t type, uint16_t flags, const char *what)
{
	if (n->count == BATCH_MAX || n->used + REQUEST_MAX > sizeof n->buf) {
		n->overflow = true;
		return NULL;
	}
	struct nlmsghdr *h = mnl_nlmsg_put_header(n->buf + n->used);
	h->nlmsg_type = type;
	h->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags;
	h->nlmsg_seq = n->seq + (uint32_t)n->count;
	n->what[n->count] = what;
	return h;
}

static void end(struct netlink *n, struct nlmsghdr *h)
{
	n->used += MNL_ALIGN(h->nlmsg_len);
	n->count++;
}

// The first attribute of that type behind a header of that size, or NULL.
static const struct nlattr *find_attr(const struct nlmsghdr *h, size_t header_size, uint16_t type)
{
	const char *tail = mnl_nlmsg_get_payload_tail(h);
	const struct nlattr *a = mnl_nlmsg_get_payload_offset(h, header_size);
	for (; mnl_attr_ok(a, (int)(tail - (const char *)a)); a = mnl_attr_next(a))
		if (mnl_attr_get_type(a) == type)
			return a;
	return NULL;
}

static const char *extended_text(const struct nlmsghdr *h)
{
	if (!(h->nlmsg_flags & NLM_F_ACK_TLVS))
		return NULL;
	const struct nlattr *a = find_attr(h, sizeof(struct nlmsgerr), NLMSGERR_ATTR_MSG);
	return a && mnl_attr_validate(a, MNL_TYPE_NUL_STRING) >= 0 ? mnl_attr_get_str(a) : NULL;
}

int netlink_commit(struct netlink *n, struct err *e)
{
	char in[8192];
	uint32_t first = n->seq;
	size_t count = n->count, used = n->used, answered = 0;
	int rc = 0;
	n->seq += (uint32_t)count;
	n->count = n->used = 0;
	if (n->overflow) {
		n->overflow = false;
		return err_set(e, ERR_INTERNAL, "too many netlink requests in one batch");
	}
	if (count && mnl_socket_sendto(n->sock, n->buf, used) < 0)
		return err_errno(e, errno, "netlink send");
	while (answered < count) {
		ssize_t len = RETRY_EINTR(mnl_socket_recvfrom(n->sock, in, sizeof in));
		if (len < 0)
			return err_errno(e, errno, "netlink receive");
		int left = (int)len;
		for (struct nlmsghdr *h = (void *)in; mnl_nlmsg_ok(h, left);
			h = mnl_nlmsg_next(h, &left)) {
			uint32_t i = h->nlmsg_seq - first;
			if (h->nlmsg_type != NLMSG_ERROR || i >= count)
				continue;
			answered++;
			const struct nlmsgerr *err = mnl_nlmsg_get_payload(h);
			if (!err->error || rc < 0)
				continue;
			const char *more = extended_text(h);
			rc = err_errno(e, err->error, "%s%s%s%s", n->what[i], more ? " (" : "",
				more ? more : "", more ? ")" : "");
		}
	}
	return rc;
}

void netlink_add_veth(struct netlink *n, const char *name, const uint8_t mac[MAC_SIZE],
	const char *peer, const uint8_t peer_mac[MAC_SIZE], int peer_netns)
{
	struct nlmsghdr *h = begin(n, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, "make veth pair");
	if (!h)
		return;
	mnl_nlmsg_put_extra_header(h, sizeof(struct ifinfomsg));
	mnl_attr_put_strz(h, IFLA_IFNAME, name);
	mnl_attr_put(h, IFLA_ADDRESS, MAC_SIZE, mac);
	struct nlattr *info = mnl_attr_nest_start(h, IFLA_LINKINFO);
	mnl_attr_put_strz(h, IFLA_INFO_KIND, "veth");
	struct nlattr *data = mnl_attr_nest_start(h, IFLA_INFO_DATA);
	struct nlattr *p = mnl_attr_nest_start(h, VETH_INFO_PEER);
	mnl_nlmsg_put_extra_header(h, sizeof(struct ifinfomsg));
	mnl_attr_put_strz(h, IFLA_IFNAME, peer);
	mnl_attr_put(h, IFLA_ADDRESS, MAC_SIZE, peer_mac);
	mnl_attr_put_u32(h, IFLA_NET_NS_FD, (uint32_t)peer_netns);
	mnl_attr_nest_end(h, p);
	mnl_attr_nest_end(h, data);
	mnl_attr_nest_end(h, info);
	end(n, h);
}

void netlink_set_up(struct netlink *n, unsigned ifindex, const uint8_t *mac)
{
	struct nlmsghdr *h = begin(n, RTM_NEWLINK, 0, "set link up");
	if (!h)
		return;
	struct ifinfomsg *m = mnl_nlmsg_put_extra_header(h, sizeof *m);
	m->ifi_index = (int)ifindex;
	m->ifi_flags = m->ifi_change = IFF_UP;
	if (mac)
		mnl_attr_put(h, IFLA_ADDRESS, MAC_SIZE, mac);
	end(n, h);
}

void netlink_del_link(struct netlink *n, const char *name)
{
	struct nlmsghdr *h = begin(n, RTM_DELLINK, 0, "remove link");
	if (!h)
		return;
	mnl_nlmsg_put_extra_header(h, sizeof(struct ifinfomsg));
	mnl_attr_put_strz(h, IFLA_IFNAME, name);
	end(n, h);
}

void netlink_add_address(struct netlink *n, unsigned ifindex, const struct cidr *address)
{
	struct nlmsghdr *h = begin(n, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, "add address");
	if (!h)
		return;
	struct ifaddrmsg *m = mnl_nlmsg_put_extra_header(h, sizeof *m);
	m->ifa_family = AF_INET;
	m->ifa_prefixlen = (uint8_t)address->prefix;
	m->ifa_index = ifindex;
	mnl_attr_put_u32(h, IFA_LOCAL, htonl(address->addr));
	mnl_attr_put_u32(h, IFA_ADDRESS, htonl(address->addr));
	end(n, h);
}

static struct rtmsg *put_route(struct nlmsghdr *h, unsigned prefix, uint8_t type, uint8_t protocol)
{
	struct rtmsg *m = mnl_nlmsg_put_extra_header(h, sizeof *m);
	m->rtm_family = AF_INET;
	m->rtm_dst_len = (uint8_t)prefix;
	m->rtm_table = RT_TABLE_MAIN;
	m->rtm_protocol = protocol;
	m->rtm_scope = RT_SCOPE_UNIVERSE;
	m->rtm_type = type;
	return m;
}

void netlink_add_default_route(struct netlink *n, unsigned ifindex, uint32_t gateway)
{
	struct nlmsghdr *h = begin(n, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, "add default route");
	if (!h)
		return;
	put_route(h, 0, RTN_UNICAST, RTPROT_STATIC);
	mnl_attr_put_u32(h, RTA_GATEWAY, htonl(gateway));
	mnl_attr_put_u32(h, RTA_OIF, ifindex);
	end(n, h);
}

void netlink_add_neighbour(
	struct netlink *n, unsigned ifindex, uint32_t ip, const uint8_t mac[MAC_SIZE])
{
	struct nlmsghdr *h =
		begin(n, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, "add neighbour entry");
	if (!h)
		return;
	struct ndmsg *m = mnl_nlmsg_put_extra_header(h, sizeof *m);
	m->ndm_family = AF_INET;
	m->ndm_ifindex = (int)ifindex;
	m->ndm_state = NUD_PERMANENT;
	mnl_attr_put_u32(h, NDA_DST, htonl(ip));
	mnl_attr_put(h, NDA_LLADDR, MAC_SIZE, mac);
	end(n, h);
}

static void unreachable(struct netlink *n, uint16_t type, uint16_t flags, const char *what,
	const struct cidr *dst, uint8_t protocol, uint32_t metric)
{
	struct nlmsghdr *h = begin(n, type, flags, what);
	if (!h)
		return;
	put_route(h, dst->prefix, RTN_UNREACHABLE, protocol);
	mnl_attr_put_u32(h, RTA_DST, htonl(dst->addr));
	mnl_attr_put_u32(h, RTA_PRIORITY, metric);
	end(n, h);
}

void netlink_add_unreachable(
	struct netlink *n, const struct cidr *dst, uint8_t protocol, uint32_t metric)
{
	unreachable(n, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, "add route of the slot range",
		dst, protocol, metric);
}

void netlink_del_unreachable(
	struct netlink *n, const struct cidr *dst, uint8_t protocol, uint32_t metric)
{
	unreachable(n, RTM_DELROUTE, 0, "remove route of the slot range", dst, protocol, metric);
}

// Dumps.

struct walk {
	netlink_route_fn route;
	netlink_link_fn link;
	netlink_address_fn address;
	void *arg;
	int rc;
};

static uint32_t attr_u32(const struct nlattr *a)
{
	return a && mnl_attr_get_payload_len(a) == 4 ? mnl_attr_get_u32(a) : 0;
}

static int on_route(const struct nlmsghdr *h, struct walk *w)
{
	const struct rtmsg *m = mnl_nlmsg_get_payload(h);
	if (m->rtm_family != AF_INET || m->rtm_flags & RTM_F_CLONED)
		return 0;
	const struct nlattr *ways = find_attr(h, sizeof *m, RTA_MULTIPATH);
	struct netlink_route r = {
		.dst = {ntohl(attr_u32(find_attr(h, sizeof *m, RTA_DST))), m->rtm_dst_len},
		.oif = attr_u32(find_attr(h, sizeof *m, RTA_OIF)),
		.type = m->rtm_type,
		.protocol = m->rtm_protocol,
		.metric = attr_u32(find_attr(h, sizeof *m, RTA_PRIORITY)),
		.gateway = ways || find_attr(h, sizeof *m, RTA_GATEWAY) ||
			   find_attr(h, sizeof *m, RTA_VIA),
	};
	if (!ways)
		return w->route(&r, w->arg);
	int left = mnl_attr_get_payload_len(ways), rc = 0;
	for (const struct rtnexthop *nh = mnl_attr_get_payload(ways); rc == 0 && RTNH_OK(nh, left);
		left -= NLMSG_ALIGN(nh->rtnh_len), nh = RTNH_NEXT(nh)) {
		r.oif = (unsigned)nh->rtnh_ifindex;
		rc = w->route(&r, w->arg);
	}
	return rc;
}

static int on_link(const struct nlmsghdr *h, struct walk *w)
{
	const struct ifinfomsg *m = mnl_nlmsg_get_payload(h);
	const struct nlattr *name = find_attr(h, sizeof *m, IFLA_IFNAME);
	return name ? w->link((unsigned)m->ifi_index, mnl_attr_get_str(name), w->arg) : 0;
}

static int on_address(const struct nlmsghdr *h, struct walk *w)
{
	const struct ifaddrmsg *m = mnl_nlmsg_get_payload(h);
	struct cidr c = {ntohl(attr_u32(find_attr(h, sizeof *m, IFA_LOCAL))), m->ifa_prefixlen};
	return w->address(m->ifa_index, &c, w->arg);
}

static int on_message(const struct nlmsghdr *h, void *arg)
{
	struct walk *w = arg;
	if (w->rc == 0)
		w->rc = h->nlmsg_type == RTM_NEWROUTE  ? on_route(h, w)
			: h->nlmsg_type == RTM_NEWLINK ? on_link(h, w)
			: h->nlmsg_type == RTM_NEWADDR ? on_address(h, w)
						       : 0;
	return MNL_CB_OK; // to the end in any case: an answer half read would spoil the next
}

static int dump(struct netlink *n, uint16_t type, unsigned char family, struct walk *w,
	const char *what, struct err *e)
{
	char buf[32768];
	struct nlmsghdr *h = mnl_nlmsg_put_header(buf);
	h->nlmsg_type = type;
	h->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	h->nlmsg_seq = n->seq++;
	// rtmsg, ifinfomsg and ifaddrmsg all begin with the family; the longest of them will do.
	struct ifinfomsg *m = mnl_nlmsg_put_extra_header(h, sizeof *m);
	m->ifi_family = family;
	uint32_t seq = h->nlmsg_seq;
	if (mnl_socket_sendto(n->sock, h, h->nlmsg_len) < 0)
		return err_errno(e, errno, "%s", what);
	for (;;) {
		ssize_t len = RETRY_EINTR(mnl_socket_recvfrom(n->sock, buf, sizeof buf));
		if (len < 0)
			return err_errno(e, errno, "%s", what);
		int rc = mnl_cb_run(
			buf, (size_t)len, seq, mnl_socket_get_portid(n->sock), on_message, w);
		// A change during the walk (EINTR): what was seen is good enough, an entry that
		// comes or goes at this very moment could as well have done so just afterwards.
		if (rc < 0 && errno != EINTR)
			return err_errno(e, errno, "%s", what);
		if (rc == MNL_CB_STOP)
			return w->rc;
	}
}

int netlink_each_route(struct netlink *n, netlink_route_fn fn, void *arg, struct err *e)
{
	struct walk w = {.route = fn, .arg = arg};
	return dump(n, RTM_GETROUTE, AF_INET, &w, "list routes", e);
}

int netlink_each_link(struct netlink *n, netlink_link_fn fn, void *arg, struct err *e)
{
	struct walk w = {.link = fn, .arg = arg};
	return dump(n, RTM_GETLINK, AF_UNSPEC, &w, "list links", e);
}

int netlink_each_address(struct netlink *n, netlink_address_fn fn, void *arg, struct err *e)
{
	struct walk w = {.address = fn, .arg = arg};
	return dump(n, RTM_GETADDR, AF_INET, &w, "list addresses", e);
}

int netlink_flush_conntrack(struct err *e)
{
	_cleanup_netlink_ struct netlink *n = NULL;
	int rc = open_bus(NETLINK_NETFILTER, &n, e);
	if (rc < 0)
		return rc;
	struct nlmsghdr *h = begin(n, NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE, 0,
		"flush tracked connections");
	struct nfgenmsg *m = mnl_nlmsg_put_extra_header(h, sizeof *m);
	m->nfgen_family = AF_UNSPEC;
	m->version = NFNETLINK_V0;
	end(n, h);
	return netlink_commit(n, e);
}
