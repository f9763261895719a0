// SPDX-License-Identifier: Apache-2.0
#include "world.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <cmocka.h>
#include "base/file.h"
#include "base/proc.h"
#include "net/netlink.h"
#include "net/netns.h"

#define ANSWER_MS 5000 // for what must come; only a failing test waits that long

static void must(int rc, const struct err *e, const char *what)
{
	if (rc < 0)
		fail_msg("%s: %s", what, err_text(e, rc));
}

struct call {
	const char *text;
	int type, fd;
	unsigned port;
	bool listening;
};

static int in_self(void *arg, struct err *e)
{
	struct call *c = arg;
	c->fd = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	return c->fd < 0 ? -errno : 0;
}

static int new_ns(void)
{
	struct call c = {0};
	struct err e = {0};
	must(netns_run(-1, in_self, &c, &e), &e, "new namespace");
	return c.fd;
}

static int in_sh(void *arg, struct err *e)
{
	const char *const argv[] = {"sh", "-ec", arg, NULL};
	return proc_run(argv, NULL, 0, 30000, NULL, e);
}

void world_sh(int ns, const char *script)
{
	struct err e = {0};
	must(netns_run(ns, in_sh, (void *)script, &e), &e, script);
}

static struct sockaddr_in address(const char *ip, unsigned port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	assert_int_equal(inet_pton(AF_INET, ip, &a.sin_addr), 1);
	return a;
}

// No read or accept waits for ever; accepted sockets inherit it.
static void limit_waits(int fd)
{
	struct timeval t = {.tv_sec = ANSWER_MS / 1000};
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
}

