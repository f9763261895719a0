// SPDX-License-Identifier: GPL-2.0-or-later
// Preloaded into QEMU by fcqemu: puts the guest's RAM where fcqemu can track and lazily load it.
//
// How this works. QEMU is told that the machine's memory is a shared memfd, so that its migration
// stream leaves the RAM out (x-ignore-shared). This object recognises the one mmap of that backend
// (shared, writable, of exactly the RAM's size) and maps something else at the same address:
//
//	boot	anonymous private memory, write-protect tracking armed
//	file	a private mapping of the snapshot's memory file (copy on write), tracking armed
//	uffd	anonymous private memory whose missing pages a page server supplies through
//		userfaultfd (Firecracker's hand-shake), tracking armed
//
// Tracking is userfaultfd write-protect in its asynchronous mode: the kernel only notes which pages
// were written, nobody is asked, and PAGEMAP_SCAN reads and resets the notes (src/fcqemu/dirty.c).
// Where the kernel has no such mode (before 6.7) the report says so and the reader falls back.
//
// What the kernel does not note is a page thrown away: QEMU's discards are marked in a bitmap
// shared with fcqemu. Huge and merged pages are refused: the first would make 2 MiB dirty for one
// byte, and both let the kernel turn a page the guest zeroed into the shared zero page, which must
// keep meaning "never written".
//
// Everything arrives in the environment; the outcome is one line on a pipe:
//	STASIS_RAMHOOK=mode:size:report_fd:removed_fd:file_or_socket_fd:control_fd
//	(-1 where there is none)
//	"ok <base> <size> <tracking 0|1>\n" or "error <text>\n"
// A thread then serves the control socket: it writes memory to snapshot files (ramhook.h).
// This object links nothing of ours; any failure ends QEMU with status 99.
//
// The QEMU may be an older release's than the one that this is built on, kept for its snapshots,
// and this object uses the C library of that one: only functions that have long been there, in
// versions of Debian 12's glibc 2.36 at most. So numbers are not read by scanf or strtoul, which
// newer headers make into functions of newer versions (tests/unit/hardening.py).
#undef _FILE_OFFSET_BITS // would turn mmap below into a second mmap64
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "base/missing.h"
#include "fcqemu/heap.h"
#include "fcqemu/ramhook.h"

#define HOOK_EXIT 99
#define PAGE 4096u

// The libc's own functions are what is replaced here, so the state is necessarily global; it is
// written once, by QEMU's main thread, before the guest exists.
static struct {
	char mode[8];
	uint64_t size;
	int report_fd, removed_fd, backend_fd, control_fd;
	char *base;		   // NULL until the mapping was made
	_Atomic uint64_t *removed; // one bit per page; shared with fcqemu
} hook;

// Also needed by the dynamic linker's callers of mmap before the constructor ran.
static void *sys_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off)
{
	return (void *)syscall(SYS_mmap, addr, len, prot, flags, fd, off);
}

