// SPDX-License-Identifier: Apache-2.0
//
// How this works
//
// The bind mount <run>/netns/<index> is the truth of a slot: it is made first and removed last, so
// whatever was being done when a server was killed, maker_sweep finds the slot there. Interfaces of
// the host carry a prefix derived from run_dir and are found by it besides.
//
// A slot is made by two threads' worth of work: inside the new namespace (a thread of its own) all
// that belongs there, then the host's end. The pair of interfaces is made from the outside over a
// socket opened before, as only the host may name its end.
//
// Link-layer addresses are the same in all slots: a guest thawed in another slot knows its gateway
// already. Neighbour entries on both sides are permanent: the first packet does not wait, and a
// thousand slots do not fill the host's neighbour table (gc_thresh3).
#include "net/maker.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/close_range.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include "base/fault.h"
#include "base/file.h"
#include "base/hash.h"
#include "net/netlink.h"
#include "net/netns.h"

// Marks the range's route in "ip route" as ours; free in iproute2's rt_protos.
#define RTPROT_STASIS 83

static const uint8_t host_mac[MAC_SIZE] = {0x06, 0x00, 0xa9, 0xfe, 0x00, 0x01};
static const uint8_t slot_mac[MAC_SIZE] = {0x06, 0x00, 0xa9, 0xfe, 0x00, 0x02};
static const uint8_t gateway_mac[MAC_SIZE] = {0x06, 0x00, 0xa9, 0xfe, 0x00, 0x16};
static const uint8_t guest_mac[MAC_SIZE] = {0x06, 0x00, 0xa9, 0xfe, 0x00, 0x15};

static uint32_t host_address(const struct maker *m, unsigned index)
{
	return m->policy.range.addr + 2 * index;
}

static uint32_t slot_address(const struct maker *m, unsigned index)
{
	return host_address(m, index) + 1;
}

static uint32_t parse_address(const char *text)
{
	return ntohl(inet_addr(text));
}

int maker_init_names(struct maker *m, const char *run_dir, struct err *e)
{
	char path[PATH_MAX], hex[SHA256_HEX_SIZE];
	*m = (struct maker){0};
	// One directory is one pool by whatever path it is called.
	if (!realpath(run_dir, path))
		return err_errno(e, errno, "run directory %s", run_dir);
	if (str_format(m->run_dir, sizeof m->run_dir, "%s", path) < 0)
		return err_set(e, ERR_INVALID, "run directory %s: path too long (%zu at most)",
			path, sizeof m->run_dir - 1);
	hash_sha256_hex(path, strlen(path), hex);
	hex[6] = '\0';
	m->hash = (uint32_t)strtoul(hex, NULL, 16);
	snprintf(m->netns_dir, sizeof m->netns_dir, "%s/netns", m->run_dir);
	snprintf(m->prefix, sizeof m->prefix, "st%s-", hex);
	snprintf(m->table, sizeof m->table, "stasis_%s", hex);
	return 0;
}

int maker_init(struct maker *m, const struct slot_pool_config *cfg, struct err *e)
{
	struct cidr range, guest = {.prefix = SLOT_GUEST_PREFIX};
	guest.addr = parse_address(SLOT_GUEST_IP) & ~3u;
	int rc = cidr_parse(cfg->range, &range, e);
	if (rc < 0)
		return err_prefix(e, rc, "--slot-range");
	if (range.prefix < 8 || range.prefix > 31 || cidr_overlaps(&range, &guest))
		return err_set(e, ERR_INVALID,
			"--slot-range %s: a network of /8 to /31 outside 169.254.0.20/30 is needed",
			cfg->range);
	*m = (struct maker){.policy.range = range};
	unsigned room = maker_room(m);
	if (cfg->max < 1 || cfg->max > room || cfg->warm > cfg->max)
		return err_set(e, ERR_INVALID,
			"%u slots, %u of them ready: --slot-range %s has room for %u (two "
			"addresses each)",
			cfg->max, cfg->warm, cfg->range, room);
	rc = file_private_dir(AT_FDCWD, cfg->run_dir, 0700);
	if (rc < 0)
		return err_errno(e, rc, "make %s", cfg->run_dir);
	rc = maker_init_names(m, cfg->run_dir, e);
	if (rc < 0)
		return rc;
	m->uid_base = cfg->uid_base;
	m->policy.range = range;
	size_t n = 0;
	while (cfg->allow && cfg->allow[n])
		n++;
	struct cidr *allow = calloc(n + 1, sizeof *allow);
	if (!allow)
		return err_errno(e, ENOMEM, "allowed networks");
	m->policy.allow = allow;
	for (size_t i = 0; i < n; i++) {
		rc = cidr_parse(cfg->allow[i], &allow[i], e);
		if (rc < 0) {
			maker_done(m);
			return err_prefix(e, rc, "allowed networks");
		}
	}
	m->policy.n_allow = n;
	m->policy.n_users = MIN(cfg->n_users, (size_t)POLICY_USERS_MAX);
	for (size_t i = 0; i < m->policy.n_users; i++)
		m->policy.users[i] = cfg->users[i];
	return 0;
}

