// SPDX-License-Identifier: Apache-2.0
#include "fcqemu/tap.h"
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include "fcqemu/body.h"

int tap_open(const char *name, struct err *e)
{
	// TUNSETIFF would make a missing interface, where it may.
	if (if_nametoindex(name) == 0)
		return err_set(e, ERR_INVALID, "Open tap device failed: no interface %s: " OS_ERROR,
			name, OS_ERROR_OF(errno));
	_cleanup_close_ int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return err_set(e, ERR_INVALID,
			"Open tap device failed: Couldn't open /dev/net/tun: " OS_ERROR,
			OS_ERROR_OF(errno));
	struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
	memccpy(ifr.ifr_name, name, '\0', sizeof ifr.ifr_name - 1);
	if (ioctl(fd, TUNSETIFF, &ifr) < 0)
		return err_set(e, ERR_INVALID,
			"Open tap device failed: Error while creating ifreq structure: " OS_ERROR
			". Invalid "
			"TUN/TAP Backend provided by %s. Check our documentation on setting up the "
			"network devices.",
			OS_ERROR_OF(errno), name);
	return TAKE_FD(fd);
}
