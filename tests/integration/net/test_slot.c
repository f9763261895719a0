// SPDX-License-Identifier: Apache-2.0
// Slots with real namespaces, interfaces and firewall, without a VMM. See world.h.
//
//	test-slot [filter]		the tests whose names match
//	test-slot --pool DIR TAKE	(by the tests) a pool that is to be killed: takes a slot if
//					TAKE is 1, says "ready" and waits
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <cmocka.h>
#include "base/clock.h"
#include "base/fault.h"
#include "base/file.h"
#include "base/proc.h"
#include "net/netns.h"
#include "world.h"

#define RANGE "10.213.0.0/24"
#define UID 230000
#define ANSWER_MS 5000
#define SILENCE_MS 300 // how long "no answer" is waited for

static struct slot_pool_config config(const char *run_dir)
{
	return (struct slot_pool_config){
		.run_dir = run_dir, .range = RANGE, .warm = 0, .max = 4, .uid_base = UID};
}

static struct slot_pool *new_pool(const struct slot_pool_config *cfg)
{
	struct slot_pool *p = NULL;
	struct err e = {0};
	int rc = slot_pool_new(cfg, NULL, 0, &p, &e);
	if (rc < 0)
		fail_msg("pool: %s", err_text(&e, rc));
	return p;
}

static struct slot take(struct slot_pool *p)
{
	struct slot s;
	struct err e = {0};
	int rc = slot_pool_take(p, &s, &e);
	if (rc < 0)
		fail_msg("take: %s", err_text(&e, rc));
	return s;
}

// Waits until so many are ready.
static void wait_ready(struct slot_pool *p, unsigned want)
{
	unsigned ready, taken;
	uint64_t end = clock_monotonic_ns() + 20 * NSEC_PER_SEC;
	do {
		slot_pool_stats(p, &ready, &taken);
		assert_true(clock_monotonic_ns() < end);
		clock_sleep_ns(NSEC_PER_MSEC); // the pool tells nobody
	} while (ready < want);
}

// A pool, a slot and a guest in it.
struct fixture {
	struct world w;
	char run_dir[80];
	struct slot_pool_config cfg;
	struct slot_pool *p;
	struct slot slot;
	struct guest guest;
	char *before;
};

static void setup(struct fixture *f)
{
	*f = (struct fixture){0};
	world_make(&f->w);
	f->before = world_inventory(&f->w);
	snprintf(f->run_dir, sizeof f->run_dir, "%s/run", f->w.dir);
	f->cfg = config(f->run_dir);
	guest_make(&f->guest);
}

static void start(struct fixture *f)
{
	f->p = new_pool(&f->cfg);
	f->slot = take(f->p);
	guest_attach(&f->guest, &f->slot, UID + f->slot.index);
}

static void teardown(struct fixture *f)
{
	struct err e = {0};
	guest_remove(&f->guest);
	slot_pool_free(f->p);
	assert_int_equal(slot_cleanup_all(f->run_dir, &e), 0);
	rmdir(f->run_dir);
	_cleanup_free_ char *after = world_inventory(&f->w);
	assert_string_equal(f->before, after);
	free(f->before);
	world_remove(&f->w);
}

// Connects, and says over the connection that it works both ways.
static void expect_open(int from, const char *ip, unsigned port, int listener, const char *peer)
{
	_cleanup_close_ int c = world_connect(from, ip, port, ANSWER_MS);
	if (c < 0)
		fail_msg("%s:%u: %s", ip, port, strerror(-c));
	struct sockaddr_in a;
	socklen_t len = sizeof a;
	char name[INET_ADDRSTRLEN], buf[5] = "";
	_cleanup_close_ int s = accept4(listener, (struct sockaddr *)&a, &len, SOCK_CLOEXEC);
	assert_true(s >= 0);
	inet_ntop(AF_INET, &a.sin_addr, name, sizeof name);
	assert_string_equal(name, peer);
	assert_int_equal(write(c, "ping", 4), 4);
	assert_int_equal(file_read_full(s, buf, 4), 4);
	assert_string_equal(buf, "ping");
	assert_int_equal(write(s, "pong", 4), 4);
	assert_int_equal(file_read_full(c, buf, 4), 4);
	assert_string_equal(buf, "pong");
}

static void expect_error(int from, const char *ip, int want)
{
	int c = world_connect(from, ip, WORLD_PORT, want == ETIMEDOUT ? SILENCE_MS : ANSWER_MS);
	if (c != -want)
		fail_msg("%s: %s instead of %s", ip, c < 0 ? strerror(-c) : "connected",
			strerror(want));
}

static void host_reaches_guest_and_guest_reaches_public(void **state)
{
	struct fixture f;
	setup(&f);
	start(&f);
	expect_open(f.w.host, f.slot.address, WORLD_PORT, f.guest.listener, SLOT_GATEWAY_IP);
	expect_open(f.guest.ns, WORLD_PUBLIC, WORLD_PORT, f.w.outside_listener, WORLD_HOST);
	expect_open(f.guest.ns, "8.8.8.8", WORLD_PORT, f.w.outside_listener, WORLD_HOST);

	_cleanup_close_ int dns = world_udp(f.w.outside, "8.8.8.8", 53);
	_cleanup_close_ int resolver = world_udp(f.guest.ns, "0.0.0.0", 0);
	struct sockaddr_in from;
	char name[INET_ADDRSTRLEN];
	world_send(resolver, "8.8.8.8", 53, "query");
	world_expect(dns, "query", &from);
	inet_ntop(AF_INET, &from.sin_addr, name, sizeof name);
	assert_string_equal(name, WORLD_HOST);
	world_send(dns, name, ntohs(from.sin_port), "answer");
	world_expect(resolver, "answer", NULL);
	teardown(&f);
}