static void report(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void report(const char *fmt, ...)
{
	char text[256];
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	if (write(hook.report_fd, text, (size_t)n) != n)
		_exit(HOOK_EXIT);
}

static void fail(const char *what) __attribute__((noreturn));
static void fail(const char *what)
{
	report("error %s: %s\n", what, strerror(errno));
	_exit(HOOK_EXIT);
}

// A decimal number, -1 too, up to a ':' or the end, which is passed over. False: there is none.
static bool take_number(const char **text, int64_t *ret)
{
	const char *p = *text;
	bool minus = *p == '-';
	int64_t n = 0;
	p += minus;
	if (*p < '0' || *p > '9')
		return false;
	for (; *p >= '0' && *p <= '9'; p++) {
		if (n > (INT64_MAX - 9) / 10)
			return false;
		n = n * 10 + (*p - '0');
	}
	if (*p != ':' && *p)
		return false;
	*text = p + (*p == ':');
	*ret = minus ? -n : n;
	return true;
}

static bool parse(const char *text)
{
	int64_t n[5];
	size_t len = strcspn(text, ":");
	if (len >= sizeof hook.mode || text[len] != ':')
		return false;
	memcpy(hook.mode, text, len);
	text += len + 1;
	for (int i = 0; i < 5; i++)
		if (!take_number(&text, &n[i]))
			return false;
	hook.size = (uint64_t)n[0];
	hook.report_fd = (int)n[1];
	hook.removed_fd = (int)n[2];
	hook.backend_fd = (int)n[3];
	hook.control_fd = (int)n[4];
	return !*text && n[0] >= 0;
}

__attribute__((constructor)) static void hook_init(void)
{
	const char *text = getenv("STASIS_RAMHOOK");
	if (!text)
		return; // a program other than the one that was meant
	if (!parse(text)) {
		fprintf(stderr, "ramhook: bad STASIS_RAMHOOK\n");
		_exit(HOOK_EXIT);
	}
	heap_widen();
	unsetenv("STASIS_RAMHOOK");
	unsetenv("LD_PRELOAD");
	const int fds[] = {hook.report_fd, hook.removed_fd, hook.backend_fd, hook.control_fd};
	for (int i = 0; i < 4; i++)
		if (fds[i] >= 0)
			fcntl(fds[i], F_SETFD, FD_CLOEXEC);
}

static int open_userfaultfd(void)
{
	// The device's plain file permission needs no capability; the system call does.
	int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (dev >= 0) {
		int fd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
		close(dev);
		if (fd >= 0)
			return fd;
	}
	return (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
}

static bool enable(int fd, uint64_t features)
{
	struct uffdio_api api = {.api = UFFD_API, .features = features};
	return ioctl(fd, UFFDIO_API, &api) == 0;
}

// Registers the mapping; *ret_tracking tells whether writes are noted. The descriptor stays open
// for QEMU's life: closing it would end the registration.
static int arm(char *base, bool lazy, bool *ret_tracking)
{
	const uint64_t track = UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED |
			       UFFD_FEATURE_PAGEFAULT_FLAG_WP;
	const uint64_t remove = lazy ? UFFD_FEATURE_EVENT_REMOVE : 0;
	bool tracking = true;
	int fd = open_userfaultfd();
	if (fd < 0 && lazy)
		fail("userfaultfd (is /dev/userfaultfd there and ours?)");
	if (fd >= 0 && !enable(fd, track | remove)) {
		tracking = false; // a kernel without the asynchronous mode
		close(fd);
		fd = lazy ? open_userfaultfd() : -1; // a failed UFFDIO_API cannot be tried again
		if (lazy && (fd < 0 || !enable(fd, remove)))
			fail("UFFDIO_API");
	}
	if (fd < 0) {
		*ret_tracking = false;
		return -1;
	}
	struct uffdio_register reg = {
		.range = {(uintptr_t)base, hook.size},
		.mode = (lazy ? UFFDIO_REGISTER_MODE_MISSING : 0) |
			(tracking ? UFFDIO_REGISTER_MODE_WP : 0),
	};
	if (ioctl(fd, UFFDIO_REGISTER, &reg) != 0)
		fail("UFFDIO_REGISTER");
	*ret_tracking = tracking;
	return fd;
}

// Firecracker's hand-shake: one message, a JSON array of the regions and the descriptor. Both
// descriptors stay open, so that end of file on the socket tells the server that QEMU is gone. The
// key write_protect is ours: with it pages must be copied with UFFDIO_COPY_MODE_WP to be clean.
static void hand_over(int uffd, char *base, bool tracking)
{
	char json[256];
	int n = snprintf(json, sizeof json,
		"[{\"base_host_virt_addr\":%" PRIuPTR ",\"size\":%" PRIu64 ",\"offset\":0,"
		"\"page_size\":4096,\"page_size_kib\":4096,\"write_protect\":%s}]",
		(uintptr_t)base, hook.size, tracking ? "true" : "false");
	struct iovec iov = {json, (size_t)n};
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {0};
	struct msghdr msg = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.buf,
		.msg_controllen = sizeof control.buf};
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &uffd, sizeof uffd);
	if (sendmsg(hook.backend_fd, &msg, MSG_NOSIGNAL) != n)
		fail("sending the userfaultfd to the page server");
}

// ---- the control thread

// From a buffer that stays warm, though that is one copy more. Under a hypervisor that keeps page
// tables by software (PVM) the kernel's first touch of each page of user memory costs more than all
// the rest: 64 MiB took 140 ms, now 60. Where hardware does it, some 5 ms are lost.
static int write_range(int fd, uint64_t offset, uint64_t len)
{
	static char buf[1 << 20]; // of the one thread
	while (len) {
		size_t part = len < sizeof buf ? len : sizeof buf;
		memcpy(buf, hook.base + offset, part);
		ssize_t n = pwrite(fd, buf, part, (off_t)offset);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? errno : EIO;
		offset += (uint64_t)n;
		len -= (uint64_t)n;
	}
	return 0;
}

static bool is_zero_page(const char *p)
{
	const uint64_t *w = (const uint64_t *)p;
	uint64_t any = 0;
	for (unsigned i = 0; i < PAGE / sizeof *w && !any; i += 8)
		for (unsigned k = 0; k < 8; k++)
			any |= w[i + k];
	return !any;
}

static int write_nonzero(int fd, uint64_t offset, uint64_t len)
{
	uint64_t end = offset + len;
	while (offset < end) {
		uint64_t from = offset;
		while (offset < end && !is_zero_page(hook.base + offset))
			offset += PAGE;
		int error = write_range(fd, from, offset - from);
		if (error)
			return error;
		while (offset < end && is_zero_page(hook.base + offset))
			offset += PAGE;
	}
	return 0;
}

