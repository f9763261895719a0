// SPDX-License-Identifier: Apache-2.0
//
// How this works. The VMM's guest memory is empty at first; touching a missing page puts a message
// into the userfaultfd and the thread to sleep until the page is supplied. One thread here answers.
//
// Order matters in one place. When the VMM gives a range back (MADV_DONTNEED: balloon, free page
// reporting) a REMOVE message comes, and from then on the range is zeros, whatever the image holds.
// The kernel hands out faults before removes, so a fault may be read before the remove that caused
// it. Therefore all messages are taken in first, removes are applied at once, and only then faults
// are answered. A remove that arrives in between makes the copy fail with EAGAIN: the fault stays
// in the queue, the remove is read, the fault is tried again.
//
// Between faults the working set of an earlier run is loaded ahead in chunks, each followed by a
// look at the descriptors, so that a fault never waits for more than one chunk.
//
// A thread that was put to sleep is woken by the copy of its page. If the page is there already
// (EEXIST), it may have come by a chunk, which wakes nobody: it is woken explicitly.
#include "pager/pager.h"
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include "base/clock.h"
#include "base/missing.h"
#include "pager/handshake.h"
#include "pager/image.h"
#include "snapshot/working_set.h"

#define MAX_QUEUE 4096u // a waiting thread has one fault: more than any VM has threads
#define MAX_READ 64u
#define CHUNK (128u * 1024u)
#define MAX_TRIES 64u // before the descriptor is looked at again
#define RETRY_MS 1
#define STUCK_NS (5 * NSEC_PER_SEC) // EAGAIN for so long without a remove: a dead thread of the VMM

struct fault {
	uint64_t address; // of its page
	uint64_t read_ns;
};

// One bit per block.
struct bitmap {
	uint64_t *words;
};

struct prefetch {
	struct working_set_range *ranges; // sorted by offset, apart
	size_t n, at;
	uint64_t done; // bytes of ranges[at]
	uint64_t started_ns;
};

struct pager {
	const struct pager_config *cfg;
	struct image image;
	struct handshake vm;
	int signal_fd, epoll_fd;
	struct bitmap removed, recorded, ahead;
	struct fault queue[MAX_QUEUE];
	size_t queued;
	uint64_t stuck_ns; // since when no page went in and no remove came; 0: not stuck
	struct prefetch prefetch;
	struct working_set record;
	bool recording;
	bool ended; // the VM is gone
	char note[256];
	struct pager_stats stats;
};

static int bitmap_init(struct bitmap *b, uint64_t size)
{
	b->words = calloc(size / SNAPSHOT_BLOCK / 64 + 1, sizeof *b->words);
	return b->words ? 0 : -ENOMEM;
}

static bool bitmap_get(const struct bitmap *b, uint64_t offset)
{
	uint64_t i = offset / SNAPSHOT_BLOCK;
	return b->words[i / 64] >> (i % 64) & 1;
}

static void bitmap_set(struct bitmap *b, uint64_t offset)
{
	uint64_t i = offset / SNAPSHOT_BLOCK;
	b->words[i / 64] |= 1ull << (i % 64);
}

// --- one ioctl

// Supplies len bytes at address, zeros when data is NULL. Returns the bytes supplied, 0 or more, or
// -errno of the block that stopped it.
static int64_t supply(
	struct pager *p, uint64_t address, const uint8_t *data, uint64_t len, bool wake)
{
	if (!data) {
		struct uffdio_zeropage zero = {
			.range = {address, len},
			.mode = wake ? 0 : UFFDIO_ZEROPAGE_MODE_DONTWAKE,
		};
		if (ioctl(p->vm.uffd, UFFDIO_ZEROPAGE, &zero) == 0)
			return (int64_t)len;
		if (zero.zeropage > 0 || errno != EEXIST || !p->vm.map.write_protect)
			return zero.zeropage > 0 ? zero.zeropage : -errno;
		// An absent page that is marked as write-protected takes no zero page, for ever:
		// only a copy goes over the mark (Linux, mfill_atomic_pte_zeropage).
		static const uint8_t zeros[SNAPSHOT_BLOCK];
		return supply(p, address, zeros, SNAPSHOT_BLOCK, wake);
	}
	struct uffdio_copy copy = {
		.dst = address,
		.src = (uintptr_t)data,
		.len = len,
		.mode = (wake ? 0 : UFFDIO_COPY_MODE_DONTWAKE) |
			(p->vm.map.write_protect ? UFFDIO_COPY_MODE_WP : 0),
	};
	if (ioctl(p->vm.uffd, UFFDIO_COPY, &copy) == 0)
		return (int64_t)len;
	return copy.copy > 0 ? copy.copy : -errno;
}