static void guest_is_denied_what_is_not_public(void **state)
{
	static const char *const denied[] = {"10.99.0.1", "172.16.9.9", "192.168.77.1",
		"100.64.0.1", "169.254.169.254", "198.18.0.1"};
	struct fixture f;
	setup(&f);
	start(&f);
	for (size_t i = 0; i < ARRAY_SIZE(denied); i++) {
		expect_open(f.w.host, denied[i], WORLD_PORT, f.w.outside_listener, WORLD_HOST);
		expect_error(f.guest.ns, denied[i], EHOSTUNREACH);
	}
	// Never delivered, whoever would listen there.
	expect_error(f.guest.ns, "0.1.2.3", EHOSTUNREACH);
	expect_error(f.guest.ns, "240.0.0.1", EHOSTUNREACH);
	expect_error(f.guest.ns, SLOT_GATEWAY_IP, ECONNREFUSED);
	expect_error(f.guest.ns, f.slot.address, ECONNREFUSED);
	teardown(&f);
}

static void expect_resolver(struct fixture *f, int server, const char *ip)
{
	_cleanup_close_ int guest = world_udp(f->guest.ns, "0.0.0.0", 0);
	struct sockaddr_in from;
	char name[INET_ADDRSTRLEN];
	world_send(guest, ip, 53, "query");
	world_expect(server, "query", &from);
	inet_ntop(AF_INET, &from.sin_addr, name, sizeof name);
	world_send(server, name, ntohs(from.sin_port), "answer");
	world_expect(guest, "answer", NULL);
}

static void set_resolvers(struct fixture *f, const char *list)
{
	struct resolvers r = {0};
	struct err e = {0};
	if (list && resolvers_parse(list, &r, &e) < 0)
		fail_msg("%s", e.text);
	if (slot_pool_resolvers(f->p, &f->slot, &r, false, &e) < 0)
		fail_msg("%s", e.text);
}

// Elsewhere, of the cloud's metadata server, and on this machine: that port of that address alone.
static void guest_reaches_its_private_resolvers(void **state)
{
	static const char *const private[] = {"10.99.0.1", "169.254.169.254", "10.77.0.1"};
	struct fixture f;
	struct resolvers r;
	struct err e = {0};
	setup(&f);
	f.cfg.max = 2;
	f.cfg.warm = 1;
	start(&f);
	world_sh(f.w.host, "ip addr add 10.77.0.1/32 dev lo");
	int udp[3], tcp[3];
	for (size_t i = 0; i < ARRAY_SIZE(private); i++) {
		int ns = i == 2 ? f.w.host : f.w.outside;
		udp[i] = world_udp(ns, private[i], 53);
		tcp[i] = world_listen(ns, private[i], 53);
		int c = world_connect(f.guest.ns, private[i], 53, SILENCE_MS);
		assert_true(c < 0); // not its resolver yet
	}
	set_resolvers(&f, "10.99.0.1,169.254.169.254 10.77.0.1");
	for (size_t i = 0; i < ARRAY_SIZE(private); i++) {
		expect_resolver(&f, udp[i], private[i]);
		expect_open(
			f.guest.ns, private[i], 53, tcp[i], i == 2 ? f.slot.address : WORLD_HOST);
		expect_error(f.guest.ns, private[i], EHOSTUNREACH);
	}
	// Others of the networks are as closed as ever, and so are all for another guest.
	expect_error(f.guest.ns, "172.16.9.9", EHOSTUNREACH);
	struct guest other;
	guest_make(&other);
	struct slot second = take(f.p);
	guest_attach(&other, &second, UID + second.index);
	assert_int_equal(world_connect(other.ns, "10.99.0.1", 53, ANSWER_MS), -EHOSTUNREACH);
	guest_remove(&other);
	// Another list closes what it does not have.
	set_resolvers(&f, "10.77.0.1");
	assert_int_equal(world_connect(f.guest.ns, "10.99.0.1", 53, ANSWER_MS), -EHOSTUNREACH);
	expect_resolver(&f, udp[2], "10.77.0.1");
	set_resolvers(&f, "9.9.9.9");
	assert_true(world_connect(f.guest.ns, "10.77.0.1", 53, SILENCE_MS) < 0);
	assert_int_equal(resolvers_parse("10.213.0.9", &r, &e), 0);
	assert_int_equal(slot_pool_resolvers(f.p, &f.slot, &r, false, &e), -EINVAL);
	assert_non_null(strstr(e.text, "10.213.0.9"));
	// Nor has the slot's next guest them.
	set_resolvers(&f, "10.99.0.1");
	guest_detach(&f.guest);
	slot_pool_give(f.p, &f.slot);
	struct slot again = take(f.p);
	assert_int_equal(again.index, f.slot.index);
	guest_attach(&f.guest, &f.slot, UID + f.slot.index);
	assert_int_equal(world_connect(f.guest.ns, "10.99.0.1", 53, ANSWER_MS), -EHOSTUNREACH);
	// What most have is open before they come, and closed to who has another list.
	assert_int_equal(resolvers_parse("10.99.0.1", &r, &e), 0);
	assert_int_equal(slot_pool_resolvers(f.p, &again, &r, true, &e), 0);
	guest_detach(&f.guest);
	slot_pool_give(f.p, &again);
	f.slot = take(f.p);
	guest_attach(&f.guest, &f.slot, UID + f.slot.index);
	expect_open(f.guest.ns, "10.99.0.1", 53, tcp[0], WORLD_HOST);
	set_resolvers(&f, "9.9.9.9");
	assert_int_equal(world_connect(f.guest.ns, "10.99.0.1", 53, ANSWER_MS), -EHOSTUNREACH);
	for (size_t i = 0; i < ARRAY_SIZE(private); i++) {
		safe_close(udp[i]);
		safe_close(tcp[i]);
	}
	world_sh(f.w.host, "ip addr del 10.77.0.1/32 dev lo");
	teardown(&f);
}