void maker_done(struct maker *m)
{
	free((void *)m->policy.allow);
	*m = (struct maker){0};
}

unsigned maker_room(const struct maker *m)
{
	return MIN(1u << (31 - m->policy.range.prefix), SLOT_INDEX_MAX + 1u);
}

void maker_describe(const struct maker *m, unsigned index, struct slot *ret)
{
	*ret = (struct slot){.index = index};
	snprintf(ret->netns, sizeof ret->netns, "%s/%u", m->netns_dir, index);
	snprintf(ret->host_if, sizeof ret->host_if, "%s%u", m->prefix, index);
	cidr_format_address(slot_address(m, index), ret->address);
}

// The host: range, route, table, forwarding.

// "st" and six digits of a hash and "-": an interface of this pool, or of any.
static bool is_slot_if(const struct maker *m, const char *name, bool any_pool)
{
	if (!any_pool)
		return str_starts(name, m->prefix);
	return str_starts(name, "st") && strspn(name + 2, "0123456789abcdef") == 6 &&
	       name[8] == '-';
}

struct range_check {
	const struct maker *m;
	bool any_pool;
	struct err *e;
};

static int check_route(const struct netlink_route *r, void *arg)
{
	struct range_check *c = arg;
	char oif[IF_NAMESIZE] = "", dst[CIDR_TEXT_SIZE], range[CIDR_TEXT_SIZE];
	if (r->dst.prefix == 0 || !cidr_overlaps(&r->dst, &c->m->policy.range))
		return 0;
	if (r->protocol == RTPROT_STASIS && (c->any_pool || r->metric == c->m->hash))
		return 0;
	if (r->oif && if_indextoname(r->oif, oif) && is_slot_if(c->m, oif, c->any_pool))
		return 0;
	cidr_format(&r->dst, dst);
	cidr_format(&c->m->policy.range, range);
	return err_set(c->e, ERR_CONFLICT,
		"slot range %s overlaps this host's route %s%s%s%s: choose a free private range, "
		"for example --slot-range 172.30.0.0/16",
		range, dst, *oif ? " dev " : "", oif,
		r->protocol == RTPROT_STASIS || is_slot_if(c->m, oif, true)
			? " (another server's slots)"
			: "");
}

int maker_check_range(const struct maker *m, bool any_pool, struct err *e)
{
	_cleanup_netlink_ struct netlink *n = NULL;
	struct range_check c = {m, any_pool, e};
	int rc = netlink_open(&n, e);
	return rc < 0 ? rc : netlink_each_route(n, check_route, &c, e);
}

// value: of net/<family>/conf/<name>/<key>.
static int conf(
	const char *family, const char *name, const char *key, const char *value, struct err *e)
{
	char path[160];
	int rc = str_format(path, sizeof path, "/proc/sys/net/%s/conf/%s/%s", family, name, key);
	if (rc == 0)
		rc = file_write_existing(AT_FDCWD, path, value);
	if (rc == -ENOENT && str_eq(family, "ipv6"))
		return 0; // a kernel without IPv6 has nothing to be switched off
	return rc < 0 ? err_errno(e, rc, "write %s", path) : 0;
}