static int serve_request(const struct hook_request *r, size_t len, int fd)
{
	if (len < offsetof(struct hook_request, ranges) || r->n > HOOK_RANGES_MAX ||
		len != offsetof(struct hook_request, ranges) + r->n * sizeof r->ranges[0] || fd < 0)
		return EBADMSG;
	for (uint32_t i = 0; i < r->n; i++) {
		uint64_t offset = r->ranges[i].offset, n = r->ranges[i].length;
		if (offset % PAGE || n % PAGE || offset > hook.size || n > hook.size - offset)
			return EINVAL;
		int error =
			r->skip_zeros ? write_nonzero(fd, offset, n) : write_range(fd, offset, n);
		if (error)
			return error;
	}
	return 0;
}

static void *serve_control(void *unused)
{
	(void)unused;
	for (;;) {
		struct hook_request r = {0};
		struct iovec iov = {&r, sizeof r};
		union {
			char buf[CMSG_SPACE(sizeof(int))];
			struct cmsghdr align;
		} control = {0};
		struct msghdr msg = {.msg_iov = &iov,
			.msg_iovlen = 1,
			.msg_control = control.buf,
			.msg_controllen = sizeof control.buf};
		ssize_t n = recvmsg(hook.control_fd, &msg, MSG_CMSG_CLOEXEC);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return NULL; // fcqemu has ended, and QEMU is about to
		int fd = -1;
		const struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
		if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
			memcpy(&fd, CMSG_DATA(c), sizeof fd);
		struct hook_reply reply = {.id = r.id, .error = serve_request(&r, (size_t)n, fd)};
		if (fd >= 0)
			close(fd);
		if (send(hook.control_fd, &reply, sizeof reply, MSG_NOSIGNAL) != sizeof reply)
			return NULL;
	}
}

static void start_control(void)
{
	pthread_t thread;
	sigset_t all, old;
	sigfillset(&all); // QEMU's signals are for QEMU's threads
	pthread_sigmask(SIG_SETMASK, &all, &old);
	errno = pthread_create(&thread, NULL, serve_control, NULL);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (errno)
		fail("starting a thread");
	pthread_detach(thread);
}

// ---- guest memory

static void *map_ram(void *addr, int prot, int flags)
{
	bool file = strcmp(hook.mode, "file") == 0, lazy = strcmp(hook.mode, "uffd") == 0;
	flags = (flags & ~MAP_SHARED) | MAP_PRIVATE | MAP_NORESERVE | (file ? 0 : MAP_ANONYMOUS);
	char *p = sys_mmap(addr, hook.size, prot, flags, file ? hook.backend_fd : -1, 0);
	if (p == MAP_FAILED)
		fail("mapping guest memory");
	if (!file && syscall(SYS_madvise, p, hook.size, MADV_NOHUGEPAGE) != 0 && errno != EINVAL)
		fail("madvise");
	if (hook.removed_fd >= 0) {
		size_t len = (hook.size / PAGE + 63) / 64 * 8;
		void *bits =
			sys_mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, hook.removed_fd, 0);
		if (bits == MAP_FAILED)
			fail("mapping the bitmap of removed pages");
		hook.removed = bits;
	}
	bool tracking = false;
	int uffd = arm(p, lazy, &tracking);
	if (lazy)
		hand_over(uffd, p, tracking);
	hook.base = p;
	if (hook.control_fd >= 0)
		start_control();
	report("ok %" PRIuPTR " %" PRIu64 " %d\n", (uintptr_t)p, hook.size, tracking);
	return p;
}

void *mmap64(void *addr, size_t len, int prot, int flags, int fd, off64_t off)
{
	if (hook.size && !hook.base && len == hook.size && fd >= 0 && (flags & MAP_SHARED) &&
		(prot & PROT_WRITE))
		return map_ram(addr, prot, flags);
	return sys_mmap(addr, len, prot, flags, fd, off);
}

void *mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off)
{
	return mmap64(addr, len, prot, flags, fd, off);
}

static void note_removed(const char *addr, size_t len)
{
	uint64_t first = (uint64_t)(addr - hook.base) / PAGE, end = first + (len + PAGE - 1) / PAGE;
	for (uint64_t i = first; hook.removed && i < end; i++)
		hook.removed[i / 64] |= 1ull << (i % 64);
}

int madvise(void *addr, size_t len, int advice)
{
	char *p = addr;
	if (hook.base && p >= hook.base && p < hook.base + hook.size) {
		if (advice == MADV_HUGEPAGE || advice == MADV_MERGEABLE)
			return 0;
		if (advice == MADV_DONTNEED || advice == MADV_REMOVE || advice == MADV_FREE) {
			if (len > (size_t)(hook.base + hook.size - p)) {
				errno = EINVAL;
				return -1;
			}
			// Noted first: a scan between the two sees a superset.
			note_removed(p, len);
			if (strcmp(hook.mode, "file") == 0) {
				memset(p, 0, len); // dropping would bring the file's bytes back
				return 0;
			}
			advice = MADV_DONTNEED;
		}
	}
	return (int)syscall(SYS_madvise, addr, len, advice);
}