// What cannot be helped by waiting. 0 when the block is to be left alone.
static int judge(struct pager *p, int64_t r, uint64_t address, struct err *e)
{
	if (r == -ENOENT)
		return 0; // unmapped since
	if (r == -ESRCH) {
		p->ended = true;
		return 0;
	}
	return err_errno(e, (int)-r, "supplying the page at %#" PRIx64, address);
}

static int wake(struct pager *p, uint64_t address, struct err *e)
{
	struct uffdio_range range = {address, SNAPSHOT_BLOCK};
	return ioctl(p->vm.uffd, UFFDIO_WAKE, &range) < 0 ? err_errno(e, errno, "UFFDIO_WAKE") : 0;
}

// --- faults

static void record_touch(struct pager *p, uint64_t offset)
{
	if (!p->recording || bitmap_get(&p->recorded, offset))
		return;
	bitmap_set(&p->recorded, offset);
	if (working_set_add(&p->record, offset, 1) < 0)
		p->recording = false; // full: what came first is what matters
}

// 0: answered; -EAGAIN: a remove must be read first; else the error.
static int answer(struct pager *p, const struct fault *f, struct err *e)
{
	const struct region *r = region_at(&p->vm.map, f->address);
	if (!r)
		return err_set(e, ERR_INTERNAL, "fault at %#" PRIx64 ", outside of guest memory",
			f->address);
	uint64_t offset = f->address - r->base + r->offset, len;
	const uint8_t *data = NULL;
	bool removed = bitmap_get(&p->removed, offset);
	int rc = removed ? 0 : image_run(&p->image, offset, SNAPSHOT_BLOCK, &len, &data, e);
	if (rc < 0)
		return rc;
	int64_t n = supply(p, f->address, data, SNAPSHOT_BLOCK, true);
	if (n == -EAGAIN) {
		p->stats.eagain++;
		return -EAGAIN;
	}
	if (n > 0) {
		*(data ? &p->stats.copied_pages : &p->stats.zero_pages) += 1;
	} else if (n == -EEXIST) {
		p->stats.eexist++;
		p->stats.prefetch_hits += bitmap_get(&p->ahead, offset);
		rc = wake(p, f->address, e);
	} else {
		rc = judge(p, n, f->address, e);
		if (rc == 0 && !p->ended)
			rc = wake(p, f->address, e);
	}
	if (rc < 0 || p->ended)
		return rc;
	if (!removed)
		record_touch(p, offset);
	stats_add_latency(&p->stats, clock_monotonic_ns() - f->read_ns);
	return 0;
}

static void apply_remove(struct pager *p, uint64_t start, uint64_t end)
{
	p->stats.removes++;
	for (size_t i = 0; i < p->vm.map.n; i++) {
		const struct region *r = &p->vm.map.regions[i];
		uint64_t from = MAX(start, r->base), to = MIN(end, r->base + r->size);
		for (uint64_t a = from & ~(SNAPSHOT_BLOCK - 1ull); a < to; a += SNAPSHOT_BLOCK) {
			bitmap_set(&p->removed, a - r->base + r->offset);
			p->stats.removed_pages++;
		}
	}
}

static int take_message(struct pager *p, const struct uffd_msg *m, uint64_t now, struct err *e)
{
	if (m->event == UFFD_EVENT_REMOVE) {
		apply_remove(p, m->arg.remove.start, m->arg.remove.end);
		p->stuck_ns = 0;
		return 0;
	}
	if (m->event != UFFD_EVENT_PAGEFAULT)
		return err_set(e, ERR_INTERNAL, "unexpected userfaultfd event %#x", m->event);
	if (m->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP)
		return err_set(e, ERR_INTERNAL,
			"write-protect fault: the VMM must use the asynchronous mode");
	if (p->queued == MAX_QUEUE)
		return err_set(e, ERR_INTERNAL, "more than %u faults at once", MAX_QUEUE);
	p->stats.faults++;
	p->queue[p->queued++] =
		(struct fault){m->arg.pagefault.address & ~(SNAPSHOT_BLOCK - 1ull), now};
	return 0;
}

// Takes in all messages there are. The kernel fills the buffer as far as it can, so a read that
// does not fill it has emptied the descriptor.
static int take_messages(struct pager *p, struct err *e)
{
	struct uffd_msg msgs[MAX_READ];
	ssize_t n;
	do {
		p->stats.reads++;
		n = RETRY_EINTR(read(p->vm.uffd, msgs, sizeof msgs));
		if (n < 0 && errno == EAGAIN)
			return 0;
		if (n <= 0)
			return err_errno(e, n < 0 ? errno : EIO, "reading the userfaultfd");
		uint64_t now = clock_monotonic_ns();
		for (size_t i = 0; i < (size_t)n / sizeof msgs[0]; i++) {
			int r = take_message(p, &msgs[i], now, e);
			if (r < 0)
				return r;
		}
	} while (n == sizeof msgs);
	return 0;
}

