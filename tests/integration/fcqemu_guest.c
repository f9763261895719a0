// SPDX-License-Identifier: Apache-2.0
// The guest of the fcqemu tests: PID 1 of a tiny initramfs, one static file. It loads the modules
// of /modules/order, says "guest ready", and does what test=... on the kernel command line says. It
// tells what it sees on the console.
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <unistd.h>

static void load_modules(void)
{
	char name[128], path[256];
	FILE *f = fopen("/modules/order", "re");
	while (f && fscanf(f, "%127s", name) == 1) {
		snprintf(path, sizeof path, "/modules/%s", name);
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || syscall(SYS_finit_module, fd, "", 0) < 0)
			printf("module %s: %m\n", name);
		close(fd);
	}
	if (f)
		fclose(f);
}

static void tick(void)
{
	for (unsigned i = 0;; i++) {
		printf("tick %u\n", i);
		usleep(20000);
	}
}

// Tells size and first bytes of each disk; leaves a mark on the first, tells when the second
// changes.
static void disks(void)
{
	char path[] = "/dev/vda", head[17] = "", last[17] = "";
	for (; path[7] <= 'c'; path[7]++) {
		uint64_t size = 0;
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			continue;
		if (ioctl(fd, BLKGETSIZE64, &size) < 0 || pread(fd, head, 16, 0) != 16)
			printf("%s: %m\n", path);
		int ro = -1;
		ioctl(fd, BLKROGET, &ro);
		printf("%s size %llu ro %d head %s\n", path, (unsigned long long)size, ro, head);
		close(fd);
	}
	int fd = open("/dev/vda", O_RDWR | O_SYNC | O_CLOEXEC);
	if (fd < 0 || pwrite(fd, "guest was here", 14, 4096) != 14 || fsync(fd) < 0)
		printf("write: %m\n");
	printf("written\n");
	for (;;) {
		uint64_t size = 0;
		fd = open("/dev/vdb", O_RDONLY | O_CLOEXEC);
		ioctl(fd, BLKFLSBUF, 0);
		if (ioctl(fd, BLKGETSIZE64, &size) == 0 && pread(fd, head, 16, 0) == 16 &&
			strcmp(head, last) != 0)
			printf("vdb now size %llu head %s\n", (unsigned long long)size, head);
		memcpy(last, head, sizeof last);
		close(fd);
		usleep(20000);
	}
}

// Answers datagrams on 169.254.0.21:7.
static void echo(void)
{
	struct ifreq ifr = {.ifr_name = "eth0"};
	struct sockaddr_in *sa = (void *)&ifr.ifr_addr;
	int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	sa->sin_family = AF_INET;
	inet_pton(AF_INET, "169.254.0.21", &sa->sin_addr);
	if (ioctl(s, SIOCSIFADDR, &ifr) < 0)
		printf("address: %m\n");
	ifr.ifr_flags = IFF_UP | IFF_RUNNING;
	if (ioctl(s, SIOCSIFFLAGS, &ifr) < 0 || ioctl(s, SIOCGIFHWADDR, &ifr) < 0)
		printf("up: %m\n");
	const unsigned char *m = (const unsigned char *)ifr.ifr_hwaddr.sa_data;
	printf("mac %02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5]);
	if (ioctl(s, SIOCGIFMTU, &ifr) == 0)
		printf(" mtu %d\n", ifr.ifr_mtu);
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(7)}, from;
	if (bind(s, (struct sockaddr *)&at, sizeof at) < 0)
		printf("bind: %m\n");
	printf("listening\n");
	for (;;) {
		char buf[1500];
		socklen_t len = sizeof from;
		ssize_t n = recvfrom(s, buf, sizeof buf, 0, (struct sockaddr *)&from, &len);
		if (n > 0)
			sendto(s, buf, (size_t)n, 0, (struct sockaddr *)&from, len);
	}
}

// Fills a large part of memory, zeroes some of it again, then changes a page at a time and tells a
// sum over all of it now and then: wrong memory after a restore shows.
static void memory(unsigned mib)
{
	size_t words = ((size_t)mib << 20) / 8, pages = words / 512;
	uint64_t *m =
		mmap(NULL, words * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t x = 88172645463325252ull, sum = 0;
	if (m == MAP_FAILED) {
		printf("mmap: %m\n");
		return;
	}
	for (size_t i = 0; i < words; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		m[i] = x;
		sum += x;
	}
	printf("filled\n");
	for (unsigned step = 0;; step++) {
		size_t page = step * 37ul % pages;
		for (int i = 0; i < 512; i++) {
			uint64_t *w = &m[page * 512 + i];
			sum -= *w;
			*w = step % 2 ? 0 : step + 1;
			sum += *w;
		}
		if (step % 25 == 0) {
			uint64_t now = 0;
			for (size_t i = 0; i < words; i++)
				now += m[i];
			printf("step %u %s\n", step, now == sum ? "right" : "WRONG");
		}
		usleep(2000);
	}
}

int main(void)
{
	char line[4096] = "";
	setvbuf(stdout, NULL, _IOLBF, 0);
	mount("proc", "/proc", "proc", 0, NULL);
	mount("dev", "/dev", "devtmpfs", 0, NULL);
	FILE *f = fopen("/proc/cmdline", "re");
	if (!f || !fgets(line, sizeof line, f))
		printf("no command line\n");
	load_modules();
	printf("guest ready: %s", line);
	const char *test = strstr(line, "test=");
	test = test ? test + 5 : "";
	if (strncmp(test, "poweroff", 8) == 0)
		reboot(RB_POWER_OFF);
	else if (strncmp(test, "reboot", 6) == 0)
		reboot(RB_AUTOBOOT);
	else if (strncmp(test, "disks", 5) == 0)
		disks();
	else if (strncmp(test, "echo", 4) == 0)
		echo();
	else if (strncmp(test, "memory:", 7) == 0)
		memory((unsigned)strtoul(test + 7, NULL, 10));
	else if (strncmp(test, "tick", 4) == 0)
		tick();
	return 1; // the kernel panics
}
