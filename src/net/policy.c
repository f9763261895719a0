// SPDX-License-Identifier: Apache-2.0
//
// How this works
//
// A packet of the guest passes two walls that know nothing of each other: the table in the slot's
// namespace, and the table of the host, which distrusts everything that comes out of a slot's
// interface. The first refuses (the guest's program gets an error at once), the second drops.
//
// Into the guest leads one way only: from the host's end of the veth pair to the slot's address.
// Packets from elsewhere are never sent on to the guest, so that late answers to the slot's former
// guest do not reach the next one. The guest sees its gateway as their source.
//
// A resolver in a network that is denied, or on the host itself, is open to the one guest that has
// it: as that address, port 53. The set of the slot's table has the slot's own, that of the host's
// pairs of interface and address.
//
// nf_conntrack_tcp_loose is off in the namespace (maker.c): a connection that this namespace has
// not seen begin (the guest was thawed here, or the entries were flushed) is invalid, and the guest
// gets a reset instead of silence.
#include "net/policy.h"
#include <string.h>
#include <sys/socket.h>
#include "base/proc.h"
#include "net/slot.h"

// IANA's special-purpose registry without the documentation networks, which lead nowhere.
const char *const policy_denied[] = {"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8",
	"169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15",
	"224.0.0.0/4", "240.0.0.0/4", NULL};

// Flows that one guest may have open to the outside: the host tracks each too, and its table
// (nf_conntrack_max, 65,536 and more) is for all slots.
#define FLOWS_MAX 2048

#define TO_PORT_53 "meta l4proto { tcp, udp } th dport 53"

static void add_sets(struct strbuf *out, const struct policy *p)
{
	strbuf_adds(out, "\tset denied {\n\t\ttype ipv4_addr; flags interval; auto-merge\n"
			 "\t\telements = { ");
	for (size_t i = 0; policy_denied[i]; i++)
		strbuf_addf(out, "%s%s", i ? ", " : "", policy_denied[i]);
	strbuf_adds(out, " }\n\t}\n\tset allowed {\n"
			 "\t\ttype ipv4_addr; flags interval; auto-merge\n");
	for (size_t i = 0; i < p->n_allow; i++) {
		char c[CIDR_TEXT_SIZE];
		cidr_format(&p->allow[i], c);
		strbuf_addf(out, "%s%s", i ? ", " : "\t\telements = { ", c);
	}
	strbuf_adds(out, p->n_allow ? " }\n\t}\n" : "\t}\n");
}

void policy_slot_text(struct strbuf *out, const struct policy *p, uint32_t host, uint32_t slot)
{
	char range[CIDR_TEXT_SIZE], h[INET_ADDRSTRLEN], s[INET_ADDRSTRLEN];
	cidr_format(&p->range, range);
	cidr_format_address(host, h);
	cidr_format_address(slot, s);
	strbuf_adds(out, "table inet stasis {\n");
	add_sets(out, p);
	strbuf_adds(out, "\tset resolvers {\n\t\ttype ipv4_addr;\n\t}\n");
	strbuf_addf(out,
		"	chain spoofed {\n"
		"		type filter hook prerouting priority raw; policy accept;\n"
		"		meta nfproto != ipv4 drop\n"
		"		iifname \"" SLOT_TAP_NAME "\" ip saddr != " SLOT_GUEST_IP " drop\n"
		"	}\n"
		"	chain to_guest {\n"
		"		type nat hook prerouting priority dstnat; policy accept;\n"
		"		iifname \"" SLOT_VETH_NAME "\" ip saddr %s ip daddr %s"
		" dnat ip to " SLOT_GUEST_IP "\n"
		"	}\n"
		"	chain from_guest {\n"
		"		type nat hook postrouting priority srcnat; policy accept;\n"
		"		oifname \"" SLOT_VETH_NAME "\" ip saddr " SLOT_GUEST_IP
		" snat ip to %s\n"
		"		oifname \"" SLOT_TAP_NAME "\" snat ip to " SLOT_GATEWAY_IP "\n"
		"	}\n"
		"	chain refused {\n"
		"		reject with icmp admin-prohibited\n"
		"	}\n"
		"	chain forward {\n"
		"		type filter hook forward priority filter; policy drop;\n"
		"		ct state established,related accept\n"
		"		iifname \"" SLOT_VETH_NAME "\" oifname \"" SLOT_TAP_NAME
		"\" ct status dnat accept\n"
		// A resting slot has no tap: callers learn at once that the guest is gone.
		"		iifname \"" SLOT_VETH_NAME "\" ct status dnat"
		" reject with icmp host-unreachable\n"
		"		iifname \"" SLOT_TAP_NAME "\" oifname \"" SLOT_VETH_NAME
		"\" jump outgoing\n"
		"	}\n"
		"	chain outgoing {\n"
		"		ct state invalid meta l4proto tcp reject with tcp reset\n"
		"		ct state invalid drop\n"
		"		ip daddr %s goto refused\n"
		"		ip daddr @resolvers " TO_PORT_53 " goto counted\n"
		"		ip daddr @denied ip daddr != @allowed goto refused\n"
		"		goto counted\n"
		"	}\n"
		"	chain counted {\n"
		"		ct count over %d goto refused\n"
		"		accept\n"
		"	}\n"
		"	chain to_gateway {\n"
		"		type filter hook input priority filter; policy drop;\n"
		"		iifname \"" SLOT_TAP_NAME
		"\" meta l4proto tcp reject with tcp reset\n"
		"	}\n"
		// Nothing runs here but the VMM: should the guest break out into it, the
		// namespace has no way out for its sockets. Resets and errors are the kernel's.
		"	chain from_vmm {\n"
		"		type filter hook output priority filter; policy drop;\n"
		"		icmp type { destination-unreachable, time-exceeded } accept\n"
		"		oifname \"" SLOT_TAP_NAME "\" tcp flags & rst == rst accept\n"
		"	}\n"
		"}\n",
		h, s, s, range, FLOWS_MAX);
}