// Answers what waits. While a remove is in progress, from before its message until its caller has
// run again, the kernel takes no page (EAGAIN). So between two tries the caller is let run, and
// what it asks next is read. A VM that gives back memory without a pause, on a machine with no core
// to spare, can keep its own faults waiting for as long as it does so; it is not stuck by that.
static int answer_queue(struct pager *p, struct err *e)
{
	size_t done = 0;
	int r = 0;
	for (unsigned tries = 0; done < p->queued && !p->ended;) {
		r = answer(p, &p->queue[done], e);
		if (r == 0) {
			done++;
			p->stuck_ns = 0;
			continue;
		}
		if (r != -EAGAIN || ++tries == MAX_TRIES)
			break;
		sched_yield();
		r = take_messages(p, e);
		if (r < 0)
			break;
	}
	p->queued -= done;
	memmove(p->queue, p->queue + done, p->queued * sizeof *p->queue);
	if (r != -EAGAIN)
		return r;
	uint64_t now = clock_monotonic_ns();
	if (!p->stuck_ns)
		p->stuck_ns = now;
	if (now - p->stuck_ns > STUCK_NS)
		return err_set(e, ERR_INTERNAL,
			"for 5 s the kernel took no page (EAGAIN) and the VM removed none");
	return 0;
}

// --- loading ahead

static int compare_range(const void *a, const void *b)
{
	const struct working_set_range *x = a, *y = b;
	return x->offset < y->offset ? -1 : x->offset > y->offset;
}

// Of the working set the first touches up to the cap, sorted and joined. A set that is not usable
// is left out with a note: the VM runs without it.
static int prefetch_prepare(struct pager *p, uint64_t cap, struct err *e)
{
	struct working_set w;
	struct err reason = {0};
	int r = working_set_read(AT_FDCWD, p->cfg->working_set, p->image.header, &w, &reason);
	if (r == -ENOMEM)
		return err_errno(e, ENOMEM, "working set");
	if (r < 0) {
		snprintf(p->note, sizeof p->note, "working set not used: %s", err_text(&reason, r));
		return 0;
	}
	size_t n = 0;
	for (uint64_t left = cap / SNAPSHOT_BLOCK; n < w.n && left; n++) {
		w.ranges[n].blocks = (uint32_t)MIN(w.ranges[n].blocks, left);
		left -= w.ranges[n].blocks;
		for (uint32_t b = 0; b < w.ranges[n].blocks; b++)
			record_touch(p, w.ranges[n].offset + (uint64_t)b * SNAPSHOT_BLOCK);
	}
	qsort(w.ranges, n, sizeof *w.ranges, compare_range);
	size_t out = 0;
	for (size_t i = 0; i < n; i++) {
		struct working_set_range *last = out ? &w.ranges[out - 1] : NULL;
		uint64_t end = w.ranges[i].offset + (uint64_t)w.ranges[i].blocks * SNAPSHOT_BLOCK;
		uint64_t last_end =
			last ? last->offset + (uint64_t)last->blocks * SNAPSHOT_BLOCK : 0;
		if (!last || w.ranges[i].offset > last_end)
			w.ranges[out++] = w.ranges[i];
		else if (end > last_end)
			last->blocks = (uint32_t)((end - last->offset) / SNAPSHOT_BLOCK);
	}
	p->prefetch.ranges = TAKE_PTR(w.ranges);
	p->prefetch.n = out;
	working_set_done(&w);
	return 0;
}

static bool prefetch_pending(const struct pager *p)
{
	return p->prefetch.at < p->prefetch.n;
}

static void prefetch_advance(struct pager *p, uint64_t len)
{
	struct prefetch *f = &p->prefetch;
	f->done += len;
	if (f->done < (uint64_t)f->ranges[f->at].blocks * SNAPSHOT_BLOCK)
		return;
	f->done = 0;
	if (++f->at == f->n)
		p->stats.prefetch_ns = clock_monotonic_ns() - f->started_ns;
}

// Blocks from offset on, at most max bytes, that may be loaded: up to the next removed one.
static uint64_t not_removed(const struct pager *p, uint64_t offset, uint64_t max)
{
	uint64_t len = 0;
	while (len < max && !bitmap_get(&p->removed, offset + len))
		len += SNAPSHOT_BLOCK;
	return len;
}