static void guest_cannot_reach_host(void **state)
{
	struct fixture f;
	setup(&f);
	start(&f);
	expect_open(f.w.outside, WORLD_HOST, WORLD_PORT, f.w.host_listener, WORLD_PUBLIC);
	expect_error(f.guest.ns, WORLD_HOST, ETIMEDOUT);
	expect_open(f.w.host, "10.213.0.0", WORLD_PORT, f.w.host_listener, "10.213.0.0");
	expect_error(f.guest.ns, "10.213.0.0", EHOSTUNREACH);
	// The host's loopback network, with the guest's route for it set to leave.
	world_sh(f.guest.ns, "ip link set lo down; ip addr del 127.0.0.1/8 dev lo;"
			     "echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet;"
			     "ip route add 127.0.0.0/8 via " SLOT_GATEWAY_IP);
	expect_error(f.guest.ns, "127.0.0.1", ETIMEDOUT);
	teardown(&f);
}

static void guests_cannot_reach_each_other(void **state)
{
	struct fixture f;
	struct guest other;
	// Even where the operator allows the private network that holds the slots.
	const char *const allow[] = {"10.0.0.0/8", NULL};
	setup(&f);
	f.cfg.allow = allow;
	start(&f);
	struct slot s = take(f.p);
	guest_make(&other);
	guest_attach(&other, &s, UID + s.index);
	expect_open(f.w.host, s.address, WORLD_PORT, other.listener, SLOT_GATEWAY_IP);
	expect_error(f.guest.ns, s.address, EHOSTUNREACH);
	expect_open(f.guest.ns, "10.99.0.1", WORLD_PORT, f.w.outside_listener, WORLD_HOST);
	expect_error(f.guest.ns, "192.168.77.1", EHOSTUNREACH);
	guest_remove(&other);
	teardown(&f);
}

static void outside_cannot_reach_guest(void **state)
{
	struct fixture f;
	setup(&f);
	start(&f);
	world_sh(f.w.outside, "ip route add " RANGE " via " WORLD_HOST);
	expect_open(f.w.host, f.slot.address, WORLD_PORT, f.guest.listener, SLOT_GATEWAY_IP);
	expect_error(f.w.outside, f.slot.address, ETIMEDOUT);
	teardown(&f);
}

// The host's own wall: a guest that has taken over its VMM and its namespace.
static void broken_namespace_gains_nothing(void **state)
{
	struct fixture f;
	setup(&f);
	start(&f);
	_cleanup_close_ int ns = netns_open(f.slot.netns);
	struct slot s = take(f.p);
	struct guest other;
	guest_make(&other);
	guest_attach(&other, &s, UID + s.index);

	// The VMM without privileges: its namespace lets none of its packets out.
	_cleanup_close_ int udp = world_udp(ns, "0.0.0.0", 0);
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(53)};
	inet_pton(AF_INET, "8.8.8.8", &to.sin_addr);
	assert_int_equal(sendto(udp, "x", 1, 0, (struct sockaddr *)&to, sizeof to), -1);
	assert_int_equal(errno, EPERM);

	world_sh(ns, "nft flush ruleset");
	expect_open(ns, WORLD_PUBLIC, WORLD_PORT, f.w.outside_listener, WORLD_HOST);
	expect_error(ns, "10.213.0.0", ETIMEDOUT);
	expect_error(ns, WORLD_HOST, ETIMEDOUT);
	expect_error(ns, s.address, ETIMEDOUT);
	expect_error(ns, "10.99.0.1", ETIMEDOUT);
	expect_error(ns, "169.254.169.254", ETIMEDOUT);
	char script[400];
	snprintf(script, sizeof script,
		"echo 0 >/proc/sys/net/ipv6/conf/%s/disable_ipv6;"
		"ip addr add fd01::2/64 dev %s nodad",
		f.slot.host_if, f.slot.host_if);
	world_sh(f.w.host, script);
	// Nobody listens there, but a packet that arrived would be refused at once.
	world_sh(ns, "echo 0 >/proc/sys/net/ipv6/conf/veth0/disable_ipv6;"
		     "ip addr add fd01::1/64 dev veth0 nodad;"
		     "timeout 0.3 bash -c 'echo >/dev/tcp/fd01::2/7' 2>/dev/null || test $? = 124");
	// A neighbour's address as its own, with the kernel's own check out of the way.
	snprintf(script, sizeof script, "echo 0 >/proc/sys/net/ipv4/conf/%s/rp_filter",
		f.slot.host_if);
	world_sh(f.w.host, script);
	snprintf(script, sizeof script, "ip addr add %s/32 dev lo", s.address);
	world_sh(ns, script);
	_cleanup_close_ int outside_udp = world_udp(f.w.outside, WORLD_PUBLIC, 53);
	_cleanup_close_ int spoofed = world_udp(ns, s.address, 0);
	_cleanup_close_ int honest = world_udp(ns, f.slot.address, 0);
	world_send(spoofed, WORLD_PUBLIC, 53, "spoofed");
	world_send(honest, WORLD_PUBLIC, 53, "honest");
	world_expect(outside_udp, "honest", NULL);
	guest_remove(&other);
	teardown(&f);
}