// Answers for a guest's connection come in here.
static int forward_uplink(const struct netlink_route *r, void *arg)
{
	char name[IF_NAMESIZE];
	if (r->type != RTN_UNICAST || (r->dst.prefix != 0 && !r->gateway) || !r->oif ||
		!if_indextoname(r->oif, name))
		return 0;
	return conf("ipv4", name, "forwarding", "1", arg);
}

// Only slots and the interfaces that lead to other networks forward; the switch for all
// (ip_forward) stays as it is. What was switched on stays on, as others may rely on it by then.
static int enable_forwarding(struct netlink *n, struct err *e)
{
	_cleanup_free_ char *all = NULL;
	int rc = file_read_line(AT_FDCWD, "/proc/sys/net/ipv4/ip_forward", &all);
	if (rc < 0)
		return err_errno(e, rc, "read net.ipv4.ip_forward");
	return str_eq(all, "1") ? 0 : netlink_each_route(n, forward_uplink, e, e);
}

int maker_host_make(const struct maker *m, struct err *e)
{
	_cleanup_netlink_ struct netlink *n = NULL;
	_cleanup_strbuf_ struct strbuf text = {0};
	int rc = netlink_open(&n, e);
	if (rc == 0)
		rc = netns_dir_make(m->netns_dir, e);
	// The wall stands before anything can be forwarded.
	if (rc == 0) {
		policy_host_text(&text, &m->policy, m->table, m->prefix);
		rc = policy_apply(&text, e);
	}
	if (rc == 0) {
		netlink_add_unreachable(n, &m->policy.range, RTPROT_STASIS, m->hash);
		rc = netlink_commit(n, e);
	}
	return rc < 0 ? rc : enable_forwarding(n, e);
}

struct del_routes {
	const struct maker *m;
	struct netlink *n;
	struct err *e;
};

static int del_route(const struct netlink_route *r, void *arg)
{
	struct del_routes *d = arg;
	if (r->protocol != RTPROT_STASIS || r->metric != d->m->hash)
		return 0;
	netlink_del_unreachable(d->n, &r->dst, RTPROT_STASIS, r->metric);
	int rc = netlink_commit(d->n, d->e);
	return rc == -ESRCH ? 0 : rc;
}

// Also the routes of ranges that this pool had before.
static int remove_routes(const struct maker *m, struct err *e)
{
	_cleanup_netlink_ struct netlink *list = NULL, *del = NULL;
	int rc = netlink_open(&list, e);
	if (rc == 0)
		rc = netlink_open(&del, e);
	struct del_routes d = {m, del, e};
	return rc < 0 ? rc : netlink_each_route(list, del_route, &d, e);
}

int maker_host_remove(const struct maker *m, struct err *e)
{
	int rc = remove_routes(m, e);
	int r = policy_remove(m->table, rc < 0 ? NULL : e);
	if (rc == 0)
		rc = r;
	r = netns_dir_remove(m->netns_dir, rc < 0 ? NULL : e);
	return rc < 0 ? rc : r;
}

// One slot.

struct make {
	const struct maker *m;
	struct slot slot;
	struct netlink *host; // of the host's namespace
};

static int tun_error(int err, struct err *e)
{
	if (err == ENOENT || err == ENODEV || err == ENXIO)
		return err_set(e, ERR_UNAVAILABLE,
			"/dev/net/tun is missing: modprobe tun (in a container: pass the device)");
	return err_errno(e, err, "/dev/net/tun");
}