void policy_host_text(
	struct strbuf *out, const struct policy *p, const char *table, const char *prefix)
{
	strbuf_addf(
		out, "table inet %s\ndelete table inet %s\ntable inet %s {\n", table, table, table);
	add_sets(out, p);
	strbuf_adds(out, "\tset resolvers {\n\t\ttype ifname . ipv4_addr;\n\t}\n");
	// The agent and the ports of a guest take whoever comes this way for the host: other users
	// of this machine go through the edge, which knows ids and tokens.
	strbuf_addf(out,
		"	chain to_guests {\n"
		"		type filter hook output priority filter; policy accept;\n"
		// A resolver of this machine, whoever it runs as.
		"		ct direction reply accept\n"
		"		oifname \"%s*\" meta skuid != { 0",
		prefix);
	for (size_t i = 0; i < p->n_users; i++)
		strbuf_addf(out, ", %u", p->users[i]);
	strbuf_adds(out, " } reject with icmpx admin-prohibited\n\t}\n");
	strbuf_addf(out,
		"	chain spoofed {\n"
		"		type filter hook prerouting priority raw; policy accept;\n"
		"		iifname != \"%s*\" accept\n"
		"		meta nfproto != ipv4 drop\n"
		// Each slot has one address, and the route to it is the one way it may come from.
		"		fib saddr . iif oif missing drop\n"
		"	}\n"
		"	chain to_host {\n"
		"		type filter hook input priority filter; policy accept;\n"
		"		iifname . ip daddr @resolvers " TO_PORT_53 " accept\n"
		"		iifname \"%s*\" ct state != { established, related } drop\n"
		"	}\n"
		"	chain forward {\n"
		"		type filter hook forward priority filter; policy accept;\n"
		"		ct state established,related accept\n"
		"		oifname \"%s*\" drop\n"
		"		iifname \"%s*\" jump outgoing\n"
		"	}\n"
		"	chain outgoing {\n"
		"		iifname . ip daddr @resolvers " TO_PORT_53 " goto sent\n"
		"		ip daddr @denied ip daddr != @allowed drop\n"
		"		goto sent\n"
		"	}\n"
		"	chain sent {\n"
		// The way out may be narrower than the guest's link, and not every network lets
		// the errors through that would tell it.
		"		tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu\n"
		"	}\n"
		"	chain masquerade_slots {\n"
		"		type nat hook postrouting priority srcnat; policy accept;\n"
		"		iifname \"%s*\" masquerade\n"
		"	}\n"
		"}\n",
		prefix, prefix, prefix, prefix, prefix);
}

static bool is_own(uint32_t addr)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(addr)};
	_cleanup_close_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	return fd >= 0 && bind(fd, (struct sockaddr *)&a, sizeof a) == 0;
}

static bool is_denied(uint32_t addr)
{
	const struct cidr one = {addr, 32};
	struct cidr c;
	for (size_t i = 0; policy_denied[i]; i++)
		if (cidr_parse(policy_denied[i], &c, NULL) == 0 && cidr_overlaps(&c, &one))
			return true;
	return false;
}

void policy_behind_wall(const struct resolvers *r, struct resolvers *ret)
{
	struct resolvers found = {0};
	for (size_t i = 0; i < r->n; i++)
		if (is_denied(r->addr[i]) || is_own(r->addr[i]))
			found.addr[found.n++] = r->addr[i];
	*ret = found;
}

// "delete element" or "add element" of the set with those addresses, iface before each if not NULL.
static void change_set(struct strbuf *out, const char *verb, const char *table, const char *iface,
	const struct resolvers *r)
{
	for (size_t i = 0; i < r->n; i++) {
		char address[INET_ADDRSTRLEN];
		cidr_format_address(r->addr[i], address);
		strbuf_addf(out, "%s element inet %s resolvers { %s%s%s%s }\n", verb, table,
			iface ? "\"" : "", iface ? iface : "", iface ? "\" . " : "", address);
	}
}

void policy_slot_resolvers_text(struct strbuf *out, const struct resolvers *r)
{
	strbuf_adds(out, "flush set inet stasis resolvers\n");
	change_set(out, "add", "stasis", NULL, r);
}

void policy_host_resolvers_text(struct strbuf *out, const char *table, const char *iface,
	const struct resolvers *old, const struct resolvers *now)
{
	// Added first: what is not there can be deleted then.
	change_set(out, "add", table, iface, old);
	change_set(out, "delete", table, iface, old);
	change_set(out, "add", table, iface, now);
}

int policy_apply(const struct strbuf *text, struct err *e)
{
	static const char *const nft[] = {"nft", "-f", "-", NULL};
	int rc = strbuf_check(text);
	if (rc < 0)
		return err_errno(e, rc, "nft text");
	rc = proc_run(nft, text->data, text->len, 30000, NULL, e);
	if (rc == -ENOENT)
		return err_set(
			e, ERR_UNAVAILABLE, "the program nft is missing: apt-get install nftables");
	return rc;
}

int policy_remove(const char *table, struct err *e)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	// Declared first, so that deleting works when it is not there ("destroy" is newer).
	strbuf_addf(&b, "table inet %s\ndelete table inet %s\n", table, table);
	return policy_apply(&b, e);
}