// Counts UDP packets that come out of the slot on the host's interface until one to port 9999.
static void watch(int packets, unsigned *ret_ipv6, unsigned *ret_spoofed)
{
	*ret_ipv6 = *ret_spoofed = 0;
	for (;;) {
		unsigned char b[2048];
		struct sockaddr_ll from;
		socklen_t len = sizeof from;
		struct pollfd p = {.fd = packets, .events = POLLIN};
		assert_int_equal(poll(&p, 1, ANSWER_MS), 1);
		ssize_t n = recvfrom(packets, b, sizeof b, 0, (struct sockaddr *)&from, &len);
		bool ipv6 = ntohs(from.sll_protocol) == ETH_P_IPV6;
		ssize_t udp = ipv6 ? 40 : 20;
		if (from.sll_pkttype == PACKET_OUTGOING || n < udp + 8 ||
			b[ipv6 ? 6 : 9] != IPPROTO_UDP)
			continue;
		unsigned port = (unsigned)b[udp + 2] << 8 | b[udp + 3];
		if (port == 9999)
			return;
		if (port == 9998)
			++*(ipv6 ? ret_ipv6 : ret_spoofed);
	}
}

// Sends each kind of packet that must stay inside, and tells how many came out.
static void send_forbidden(
	struct fixture *f, int packets, unsigned *ret_ipv6, unsigned *ret_spoofed)
{
	_cleanup_close_ int good = world_udp(f->guest.ns, "0.0.0.0", 0);
	_cleanup_close_ int bad = world_udp(f->guest.ns, "8.8.4.4", 0);
	world_send(bad, WORLD_PUBLIC, 9998, "spoofed");
	world_sh(f->guest.ns, "bash -c 'echo x >/dev/udp/2001:db8::1/9998'");
	world_send(good, WORLD_PUBLIC, 9999, "end");
	watch(packets, ret_ipv6, ret_spoofed);
}

static void spoofed_and_ipv6_packets_stay_inside(void **state)
{
	struct fixture f;
	unsigned ipv6, spoofed;
	setup(&f);
	start(&f);
	world_sh(f.guest.ns, "ip addr add 8.8.4.4/32 dev lo;"
			     "ip addr add fd00::2/64 dev eth0 nodad;"
			     "ip neigh add fd00::1 lladdr " SLOT_GATEWAY_MAC " dev eth0;"
			     "ip route add default via fd00::1 dev eth0");
	_cleanup_close_ int packets = socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct sockaddr_ll ll = {.sll_family = AF_PACKET,
		.sll_protocol = htons(ETH_P_ALL),
		.sll_ifindex = (int)if_nametoindex(f.slot.host_if)};
	assert_int_equal(bind(packets, (struct sockaddr *)&ll, sizeof ll), 0);
	_cleanup_close_ int ns = netns_open(f.slot.netns);
	world_sh(ns, "test -z \"$(ip -6 addr)\"");
	send_forbidden(&f, packets, &ipv6, &spoofed);
	assert_int_equal(ipv6, 0);
	assert_int_equal(spoofed, 0);
	// Without the kernel's own checks and with a way out for IPv6, the table alone stops them.
	world_sh(ns, "cd /proc/sys/net; for i in all veth0 tap0; do echo 0 >ipv4/conf/$i/rp_filter;"
		     "echo 0 >ipv6/conf/$i/disable_ipv6; done; echo 1 >ipv6/conf/all/forwarding;"
		     "ip addr add fd01::1/64 dev veth0 nodad;"
		     "ip neigh add fd01::2 lladdr 06:00:a9:fe:00:01 dev veth0;"
		     "ip route add default via fd01::2 dev veth0");
	send_forbidden(&f, packets, &ipv6, &spoofed);
	assert_int_equal(ipv6, 0);
	assert_int_equal(spoofed, 0);
	// Without the table they come out: the packets are right, and the watch sees them.
	world_sh(ns, "nft flush chain inet stasis spoofed; nft flush chain inet stasis forward;"
		     "nft chain inet stasis forward '{ policy accept; }'");
	send_forbidden(&f, packets, &ipv6, &spoofed);
	assert_int_equal(spoofed, 1);
	assert_int_equal(ipv6, 1);
	teardown(&f);
}

static void flows_of_one_guest_are_limited(void **state)
{
	struct fixture f;
	setup(&f);
	start(&f);
	_cleanup_close_ int ns = netns_open(f.slot.netns);
	_cleanup_close_ int udp = world_udp(f.guest.ns, "0.0.0.0", 0);
	expect_open(f.guest.ns, WORLD_PUBLIC, WORLD_PORT, f.w.outside_listener, WORLD_HOST);
	for (unsigned i = 0; i < 2500; i++) {
		world_send(udp, WORLD_PUBLIC, 1000 + i, "x");
		// In step with the pump, so that no queue on the way overflows.
		if (i % 100 == 99)
			expect_open(f.w.host, f.slot.address, WORLD_PORT, f.guest.listener,
				SLOT_GATEWAY_IP);
	}
	uint64_t n = world_sysctl(ns, "/proc/sys/net/netfilter/nf_conntrack_count");
	assert_in_range(n, 2040, 2100);
	expect_error(f.guest.ns, WORLD_PUBLIC, EHOSTUNREACH);
	expect_open(f.w.host, f.slot.address, WORLD_PORT, f.guest.listener, SLOT_GATEWAY_IP);
	teardown(&f);
}

static void tap_belongs_to_the_slots_user(void **state)
{
	struct fixture f;
	setup(&f);
	f.p = new_pool(&f.cfg);
	struct slot a = take(f.p), b = take(f.p);
	assert_int_equal(guest_open_tap(&a, UID + b.index), -EPERM);
	_cleanup_close_ int fd = guest_open_tap(&a, UID + a.index);
	assert_true(fd >= 0);
	teardown(&f);
}