// In the slot's namespace, last: the thread loses all other descriptors. A new tap for each guest:
// one that was opened carries settings of its former VMM (offloads, header size, link address, even
// its owner).
static int make_tap(const struct maker *m, unsigned index, struct err *e)
{
	struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
	snprintf(ifr.ifr_name, sizeof ifr.ifr_name, SLOT_TAP_NAME);
	// A tap is attached, and refuses the VMM, as long as anybody has its descriptor. A program
	// that another thread starts has a copy of each from its fork to its exec; so this one is
	// opened in a table that only this thread has.
	if (syscall(SYS_close_range, 3, ~0u, CLOSE_RANGE_UNSHARE) < 0)
		return err_errno(e, errno, "a table of descriptors");
	_cleanup_close_ int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return tun_error(errno, e);
	if (ioctl(fd, TUNSETIFF, &ifr) < 0 ||
		ioctl(fd, TUNSETOWNER, (unsigned long)m->uid_base + index) < 0 ||
		ioctl(fd, TUNSETPERSIST, 1) < 0)
		return err_errno(e, errno, "make " SLOT_TAP_NAME);
	_cleanup_netlink_ struct netlink *n = NULL;
	int rc = netlink_open(&n, e);
	if (rc < 0)
		return rc;
	unsigned tap = if_nametoindex(SLOT_TAP_NAME);
	struct cidr gateway = {parse_address(SLOT_GATEWAY_IP), SLOT_GUEST_PREFIX};
	netlink_set_up(n, tap, gateway_mac);
	netlink_add_address(n, tap, &gateway);
	netlink_add_neighbour(n, tap, parse_address(SLOT_GUEST_IP), guest_mac);
	rc = netlink_commit(n, e);
	return rc < 0 ? err_prefix(e, rc, SLOT_TAP_NAME) : 0;
}

static int set_up_veth(const struct maker *m, unsigned index, struct err *e)
{
	_cleanup_netlink_ struct netlink *n = NULL;
	int rc = netlink_open(&n, e);
	if (rc < 0)
		return rc;
	unsigned veth = if_nametoindex(SLOT_VETH_NAME);
	struct cidr address = {slot_address(m, index), 31};
	netlink_set_up(n, veth, NULL);
	netlink_add_address(n, veth, &address);
	netlink_add_neighbour(n, veth, host_address(m, index), host_mac);
	netlink_add_default_route(n, veth, host_address(m, index));
	return netlink_commit(n, e);
}

struct setting {
	const char *path, *value;
};

static int write_settings(const struct setting *s, size_t n, struct err *e)
{
	for (size_t i = 0; i < n; i++) {
		int rc = file_write_existing(AT_FDCWD, s[i].path, s[i].value);
		if (rc < 0)
			return err_errno(e, rc, "write %s", s[i].path);
	}
	return 0;
}

// "default" is what interfaces made later begin with; a namespace begins with the host's values.
static int harden_namespace(struct err *e)
{
	static const char *const both[] = {"all", "default"};
	static const struct {
		const char *family, *key, *value;
	} conf_settings[] = {
		{"ipv6", "disable_ipv6", "1"},
		{"ipv4", "rp_filter", "1"},
		{"ipv4", "route_localnet", "0"},
		{"ipv4", "accept_local", "0"},
		{"ipv4", "accept_source_route", "0"},
		{"ipv4", "accept_redirects", "0"},
		{"ipv4", "send_redirects", "0"},
		{"ipv4", "proxy_arp", "0"},
	};
	static const struct setting settings[] = {{"/proc/sys/net/ipv4/ip_forward", "1"}};
	// First: writing it sets accept_redirects too.
	int rc = write_settings(settings, ARRAY_SIZE(settings), e);
	for (size_t i = 0; rc == 0 && i < ARRAY_SIZE(conf_settings); i++)
		for (size_t k = 0; rc == 0 && k < ARRAY_SIZE(both); k++)
			rc = conf(conf_settings[i].family, both[k], conf_settings[i].key,
				conf_settings[i].value, e);
	return rc;
}

// In the new namespace, but over the host's socket.
static int make_veth(const struct make *k, struct err *e)
{
	_cleanup_close_ int self = netns_open(k->slot.netns);
	if (self < 0)
		return err_errno(e, self, "open %s", k->slot.netns);
	netlink_add_veth(k->host, k->slot.host_if, host_mac, SLOT_VETH_NAME, slot_mac, self);
	int rc = netlink_commit(k->host, e);
	return rc == -EOPNOTSUPP ? err_set(e, ERR_UNAVAILABLE,
					   "this kernel has no veth interfaces: modprobe veth")
				 : rc;
}