static int prefetch_step(struct pager *p, struct err *e)
{
	const struct working_set_range *range = &p->prefetch.ranges[p->prefetch.at];
	uint64_t offset = range->offset + p->prefetch.done;
	uint64_t left = (uint64_t)range->blocks * SNAPSHOT_BLOCK - p->prefetch.done;
	const struct region *r = region_of_offset(&p->vm.map, offset);
	uint64_t address = offset - r->offset + r->base;
	uint64_t len = MIN(MIN(left, (uint64_t)CHUNK), r->offset + r->size - offset);
	const uint8_t *data;
	if (!p->prefetch.started_ns)
		p->prefetch.started_ns = clock_monotonic_ns();
	len = not_removed(p, offset, len);
	if (!len) {
		prefetch_advance(p, SNAPSHOT_BLOCK);
		return 0;
	}
	int rc = image_run(&p->image, offset, len, &len, &data, e);
	if (rc < 0)
		return rc;
	int64_t n = supply(p, address, data, len, false);
	if (n == -EAGAIN)
		return 0; // a remove waits to be read
	if (n > 0) {
		uint64_t pages = (uint64_t)n / SNAPSHOT_BLOCK;
		p->stats.prefetch_pages += pages;
		p->stats.prefetch_zero_pages += data ? 0 : pages;
		for (uint64_t i = 0; i < pages; i++)
			bitmap_set(&p->ahead, offset + i * SNAPSHOT_BLOCK);
		prefetch_advance(p, (uint64_t)n);
		return 0;
	}
	if (n != -EEXIST)
		rc = judge(p, n, address, e);
	prefetch_advance(p, SNAPSHOT_BLOCK);
	return rc;
}

// --- the loop

// Replaced as a whole; not synced, for a pager must not wait for a disk, and both are advice.
static void write_file(struct pager *p, const char *path, const struct strbuf *b)
{
	_cleanup_free_ char *tmp = str_printf("%s.tmp", path);
	if (!tmp || strbuf_check(b) < 0)
		return;
	_cleanup_close_ int fd =
		open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	ssize_t n = fd < 0 ? -1 : RETRY_EINTR(write(fd, b->data, b->len));
	if (n == (ssize_t)b->len && rename(tmp, path) == 0)
		return;
	snprintf(p->note, sizeof p->note, "%s not written: %s", path,
		n < 0 || n == (ssize_t)b->len ? strerror(errno) : "disk full");
	unlink(tmp);
}

static void write_results(struct pager *p)
{
	_cleanup_strbuf_ struct strbuf record = {0}, stats = {0};
	if (p->cfg->record && p->record.size) {
		working_set_encode(&p->record, &record);
		write_file(p, p->cfg->record, &record);
		working_set_done(&p->record); // once; what comes later is not the start's
		p->recording = false;
	}
	if (p->cfg->stats) {
		stats_write(&p->stats, p->note, &stats);
		write_file(p, p->cfg->stats, &stats);
	}
}

// true: end.
static bool take_signal(struct pager *p)
{
	struct signalfd_siginfo si;
	while (read(p->signal_fd, &si, sizeof si) == sizeof si) {
		if (si.ssi_signo != SIGUSR1)
			return true;
		write_results(p);
	}
	return false;
}

// The process that owns the memory is gone when its address space is: asked by supplying a page
// where there is no guest memory, which fails in any case, but then with ESRCH.
static bool memory_is_gone(const struct pager *p)
{
	const struct region *last = &p->vm.map.regions[p->vm.map.n - 1];
	struct uffdio_zeropage zero = {.range = {last->base + last->size, SNAPSHOT_BLOCK}};
	return ioctl(p->vm.uffd, UFFDIO_ZEROPAGE, &zero) < 0 && errno == ESRCH;
}

// The socket or the process of the VMM ended. Old Firecrackers close the socket after the
// hand-shake, and the one who connected may have passed its socket on: so one of the two alone
// proves nothing.
static void peer_event(struct pager *p, int *fd)
{
	char buf[64];
	if (fd == &p->vm.socket && recv(*fd, buf, sizeof buf, MSG_DONTWAIT) > 0)
		return; // nothing is expected, nothing is answered
	*fd = safe_close(*fd);
	if ((p->vm.socket < 0 && p->vm.pidfd < 0) || memory_is_gone(p))
		p->ended = true;
}

static int watch(struct pager *p, int *fd, struct err *e)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.ptr = fd};
	// take_messages empties it. Otherwise each wait would look at it once more.
	if (fd == &p->vm.uffd)
		ev.events |= EPOLLET;
	if (*fd >= 0 && epoll_ctl(p->epoll_fd, EPOLL_CTL_ADD, *fd, &ev) < 0)
		return err_errno(e, errno, "epoll_ctl");
	return 0;
}