// A guest whose connection was open when it was frozen, thawed in a slot that was used before.
static void reused_slot_knows_nothing_of_its_former_guest(void **state)
{
	struct fixture f;
	struct guest next;
	struct sockaddr_in from;
	char c, name[INET_ADDRSTRLEN];
	setup(&f);
	f.cfg.max = f.cfg.warm = 1;
	start(&f);
	guest_make(&next);
	_cleanup_close_ int ns = netns_open(f.slot.netns);
	_cleanup_close_ int conn = world_connect(f.guest.ns, WORLD_PUBLIC, WORLD_PORT, ANSWER_MS);
	assert_true(conn >= 0);
	_cleanup_close_ int peer = accept(f.w.outside_listener, NULL, NULL);
	_cleanup_close_ int in = world_connect(f.w.host, f.slot.address, WORLD_PORT, ANSWER_MS);
	assert_true(in >= 0);
	_cleanup_close_ int served = accept(f.guest.listener, NULL, NULL);
	assert_true(peer >= 0 && served >= 0);
	_cleanup_close_ int outside_udp = world_udp(f.w.outside, "0.0.0.0", 53);
	_cleanup_close_ int old_udp = world_udp(f.guest.ns, "0.0.0.0", 4000);
	_cleanup_close_ int next_udp = world_udp(next.ns, "0.0.0.0", 4000);
	world_send(old_udp, WORLD_PUBLIC, 53, "query");
	world_expect(outside_udp, "query", &from);
	assert_true(world_sysctl(ns, "/proc/sys/net/netfilter/nf_conntrack_count") >= 3);

	guest_detach(&f.guest);
	slot_pool_give(f.p, &f.slot);
	// At rest: an answer at once, by nobody.
	expect_error(f.w.host, f.slot.address, EHOSTUNREACH);

	struct slot again = take(f.p);
	assert_int_equal(again.index, f.slot.index);
	assert_int_equal(world_sysctl(ns, "/proc/sys/net/netfilter/nf_conntrack_count"), 0);
	guest_attach(&next, &again, UID + again.index);
	expect_open(f.w.host, again.address, WORLD_PORT, next.listener, SLOT_GATEWAY_IP);
	// A late answer to the former guest comes before what the next one is sent, if at all.
	inet_ntop(AF_INET, &from.sin_addr, name, sizeof name);
	world_send(outside_udp, name, ntohs(from.sin_port), "late");
	_cleanup_close_ int host_udp = world_udp(f.w.host, "0.0.0.0", 0);
	world_send(host_udp, again.address, 4000, "for the next");
	world_expect(next_udp, "for the next", NULL);

	// Both kinds of old connection end with an error instead of silence.
	guest_detach(&next);
	guest_attach(&f.guest, &again, UID + again.index);
	assert_int_equal(write(conn, "x", 1), 1);
	assert_int_equal(read(conn, &c, 1), -1);
	assert_int_equal(errno, ECONNRESET);
	assert_int_equal(write(served, "x", 1), 1);
	assert_int_equal(read(served, &c, 1), -1);
	assert_int_equal(errno, ECONNRESET);
	expect_open(f.guest.ns, WORLD_PUBLIC, WORLD_PORT, f.w.outside_listener, WORLD_HOST);
	guest_remove(&next);
	teardown(&f);
}

struct taker {
	struct slot_pool *p;
	struct slot slot;
	int rc;
};

static void *taker_main(void *arg)
{
	struct taker *t = arg;
	t->rc = slot_pool_take(t->p, &t->slot, NULL);
	return NULL;
}

static void slots_are_taken_once_up_to_the_limit(void **state)
{
	struct fixture f;
	struct taker t[6];
	pthread_t thread[ARRAY_SIZE(t)];
	unsigned seen = 0, ready, taken;
	struct slot s;
	struct err e = {0};
	setup(&f);
	f.cfg.max = ARRAY_SIZE(t);
	f.cfg.warm = 2;
	f.p = new_pool(&f.cfg);
	wait_ready(f.p, 2);
	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		t[i] = (struct taker){.p = f.p};
		assert_int_equal(pthread_create(&thread[i], NULL, taker_main, &t[i]), 0);
	}
	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		pthread_join(thread[i], NULL);
		assert_int_equal(t[i].rc, 0);
		assert_false(seen & 1u << t[i].slot.index);
		seen |= 1u << t[i].slot.index;
	}
	slot_pool_stats(f.p, &ready, &taken);
	assert_int_equal(ready, 0);
	assert_int_equal(taken, ARRAY_SIZE(t));
	assert_true(slot_pool_take(f.p, &s, &e) < 0);
	assert_int_equal(e.code, ERR_LIMIT);
	// Given back twice is given back once.
	slot_pool_give(f.p, &t[3].slot);
	slot_pool_give(f.p, &t[3].slot);
	assert_int_equal(take(f.p).index, t[3].slot.index);
	assert_true(slot_pool_take(f.p, &s, &e) < 0);
	teardown(&f);
}

// A child has a copy of every descriptor from its fork to its exec, and on a busy machine that is a
// while. forker_main forks one just before a tap that was made is closed, and keeps it.
static struct {
	atomic_bool armed;
	sem_t now, forked;
	pid_t child;
	int hold[2]; // the child ends when the other end is closed
} forker;

static void *forker_main(void *arg)
{
	char c;
	RETRY_EINTR(sem_wait(&forker.now));
	forker.child = fork();
	if (forker.child == 0) {
		close(forker.hold[1]);
		_exit((int)read(forker.hold[0], &c, 1));
	}
	sem_post(&forker.forked);
	return arg;
}

