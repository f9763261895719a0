// SPDX-License-Identifier: Apache-2.0
// Plays QEMU for test_dirty.c: maps guest memory as QEMU does, under the real ramhook.so, and does
// to its pages what the test asks for on descriptor 0, one answer each.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "vm_process.h"

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

int main(int argc, char **argv)
{
	size_t size = argc == 2 ? strtoull(argv[1], NULL, 10) : 0;
	int fd = memfd_create("ram", MFD_CLOEXEC);
	if (fd < 0 || ftruncate(fd, (off_t)size) < 0)
		return 1;
	char *ram = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (ram == MAP_FAILED)
		return 1;
	struct vm_command c;
	while (read(0, &c, sizeof c) == sizeof c) {
		char *p = ram + (size_t)c.page * 4096;
		size_t len = (size_t)c.count * 4096;
		int ok = 1;
		if (c.op == 'w')
			memset(p, c.value, len);
		else if (c.op == 'r')
			for (uint32_t i = 0; i < c.count; i++)
				(void)((volatile char *)p)[i * 4096ul];
		else if (c.op == 'd')
			ok = madvise(p, len, MADV_DONTNEED) == 0;
		else if (c.op == 'o')
			ok = syscall(SYS_madvise, p, len, MADV_PAGEOUT) == 0;
		if (write(0, &ok, sizeof ok) != sizeof ok)
			return 1;
	}
	return 0;
}