static int serve(struct pager *p, struct err *e)
{
	int *const fds[] = {&p->vm.uffd, &p->signal_fd, &p->vm.socket, &p->vm.pidfd};
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
		int r = watch(p, fds[i], e);
		if (r < 0)
			return r;
	}
	while (!p->ended) {
		struct epoll_event events[ARRAY_SIZE(fds)];
		int *peer[ARRAY_SIZE(fds)];
		size_t n_peer = 0;
		p->stats.waits++;
		int n = epoll_wait(p->epoll_fd, events, ARRAY_SIZE(events),
			p->queued	      ? RETRY_MS
			: prefetch_pending(p) ? 0
					      : -1);
		if (n < 0 && errno != EINTR)
			return err_errno(e, errno, "epoll_wait");
		int r = 0;
		for (int i = 0; i < n && r == 0; i++) {
			int *fd = events[i].data.ptr;
			if (fd == &p->signal_fd && take_signal(p))
				return 0;
			if (fd == &p->vm.socket || fd == &p->vm.pidfd)
				peer[n_peer++] = fd;
			if (fd != &p->vm.uffd)
				continue;
			if (events[i].events & ~(uint32_t)EPOLLIN)
				return err_set(
					e, ERR_INTERNAL, "the userfaultfd cannot be waited for");
			r = take_messages(p, e);
		}
		if (r == 0 && p->queued)
			r = answer_queue(p, e);
		else if (r == 0 && prefetch_pending(p))
			r = prefetch_step(p, e);
		if (r < 0)
			return r;
		for (size_t i = 0; i < n_peer; i++)
			peer_event(p, peer[i]);
	}
	return 0;
}

// --- start

static int prepare(struct pager *p, struct err *e)
{
	int r = image_open(p->cfg->header, p->cfg->layers, &p->image, e);
	if (r < 0)
		return r;
	uint64_t size = p->image.header->size, cap = MIN(p->cfg->prefetch_cap, size / 2);
	if (bitmap_init(&p->removed, size) < 0 || bitmap_init(&p->recorded, size) < 0 ||
		bitmap_init(&p->ahead, size) < 0)
		return err_errno(e, ENOMEM, "pager");
	working_set_init(&p->record, p->image.header);
	p->recording = p->cfg->record != NULL;
	return p->cfg->working_set ? prefetch_prepare(p, cap, e) : 0;
}

static int block_signals(sigset_t *set, bool end_signals)
{
	sigemptyset(set);
	sigaddset(set, SIGUSR1);
	if (end_signals) {
		sigaddset(set, SIGTERM);
		sigaddset(set, SIGINT);
	}
	return -pthread_sigmask(SIG_BLOCK, set, NULL);
}

static int start_and_serve(struct pager *p, struct err *e)
{
	_cleanup_close_ int listen_fd = -1;
	sigset_t set;
	// Until the hand-shake is done SIGTERM ends the process as it does any other.
	block_signals(&set, false);
	image_catch_sigbus();
	int r = prepare(p, e);
	if (r == 0)
		r = handshake_listen(p->cfg->socket, &listen_fd, e);
	if (r < 0)
		return r;
	r = handshake_accept(listen_fd, p->cfg->timeout_ms, p->image.header->size, &p->vm, e);
	unlink(p->cfg->socket); // in a jail it may not: the directory is root's by now
	if (r < 0)
		return -EPROTO;
	block_signals(&set, true);
	p->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (p->signal_fd < 0)
		return err_errno(e, errno, "signalfd");
	p->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (p->epoll_fd < 0)
		return err_errno(e, errno, "epoll");
	r = serve(p, e);
	if (r == 0)
		write_results(p);
	return r;
}

int pager_run(const struct pager_config *cfg, struct err *e)
{
	struct pager *p = calloc(1, sizeof *p);
	if (!p)
		return err_errno(e, ENOMEM, "pager");
	p->cfg = cfg;
	p->signal_fd = p->epoll_fd = -1;
	p->vm = (struct handshake){.uffd = -1, .socket = -1, .pidfd = -1};
	int r = start_and_serve(p, e);
	safe_close(p->epoll_fd);
	safe_close(p->signal_fd);
	handshake_done(&p->vm);
	image_close(&p->image);
	working_set_done(&p->record);
	free(p->prefetch.ranges);
	free(p->removed.words);
	free(p->recorded.words);
	free(p->ahead.words);
	free(p);
	return r;
}