// Instead of the C library's. The last call of the making of a tap waits for the fork.
int ioctl(int fd, unsigned long request, ...)
{
	va_list list;
	va_start(list, request);
	void *arg = va_arg(list, void *);
	va_end(list);
	int rc = (int)syscall(SYS_ioctl, fd, request, arg);
	if (request == TUNSETPERSIST && atomic_exchange(&forker.armed, false)) {
		sem_post(&forker.now);
		RETRY_EINTR(sem_wait(&forker.forked));
	}
	return rc;
}

static void tap_is_free_while_a_child_of_another_thread_holds_a_copy(void **state)
{
	struct fixture f;
	pthread_t thread;
	int status;
	setup(&f);
	f.p = new_pool(&f.cfg);
	assert_int_equal(sem_init(&forker.now, 0, 0), 0);
	assert_int_equal(sem_init(&forker.forked, 0, 0), 0);
	assert_int_equal(pipe2(forker.hold, O_CLOEXEC), 0);
	assert_int_equal(pthread_create(&thread, NULL, forker_main, NULL), 0);
	atomic_store(&forker.armed, true);
	struct slot s = take(f.p);
	pthread_join(thread, NULL);
	assert_false(atomic_load(&forker.armed));
	assert_true(forker.child > 0);
	int tap = guest_open_tap(&s, UID + s.index);
	close(forker.hold[1]);
	assert_int_equal(RETRY_EINTR(waitpid(forker.child, &status, 0)), forker.child);
	close(forker.hold[0]);
	if (tap < 0)
		fail_msg("tap0: %s", strerror(-tap));
	close(tap);
	teardown(&f);
}

// As a server does it when a hundred starts come at once: slots are made on many threads, and
// programs are started on others.
#define RUSH 100u
struct rush {
	struct slot_pool *p;
	atomic_uint begun, busy;
	atomic_bool over;
};

static void *rush_main(void *arg)
{
	struct rush *r = arg;
	while (atomic_fetch_add(&r->begun, 1) < RUSH) {
		struct slot s;
		if (slot_pool_take(r->p, &s, NULL) < 0)
			break; // counted at the end
		int tap = guest_open_tap(&s, UID + s.index);
		if (tap < 0)
			atomic_fetch_add(&r->busy, 1);
		safe_close(tap);
	}
	return NULL;
}

static void *spawn_main(void *arg)
{
	struct rush *r = arg;
	const struct proc_spawn spawn = {.argv = (const char *[]){"true", NULL},
		.stdin_fd = -1,
		.stdout_fd = -1,
		.stderr_fd = -1};
	int pidfd;
	while (!atomic_load(&r->over) && proc_spawn(&spawn, NULL, &pidfd, NULL) == 0) {
		proc_wait(pidfd, -1, NULL);
		close(pidfd);
	}
	return NULL;
}

static void a_hundred_taps_are_free_at_once(void **state)
{
	struct fixture f;
	pthread_t makers[16], spawners[8];
	unsigned ready, taken;
	setup(&f);
	f.cfg.max = RUSH;
	f.cfg.warm = 4;
	f.p = new_pool(&f.cfg);
	struct rush r = {.p = f.p};
	for (size_t i = 0; i < ARRAY_SIZE(spawners); i++)
		assert_int_equal(pthread_create(&spawners[i], NULL, spawn_main, &r), 0);
	for (size_t i = 0; i < ARRAY_SIZE(makers); i++)
		assert_int_equal(pthread_create(&makers[i], NULL, rush_main, &r), 0);
	for (size_t i = 0; i < ARRAY_SIZE(makers); i++)
		pthread_join(makers[i], NULL);
	atomic_store(&r.over, true);
	for (size_t i = 0; i < ARRAY_SIZE(spawners); i++)
		pthread_join(spawners[i], NULL);
	slot_pool_stats(f.p, &ready, &taken);
	assert_int_equal(taken, RUSH);
	assert_int_equal(atomic_load(&r.busy), 0);
	teardown(&f);
}

// A namespace that was lost or damaged while in use.
static void slot_that_cannot_be_cleaned_is_replaced(void **state)
{
	struct fixture f;
	struct err e = {0};
	setup(&f);
	f.cfg.max = f.cfg.warm = 1;
	f.p = new_pool(&f.cfg);
	struct slot s = take(f.p);
	assert_int_equal(netns_unbind(s.netns, &e), 0);
	slot_pool_give(f.p, &s);
	f.slot = take(f.p);
	guest_attach(&f.guest, &f.slot, UID + f.slot.index);
	expect_open(f.w.host, f.slot.address, WORLD_PORT, f.guest.listener, SLOT_GATEWAY_IP);
	teardown(&f);
}