static int in_bind(void *arg, struct err *e)
{
	struct call *c = arg;
	int on = 1;
	struct sockaddr_in a = address(c->text, c->port);
	c->fd = socket(AF_INET, c->type | SOCK_CLOEXEC, 0);
	if (c->fd < 0)
		return err_errno(e, errno, "socket");
	setsockopt(c->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	limit_waits(c->fd);
	if (bind(c->fd, (struct sockaddr *)&a, sizeof a) < 0)
		return err_errno(e, errno, "bind %s", c->text);
	if (c->type == SOCK_STREAM && listen(c->fd, 64) < 0)
		return err_errno(e, errno, "listen");
	return 0;
}

int world_listen(int ns, const char *ip, unsigned port)
{
	struct call c = {.text = ip, .type = SOCK_STREAM, .port = port};
	struct err e = {0};
	must(netns_run(ns, in_bind, &c, &e), &e, "listen");
	return c.fd;
}

int world_udp(int ns, const char *ip, unsigned port)
{
	struct call c = {.text = ip, .type = SOCK_DGRAM, .port = port};
	struct err e = {0};
	must(netns_run(ns, in_bind, &c, &e), &e, "UDP socket");
	return c.fd;
}

static int in_socket(void *arg, struct err *e)
{
	struct call *c = arg;
	c->fd = socket(AF_INET, c->type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	return c->fd < 0 ? err_errno(e, errno, "socket") : 0;
}

int world_connect(int ns, const char *ip, unsigned port, int timeout_ms)
{
	struct call c = {.type = SOCK_STREAM};
	struct err e = {0};
	struct sockaddr_in a = address(ip, port);
	must(netns_run(ns, in_socket, &c, &e), &e, "socket");
	_cleanup_close_ int fd = c.fd;
	if (connect(fd, (struct sockaddr *)&a, sizeof a) < 0 && errno != EINPROGRESS)
		return -errno;
	struct pollfd p = {.fd = fd, .events = POLLOUT};
	if (poll(&p, 1, timeout_ms) == 0)
		return -ETIMEDOUT;
	int err = 0;
	socklen_t len = sizeof err;
	getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len);
	if (err)
		return -err;
	fcntl(fd, F_SETFL, 0);
	limit_waits(fd);
	return TAKE_FD(fd);
}

void world_send(int udp, const char *ip, unsigned port, const char *text)
{
	struct sockaddr_in a = address(ip, port);
	ssize_t n = sendto(udp, text, strlen(text), 0, (struct sockaddr *)&a, sizeof a);
	assert_int_equal(n, strlen(text));
}

void world_expect(int udp, const char *text, struct sockaddr_in *ret_from)
{
	struct pollfd p = {.fd = udp, .events = POLLIN};
	char buf[256];
	struct sockaddr_in from;
	socklen_t len = sizeof from;
	assert_int_equal(poll(&p, 1, ANSWER_MS), 1);
	ssize_t n = recvfrom(udp, buf, sizeof buf - 1, 0, (struct sockaddr *)&from, &len);
	assert_true(n >= 0);
	buf[n] = '\0';
	assert_string_equal(buf, text);
	if (ret_from)
		*ret_from = from;
}

struct sysctl {
	const char *path;
	uint64_t value;
};

static int in_sysctl(void *arg, struct err *e)
{
	struct sysctl *s = arg;
	_cleanup_free_ char *line = NULL;
	int rc = file_read_line(AT_FDCWD, s->path, &line);
	return rc < 0 ? err_errno(e, rc, "%s", s->path) : str_to_u64(line, UINT64_MAX, &s->value);
}

uint64_t world_sysctl(int ns, const char *path)
{
	struct sysctl s = {.path = path};
	struct err e = {0};
	must(netns_run(ns, in_sysctl, &s, &e), &e, path);
	return s.value;
}

static void enter(void)
{
	if (unshare(CLONE_NEWNET | CLONE_NEWNS) < 0 ||
		mount("", "/", "none", MS_REC | MS_PRIVATE, NULL) < 0)
		fail_msg("namespaces for the test: %s", strerror(errno));
}

void world_make(struct world *w)
{
	static const uint8_t mac[2][MAC_SIZE] = {{2, 0, 0, 0, 1, 1}, {2, 0, 0, 0, 1, 2}};
	_cleanup_netlink_ struct netlink *n = NULL;
	struct err e = {0};
	enter();
	snprintf(w->dir, sizeof w->dir, "/tmp/stasis-net-test.XXXXXX");
	assert_non_null(mkdtemp(w->dir));
	w->host = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	w->outside = new_ns();
	must(netlink_open(&n, &e), &e, "netlink");
	netlink_add_veth(n, "pub0", mac[0], "eth0", mac[1], w->outside);
	must(netlink_commit(n, &e), &e, "link to the outside");
	world_sh(w->outside, "ip link set lo up; ip link set eth0 up;"
			     "ip addr add " WORLD_PUBLIC "/30 dev eth0;"
			     "for a in 8.8.8.8 10.99.0.1 172.16.9.9 192.168.77.1 100.64.0.1"
			     " 169.254.169.254 198.18.0.1; do ip addr add $a/32 dev lo; done;"
			     "ip route add default via " WORLD_HOST);
	world_sh(w->host,
		"ip link set lo up; echo 1 >/proc/sys/net/ipv6/conf/pub0/disable_ipv6; ip link set "
		"pub0 up; ip addr add " WORLD_HOST "/30 dev pub0;"
		"ip route add default via " WORLD_PUBLIC ";"
		"for n in 10.99.0.0/16 169.254.169.254; do ip route add $n via " WORLD_PUBLIC
		"; done");
	w->host_listener = world_listen(w->host, "0.0.0.0", WORLD_PORT);
	w->outside_listener = world_listen(w->outside, "0.0.0.0", WORLD_PORT);
}

void world_remove(struct world *w)
{
	close(w->host_listener);
	close(w->outside_listener);
	close(w->outside);
	close(w->host);
	assert_int_equal(file_rm_rf(AT_FDCWD, w->dir), 0);
}

char *world_inventory(const struct world *w)
{
	// Without the counters and states that other traffic changes, and without mounts of others:
	// those that were there when the namespace was made go when their directories do.
	static const char script[] = "ip -o link | cut -d: -f2; ip route show table all;"
				     "ip neigh show nud permanent; nft list tables;"
				     "cut -d' ' -f5- /proc/self/mountinfo | grep -F \"$0\" || :;"
				     "find \"$0\" | sort";
	const char *const argv[] = {"sh", "-ec", script, w->dir, NULL};
	_cleanup_strbuf_ struct strbuf out = {0};
	struct err e = {0};
	must(proc_run(argv, NULL, 0, 30000, &out, &e), &e, "inventory");
	return strbuf_steal(&out);
}

// Guests.

static int in_tap(void *arg, struct err *e)
{
	struct call *c = arg;
	struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
	snprintf(ifr.ifr_name, sizeof ifr.ifr_name, "%s", c->text);
	_cleanup_close_ int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return -errno;
	// Of this thread only, which is why the C library's functions will not do. It ends soon.
	if (c->port && syscall(SYS_setresuid, c->port, c->port, c->port) < 0)
		return -errno;
	if (ioctl(fd, TUNSETIFF, &ifr) < 0)
		return -errno;
	c->fd = TAKE_FD(fd);
	return 0;
}

int guest_open_tap(const struct slot *s, uint32_t uid)
{
	struct call c = {.text = SLOT_TAP_NAME, .port = uid};
	_cleanup_close_ int ns = netns_open(s->netns);
	assert_true(ns >= 0);
	int rc = netns_run(ns, in_tap, &c, NULL);
	return rc < 0 ? rc : c.fd;
}

static int copy_frames(int from, int to)
{
	char frame[70000];
	ssize_t n;
	while ((n = read(from, frame, sizeof frame)) > 0)
		if (write(to, frame, (size_t)n) < 0 && errno != EIO) // EIO: the other end is down
			return -errno;
	return n < 0 && errno != EAGAIN ? -errno : 0;
}

static void *pump_main(void *arg)
{
	struct guest *g = arg;
	for (;;) {
		struct pollfd p[3] = {{.fd = g->eth, .events = POLLIN},
			{.fd = g->tap, .events = POLLIN}, {.fd = g->stop, .events = POLLIN}};
		if (poll(p, 3, -1) < 0 || p[2].revents)
			return NULL;
		if (p[0].revents && copy_frames(g->eth, g->tap) < 0)
			return NULL;
		if (p[1].revents && copy_frames(g->tap, g->eth) < 0)
			return NULL;
	}
}

void guest_make(struct guest *g)
{
	struct err e = {0};
	struct call c = {.text = "eth0"};
	*g = (struct guest){.tap = -1, .stop = -1};
	g->ns = new_ns();
	must(netns_run(g->ns, in_tap, &c, &e), &e, "eth0 of the guest");
	g->eth = c.fd;
	world_sh(g->ns, "ip link set lo up; ip link set eth0 address " SLOT_GUEST_MAC " up;"
			"ip addr add " SLOT_GUEST_IP "/30 dev eth0;"
			"ip route add default via " SLOT_GATEWAY_IP);
	g->listener = world_listen(g->ns, "0.0.0.0", WORLD_PORT);
}

void guest_attach(struct guest *g, const struct slot *s, uint32_t uid)
{
	g->tap = guest_open_tap(s, uid);
	if (g->tap < 0)
		fail_msg("tap of slot %u: %s", s->index, strerror(-g->tap));
	g->stop = eventfd(0, EFD_CLOEXEC);
	assert_int_equal(pthread_create(&g->pump, NULL, pump_main, g), 0);
}

void guest_detach(struct guest *g)
{
	if (g->tap < 0)
		return;
	eventfd_write(g->stop, 1);
	pthread_join(g->pump, NULL);
	g->stop = safe_close(g->stop);
	g->tap = safe_close(g->tap);
}

void guest_remove(struct guest *g)
{
	guest_detach(g);
	close(g->listener);
	close(g->eth);
	close(g->ns);
}