// On a thread in the new namespace.
static int make_inside(void *arg, struct err *e)
{
	// Present once the nft text made the namespace track connections.
	static const struct setting tracking[] = {
		// A connection that did not begin here is dead, see policy.c. Segments out of
		// the window are left to their receiver, so that "invalid" means just that.
		{"/proc/sys/net/netfilter/nf_conntrack_tcp_loose", "0"},
		{"/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal", "1"},
	};
	struct make *k = arg;
	const struct maker *m = k->m;
	unsigned index = k->slot.index;
	_cleanup_strbuf_ struct strbuf text = {0};
	int rc = netns_bind(k->slot.netns, e);
	if (rc == 0)
		rc = fault_hit("slot.after_netns", e);
	if (rc == 0)
		rc = harden_namespace(e);
	// The wall before the wires.
	policy_slot_text(&text, &m->policy, host_address(m, index), slot_address(m, index));
	if (rc == 0)
		rc = policy_apply(&text, e);
	if (rc == 0)
		rc = fault_hit("slot.after_policy", e);
	if (rc == 0)
		rc = write_settings(tracking, ARRAY_SIZE(tracking), e);
	if (rc < 0)
		return rc;
	if ((rc = make_veth(k, e)) == 0)
		rc = fault_hit("slot.after_veth", e);
	if (rc == 0)
		rc = set_up_veth(m, index, e);
	return rc < 0 ? rc : make_tap(m, index, e);
}

static int make_outside(struct make *k, struct err *e)
{
	static const struct {
		const char *family, *key, *value;
	} settings[] = {
		{"ipv6", "disable_ipv6", "1"},
		{"ipv4", "forwarding", "1"},
		{"ipv4", "rp_filter", "1"},
		{"ipv4", "accept_local", "0"},
		{"ipv4", "proxy_arp", "0"},
		{"ipv4", "route_localnet", "0"},
		{"ipv4", "accept_redirects", "0"},
		{"ipv4", "send_redirects", "0"},
	};
	int rc = 0;
	for (size_t i = 0; rc == 0 && i < ARRAY_SIZE(settings); i++)
		rc = conf(
			settings[i].family, k->slot.host_if, settings[i].key, settings[i].value, e);
	if (rc < 0)
		return rc;
	unsigned index = k->slot.index, veth = if_nametoindex(k->slot.host_if);
	struct cidr address = {host_address(k->m, index), 31};
	netlink_set_up(k->host, veth, NULL);
	netlink_add_address(k->host, veth, &address);
	netlink_add_neighbour(k->host, veth, slot_address(k->m, index), slot_mac);
	return netlink_commit(k->host, e);
}

int maker_make(const struct maker *m, unsigned index, struct err *e)
{
	_cleanup_netlink_ struct netlink *host = NULL;
	struct make k = {.m = m};
	maker_describe(m, index, &k.slot);
	int rc = netlink_open(&host, e);
	if (rc < 0)
		return rc;
	k.host = host;
	rc = netns_run(-1, make_inside, &k, e);
	if (rc == 0)
		rc = make_outside(&k, e);
	if (rc == 0)
		rc = fault_hit("slot.after_make", e);
	if (rc < 0) {
		maker_remove(m, index, NULL);
		return err_prefix(e, rc, "network slot %u", index);
	}
	return 0;
}

static int park_inside(void *arg, struct err *e)
{
	_cleanup_netlink_ struct netlink *n = NULL;
	int rc = netlink_open(&n, e);
	if (rc < 0)
		return rc;
	netlink_del_link(n, SLOT_TAP_NAME);
	rc = netlink_commit(n, e);
	return rc < 0 ? rc : netlink_flush_conntrack(e);
}

static int unpark_inside(void *arg, struct err *e)
{
	struct make *k = arg;
	return make_tap(k->m, k->slot.index, e);
}

static int run_inside(const struct maker *m, unsigned index, netns_fn fn, struct err *e)
{
	struct make k = {.m = m};
	maker_describe(m, index, &k.slot);
	_cleanup_close_ int ns = netns_open(k.slot.netns);
	int rc = ns < 0 ? err_errno(e, ns, "open %s", k.slot.netns) : netns_run(ns, fn, &k, e);
	return rc < 0 ? err_prefix(e, rc, "network slot %u", index) : 0;
}