// Starts this program again as a server that will be killed; returns when it says so or ends.
static void killed_pool(const char *run_dir, bool takes, const char *fault)
{
	const char *const argv[] = {"/proc/self/exe", "--pool", run_dir, takes ? "1" : "0", NULL};
	char buf[8], env[80], path[4096];
	int out[2], status;
	struct err e = {0};
	snprintf(env, sizeof env, "STASIS_FAULT=%s", fault);
	snprintf(path, sizeof path, "PATH=%s", getenv("PATH"));
	const char *const envp[] = {fault ? env : "STASIS_FAULT=", path, NULL};
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	_cleanup_close_ int rd = out[0], wr = out[1], pidfd = -1;
	struct proc_spawn s = {
		.argv = argv, .env = envp, .stdin_fd = -1, .stdout_fd = wr, .stderr_fd = -1};
	assert_int_equal(proc_spawn(&s, NULL, &pidfd, &e), 0);
	wr = safe_close(wr);
	ssize_t n = file_read_full(rd, buf, 5);
	assert_int_equal(n, fault ? 0 : 5);
	if (!fault)
		proc_kill(pidfd, SIGKILL);
	assert_int_equal(proc_wait(pidfd, 20000, &status), 0);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static int pool_main(const char *run_dir, bool takes)
{
	struct slot_pool_config cfg = config(run_dir);
	struct slot_pool *p;
	struct slot s;
	struct err e = {0};
	cfg.warm = 2;
	int rc = fault_setup(getenv("STASIS_FAULT"), &e);
	if (rc == 0)
		rc = slot_pool_new(&cfg, NULL, 0, &p, &e);
	if (rc == 0 && takes)
		rc = slot_pool_take(p, &s, &e);
	if (rc < 0) {
		fprintf(stderr, "%s\n", err_text(&e, rc));
		return 1;
	}
	wait_ready(p, 2);
	if (write(STDOUT_FILENO, "ready", 5) != 5)
		return 1;
	for (;;)
		pause();
}

static void leftovers_of_a_killed_server_are_removed(void **state)
{
	static const char *const faults[] = {"slot.after_netns:kill", "slot.after_policy:kill",
		"slot.after_veth:kill", "slot.after_make:kill", "slot.after_make:kill@2", NULL};
	struct fixture f;
	setup(&f);
	// The last round: killed with slots ready and taken.
	for (size_t i = 0; i < ARRAY_SIZE(faults); i++) {
		killed_pool(f.run_dir, true, faults[i]);
		_cleanup_free_ char *left = world_inventory(&f.w);
		assert_string_not_equal(f.before, left);
		// By the next server ...
		slot_pool_free(new_pool(&f.cfg));
		rmdir(f.run_dir);
		_cleanup_free_ char *after = world_inventory(&f.w);
		assert_string_equal(f.before, after);
		// ... and without one.
		struct err e = {0};
		killed_pool(f.run_dir, false, faults[i]);
		assert_int_equal(slot_cleanup_all(f.run_dir, &e), 0);
		rmdir(f.run_dir);
		_cleanup_free_ char *cleaned = world_inventory(&f.w);
		assert_string_equal(f.before, cleaned);
	}
	teardown(&f);
}

static void failed_make_leaves_nothing(void **state)
{
	static const char *const faults[] = {
		"slot.after_netns", "slot.after_policy", "slot.after_veth", "slot.after_make"};
	struct fixture f;
	setup(&f);
	f.p = new_pool(&f.cfg);
	_cleanup_free_ char *before = world_inventory(&f.w);
	for (size_t i = 0; i < ARRAY_SIZE(faults); i++) {
		char spec[64];
		struct err e = {0};
		struct slot s;
		snprintf(spec, sizeof spec, "%s:fail", faults[i]);
		assert_int_equal(fault_setup(spec, &e), 0);
		assert_int_equal(slot_pool_take(f.p, &s, &e), -EIO);
		assert_non_null(strstr(e.text, faults[i]));
		fault_setup(NULL, NULL);
		_cleanup_free_ char *after = world_inventory(&f.w);
		assert_string_equal(before, after);
	}
	teardown(&f);
}

static void running_slots_are_adopted(void **state)
{
	struct fixture f;
	struct slot s;
	struct err e = {0};
	unsigned ready, taken;
	const unsigned keep[] = {0, 3};
	setup(&f);
	killed_pool(f.run_dir, true, NULL); // slots 0 to 2 are there, one of them taken
	assert_int_equal(slot_pool_new(&f.cfg, keep, 2, &f.p, &e), 0);
	slot_pool_stats(f.p, &ready, &taken);
	assert_int_equal(ready, 0);
	assert_int_equal(taken, 1);
	assert_int_equal(slot_pool_adopt(f.p, 0, &f.slot, &e), 0);
	assert_true(slot_pool_adopt(f.p, 0, &s, &e) < 0);
	assert_true(slot_pool_adopt(f.p, 3, &s, &e) < 0); // was never made
	assert_int_equal(e.code, ERR_NOT_FOUND);
	guest_attach(&f.guest, &f.slot, UID);
	expect_open(f.w.host, f.slot.address, WORLD_PORT, f.guest.listener, SLOT_GATEWAY_IP);
	expect_open(f.guest.ns, WORLD_PUBLIC, WORLD_PORT, f.w.outside_listener, WORLD_HOST);
	// A taken slot outlives the pool, with all it needs of the host.
	f.p = slot_pool_free(f.p);
	expect_open(f.guest.ns, WORLD_PUBLIC, WORLD_PORT, f.w.outside_listener, WORLD_HOST);
	assert_int_equal(slot_pool_new(&f.cfg, keep, 1, &f.p, &e), 0);
	assert_int_equal(slot_pool_adopt(f.p, 0, &f.slot, &e), 0);
	f.p = slot_pool_free(f.p);
	// With another range its address is wrong: gone, and said so.
	f.cfg.range = "10.214.0.0/24";
	assert_int_equal(slot_pool_new(&f.cfg, keep, 1, &f.p, &e), 0);
	assert_true(slot_pool_adopt(f.p, 0, &s, &e) < 0);
	assert_non_null(strstr(e.text, "--slot-range"));
	teardown(&f);
}

static void running_slots_outlive_a_lowered_limit(void **state)
{
	struct fixture f;
	struct err e = {0};
	const unsigned keep[] = {2};
	setup(&f);
	killed_pool(f.run_dir, true, NULL);
	f.cfg.max = 1;
	assert_int_equal(slot_pool_new(&f.cfg, keep, 1, &f.p, &e), 0);
	assert_int_equal(slot_pool_adopt(f.p, 2, &f.slot, &e), 0);
	guest_attach(&f.guest, &f.slot, UID + 2);
	expect_open(f.w.host, f.slot.address, WORLD_PORT, f.guest.listener, SLOT_GATEWAY_IP);
	teardown(&f);
}

static void pools_side_by_side_do_not_disturb_each_other(void **state)
{
	struct fixture f;
	struct err e = {0};
	char dir[100];
	setup(&f);
	start(&f);
	snprintf(dir, sizeof dir, "%s/run2", f.w.dir);
	struct slot_pool_config cfg = config(dir);
	struct slot_pool *p = NULL;
	// The same range is refused by name, whether or not slots are there.
	assert_int_equal(slot_pool_new(&cfg, NULL, 0, &p, &e), -EBUSY);
	assert_non_null(strstr(e.text, "another server's slots"));
	cfg.range = "10.214.0.0/24";
	p = new_pool(&cfg);
	struct slot s = take(p);
	struct guest g;
	guest_make(&g);
	guest_attach(&g, &s, UID + s.index);
	assert_int_equal(s.index, f.slot.index);
	expect_open(g.ns, WORLD_PUBLIC, WORLD_PORT, f.w.outside_listener, WORLD_HOST);
	expect_open(f.w.host, s.address, WORLD_PORT, g.listener, SLOT_GATEWAY_IP);
	expect_error(f.guest.ns, s.address, EHOSTUNREACH);
	// The probe of "doctor" beside both.
	uint64_t ns = 0;
	assert_int_equal(slot_probe(&f.cfg, &ns, &e), 0);
	assert_true(ns > 0);
	guest_remove(&g);
	slot_pool_give(p, &s);
	slot_pool_free(p);
	assert_int_equal(slot_cleanup_all(dir, &e), 0);
	rmdir(dir);
	expect_open(f.guest.ns, WORLD_PUBLIC, WORLD_PORT, f.w.outside_listener, WORLD_HOST);
	expect_open(f.w.host, f.slot.address, WORLD_PORT, f.guest.listener, SLOT_GATEWAY_IP);
	teardown(&f);
}

static void range_in_use_is_refused_with_advice(void **state)
{
	struct fixture f;
	struct err e = {0};
	setup(&f);
	f.cfg.range = "10.99.128.0/20";
	assert_int_equal(slot_pool_new(&f.cfg, NULL, 0, &f.p, &e), -EBUSY);
	assert_non_null(strstr(e.text, "10.99.0.0/16 dev pub0"));
	assert_non_null(strstr(e.text, "--slot-range"));
	teardown(&f);
}

static void forwarding_for_all_stays_as_it_was(void **state)
{
	struct fixture f;
	setup(&f);
	assert_int_equal(world_sysctl(f.w.host, "/proc/sys/net/ipv4/ip_forward"), 0);
	start(&f);
	expect_open(f.guest.ns, WORLD_PUBLIC, WORLD_PORT, f.w.outside_listener, WORLD_HOST);
	assert_int_equal(world_sysctl(f.w.host, "/proc/sys/net/ipv4/ip_forward"), 0);
	// What was once a slot's address does not leave the host by its default route.
	expect_error(f.w.host, "10.213.0.201", EHOSTUNREACH);
	teardown(&f);
}

static void missing_nft_is_named(void **state)
{
	struct fixture f;
	struct err e = {0};
	setup(&f);
	_cleanup_free_ char *path = strdup(getenv("PATH"));
	setenv("PATH", "/nonexistent", 1);
	int rc = slot_pool_new(&f.cfg, NULL, 0, &f.p, &e);
	setenv("PATH", path, 1);
	assert_true(rc < 0);
	assert_int_equal(e.code, ERR_UNAVAILABLE);
	assert_non_null(strstr(e.text, "apt-get install nftables"));
	teardown(&f);
}

int main(int argc, char **argv)
{
	if (argc == 4 && strcmp(argv[1], "--pool") == 0)
		return pool_main(argv[2], strcmp(argv[3], "1") == 0);
	if (geteuid() != 0 || access("/dev/net/tun", R_OK | W_OK) < 0) {
		puts("skipped: needs root and /dev/net/tun");
		return 77;
	}
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(host_reaches_guest_and_guest_reaches_public),
		cmocka_unit_test(guest_is_denied_what_is_not_public),
		cmocka_unit_test(guest_reaches_its_private_resolvers),
		cmocka_unit_test(guest_cannot_reach_host),
		cmocka_unit_test(guests_cannot_reach_each_other),
		cmocka_unit_test(outside_cannot_reach_guest),
		cmocka_unit_test(broken_namespace_gains_nothing),
		cmocka_unit_test(spoofed_and_ipv6_packets_stay_inside),
		cmocka_unit_test(flows_of_one_guest_are_limited),
		cmocka_unit_test(tap_belongs_to_the_slots_user),
		cmocka_unit_test(reused_slot_knows_nothing_of_its_former_guest),
		cmocka_unit_test(slots_are_taken_once_up_to_the_limit),
		cmocka_unit_test(tap_is_free_while_a_child_of_another_thread_holds_a_copy),
		cmocka_unit_test(a_hundred_taps_are_free_at_once),
		cmocka_unit_test(slot_that_cannot_be_cleaned_is_replaced),
		cmocka_unit_test(leftovers_of_a_killed_server_are_removed),
		cmocka_unit_test(failed_make_leaves_nothing),
		cmocka_unit_test(running_slots_are_adopted),
		cmocka_unit_test(running_slots_outlive_a_lowered_limit),
		cmocka_unit_test(pools_side_by_side_do_not_disturb_each_other),
		cmocka_unit_test(range_in_use_is_refused_with_advice),
		cmocka_unit_test(forwarding_for_all_stays_as_it_was),
		cmocka_unit_test(missing_nft_is_named),
	};
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
