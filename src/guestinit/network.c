// SPDX-License-Identifier: Apache-2.0
#include "guestinit/network.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <net/route.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include "guestinit/console.h"

static void set_address(struct sockaddr *a, uint32_t address)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = address};
	memcpy(a, &in, sizeof in);
}

static int link_up(int fd, const char *name)
{
	struct ifreq r = {0};
	snprintf(r.ifr_name, sizeof r.ifr_name, "%s", name);
	if (ioctl(fd, SIOCGIFFLAGS, &r) < 0)
		return -errno;
	r.ifr_flags |= IFF_UP;
	return ioctl(fd, SIOCSIFFLAGS, &r) < 0 ? -errno : 0;
}

static int set_up_eth0(int fd, const struct cmdline *c)
{
	struct ifreq r = {.ifr_name = "eth0"};
	set_address(&r.ifr_addr, c->ip);
	if (ioctl(fd, SIOCSIFADDR, &r) < 0)
		return -errno;
	set_address(&r.ifr_netmask, htonl(c->prefix ? ~0u << (32 - c->prefix) : 0));
	if (ioctl(fd, SIOCSIFNETMASK, &r) < 0)
		return -errno;
	int rc = link_up(fd, "eth0");
	struct rtentry route = {.rt_flags = RTF_UP | RTF_GATEWAY};
	set_address(&route.rt_gateway, c->gateway);
	set_address(&route.rt_dst, 0);
	set_address(&route.rt_genmask, 0);
	if (rc == 0 && ioctl(fd, SIOCADDRT, &route) < 0)
		rc = -errno;
	return rc;
}

void network_set_up(const struct cmdline *c)
{
	_cleanup_close_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0) {
		init_say("no network: %s", strerror(errno));
		return;
	}
	link_up(fd, "lo");
	int rc = set_up_eth0(fd, c);
	if (rc < 0)
		init_say("eth0 is not up: %s", strerror(-rc));
}

void network_write_resolv_conf(const struct cmdline *c)
{
	static const char path[] = "/etc/resolv.conf";
	struct stat st;
	if (stat(path, &st) == 0 && (st.st_size > 0 || !S_ISREG(st.st_mode)))
		return;
	unlink(path); // may be a link to a resolver that does not run here
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	for (unsigned i = 0; fd >= 0 && i < c->n_dns; i++)
		dprintf(fd, "nameserver %s\n", inet_ntoa((struct in_addr){c->dns[i]}));
}