int maker_park(const struct maker *m, unsigned index, struct err *e)
{
	return run_inside(m, index, park_inside, e);
}

int maker_unpark(const struct maker *m, unsigned index, struct err *e)
{
	return run_inside(m, index, unpark_inside, e);
}

static int apply_text(void *arg, struct err *e)
{
	return policy_apply(arg, e);
}

int maker_set_resolvers(const struct maker *m, unsigned index, const struct resolvers *old,
	const struct resolvers *now, struct err *e)
{
	_cleanup_strbuf_ struct strbuf inside = {0}, outside = {0};
	struct slot s;
	maker_describe(m, index, &s);
	_cleanup_close_ int ns = netns_open(s.netns);
	if (ns < 0)
		return err_errno(e, ns, "open %s", s.netns);
	policy_slot_resolvers_text(&inside, now);
	policy_host_resolvers_text(&outside, m->table, s.host_if, old, now);
	int rc = netns_run(ns, apply_text, &inside, e);
	if (rc == 0)
		rc = policy_apply(&outside, e);
	return rc < 0 ? err_prefix(e, rc, "rules for resolvers") : 0;
}

int maker_remove(const struct maker *m, unsigned index, struct err *e)
{
	_cleanup_netlink_ struct netlink *n = NULL;
	struct slot s;
	maker_describe(m, index, &s);
	int rc = netlink_open(&n, e);
	if (rc < 0)
		return rc;
	// By hand: the namespace may live on in another process, and ends later in any case.
	netlink_del_link(n, s.host_if);
	rc = netlink_commit(n, e);
	if (rc < 0 && rc != -ENODEV)
		return rc;
	return netns_unbind(s.netns, e);
}

struct find_address {
	unsigned ifindex;
	uint32_t addr;
};

static int match_address(unsigned ifindex, const struct cidr *address, void *arg)
{
	struct find_address *f = arg;
	return f->ifindex == ifindex && f->addr == address->addr ? -EEXIST : 0;
}

bool maker_is_whole(const struct maker *m, unsigned index)
{
	_cleanup_netlink_ struct netlink *n = NULL;
	struct slot s;
	maker_describe(m, index, &s);
	_cleanup_close_ int ns = netns_open(s.netns);
	struct find_address f = {if_nametoindex(s.host_if), host_address(m, index)};
	return ns >= 0 && f.ifindex && netlink_open(&n, NULL) == 0 &&
	       netlink_each_address(n, match_address, &f, NULL) == -EEXIST;
}

struct sweep {
	const struct maker *m;
	const unsigned *keep;
	size_t n_keep;
	struct err *e;
};

// Removes the slot whose number is in text, unless it is kept or text is no number.
static int sweep_one(struct sweep *s, const char *text)
{
	uint64_t index;
	if (str_to_u64(text, SLOT_INDEX_MAX, &index) < 0)
		return 0;
	for (size_t i = 0; i < s->n_keep; i++)
		if (s->keep[i] == index)
			return 0;
	return maker_remove(s->m, (unsigned)index, s->e);
}

static int sweep_link(unsigned ifindex, const char *name, void *arg)
{
	struct sweep *s = arg;
	size_t len = strlen(s->m->prefix);
	return strncmp(name, s->m->prefix, len) == 0 ? sweep_one(s, name + len) : 0;
}

int maker_sweep(const struct maker *m, const unsigned *keep, size_t n_keep, struct err *e)
{
	struct sweep s = {m, keep, n_keep, e};
	_cleanup_netlink_ struct netlink *n = NULL;
	_cleanup_closedir_ DIR *d = opendir(m->netns_dir);
	if (!d && errno != ENOENT)
		return err_errno(e, errno, "open %s", m->netns_dir);
	for (struct dirent *de; d && (de = readdir(d));) {
		int rc = sweep_one(&s, de->d_name);
		if (rc < 0)
			return rc;
	}
	int rc = netlink_open(&n, e);
	return rc < 0 ? rc : netlink_each_link(n, sweep_link, &s, e);
}
