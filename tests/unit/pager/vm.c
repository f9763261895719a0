// SPDX-License-Identifier: Apache-2.0
#include "vm.h"
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include "base/fdpass.h"
#include "base/missing.h"
#include "check.h"

static int new_uffd(uint64_t features)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	struct uffdio_api api = {.api = UFFD_API, .features = features};
	if (fd >= 0 && ioctl(fd, UFFDIO_API, &api) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

bool vm_possible(void)
{
	int fd = new_uffd(UFFD_FEATURE_EVENT_REMOVE);
	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

void vm_init(struct vm *vm, bool write_protect, uint64_t size0, uint64_t size1)
{
	*vm = (struct vm){.size = {size0, size1}, .socket = -1, .write_protect = write_protect};
	vm->uffd = new_uffd(UFFD_FEATURE_EVENT_REMOVE |
			    (write_protect ? UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED |
						     UFFD_FEATURE_PAGEFAULT_FLAG_WP
					   : 0));
	assert_true(vm->uffd >= 0);
	for (int i = 0; i < 2 && vm->size[i]; i++) {
		// A gap behind each, so that the regions do not follow one another.
		uint8_t *p = mmap(NULL, vm->size[i] + (1 << 20), PROT_NONE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		assert_true(p != MAP_FAILED);
		assert_int_equal(mprotect(p, vm->size[i], PROT_READ | PROT_WRITE), 0);
		madvise(p, vm->size[i], MADV_NOHUGEPAGE);
		struct uffdio_register reg = {
			.range = {(uintptr_t)p, vm->size[i]},
			.mode = UFFDIO_REGISTER_MODE_MISSING |
				(write_protect ? UFFDIO_REGISTER_MODE_WP : 0),
		};
		assert_int_equal(ioctl(vm->uffd, UFFDIO_REGISTER, &reg), 0);
		vm->memory[i] = p;
	}
}

void vm_done(struct vm *vm)
{
	// The descriptor first: memory without it reads as zeros instead of waiting for a pager.
	close(vm->uffd);
	if (vm->socket >= 0)
		close(vm->socket);
	for (int i = 0; i < 2 && vm->size[i]; i++)
		munmap(vm->memory[i], vm->size[i] + (1 << 20));
}

uint64_t vm_size(const struct vm *vm)
{
	return vm->size[0] + vm->size[1];
}

uint8_t *vm_at(const struct vm *vm, uint64_t offset)
{
	return offset < vm->size[0] ? vm->memory[0] + offset
				    : vm->memory[1] + (offset - vm->size[0]);
}

void vm_json(const struct vm *vm, char *out, size_t size)
{
	size_t n = (size_t)snprintf(out, size, "[");
	for (int i = 0; i < 2 && vm->size[i]; i++)
		n += (size_t)snprintf(out + n, size - n,
			"%s{\"base_host_virt_addr\":%" PRIuPTR ",\"size\":%" PRIu64
			",\"offset\":%" PRIu64 ",\"page_size\":4096,\"page_size_kib\":4096%s}",
			i ? "," : "", (uintptr_t)vm->memory[i], vm->size[i], i ? vm->size[0] : 0,
			vm->write_protect ? ",\"write_protect\":true" : "");
	snprintf(out + n, size - n, "]");
}

int vm_connect(const char *path)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	snprintf(sa.sun_path, sizeof sa.sun_path, "%s", path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(fd, (const struct sockaddr *)&sa, sizeof sa), 0);
	return fd;
}

void vm_send(int socket, const char *text, size_t len, int fd)
{
	// The pager may have refused already.
	ssize_t n = fdpass_send(socket, text, len, fd, 0);
	if (n < 0)
		assert_int_equal(n, -EPIPE);
}

void vm_hand_over(struct vm *vm, const char *path)
{
	char json[512];
	vm_json(vm, json, sizeof json);
	vm->socket = vm_connect(path);
	vm_send(vm->socket, json, strlen(json), vm->uffd);
}
