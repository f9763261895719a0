// SPDX-License-Identifier: Apache-2.0
#include "guestinit/console.h"
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <sys/reboot.h>
#include "base/clock.h"

void init_open_console(void)
{
	int fd = open("/dev/console", O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (fd < 0)
		return;
	for (int i = 0; i < 3; i++)
		dup2(fd, i);
	if (fd > 2)
		close(fd);
}

void init_say(const char *fmt, ...)
{
	char text[400];
	uint64_t ms = clock_monotonic_ns() / NSEC_PER_MSEC;
	int n = snprintf(text, sizeof text, "stasis-init: ");
	va_list ap;
	va_start(ap, fmt);
	n += vsnprintf(text + n, sizeof text - (size_t)n, fmt, ap);
	va_end(ap);
	n = MIN(n, (int)sizeof text - 32);
	n += snprintf(text + n, sizeof text - (size_t)n, " (%llu.%03llu s)\n",
		(unsigned long long)ms / 1000, (unsigned long long)ms % 1000);
	if (write(STDOUT_FILENO, text, (size_t)n) < 0) {
		// no console: nobody to tell
	}
}

// Both VMMs take a reset as the guest's end; Firecracker knows no power-off.
void init_halt(void)
{
	sync();
	reboot(RB_AUTOBOOT);
	for (;;)
		pause();
}

void init_die(int errnum, const char *fmt, ...)
{
	char text[300];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	init_say("%s%s%s: powering off", text, errnum ? ": " : "", errnum ? strerror(errnum) : "");
	init_halt();
}
