// SPDX-License-Identifier: Apache-2.0
// How this works. Guest memory is registered with userfaultfd for asynchronous write-protect, so
// that the kernel keeps one bit per page: written since it was last protected. A page is dirty when
// it is
//
//  WRITTEN                 a bit of a page that does not exist reads as written too, hence
//  and PRESENT or SWAPPED  (only PRESENT would lose every page that was swapped out)
//  and not PFNZERO         the shared zero page: read, never written. The page server gives it
//                          for pages of zeros, unprotected
//  and not FILE            still the memory file's own page (private mapping)
//
// and also when QEMU threw it away (the bitmap kept by ramhook.so): then it is zeros, whatever the
// parent has there. Pages of zeros that the guest wrote are pages like any other.
//
// PAGEMAP_SCAN answers at most 512 regions a call; with longer vectors the kernel was seen to
// repeat regions. It sets the bit back for just the pages that match (PM_SCAN_WP_MATCHING), but
// only where it is given a vector: without one it protects every page, those that do not exist too,
// and then UFFDIO_ZEROPAGE fails there with EEXIST and the guest hangs.
#include "fcqemu/dirty.h"
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include "base/missing.h"

#define REGIONS 512u

#define PM_PRESENT (1ull << 63)
#define PM_SWAPPED (1ull << 62)
#define PM_FILE (1ull << 61)

void dirty_list_done(struct dirty_list *l)
{
	free(l->v);
	*l = (struct dirty_list){0};
}

int dirty_list_add(struct dirty_list *l, uint64_t offset, uint64_t length, bool zero)
{
	struct dirty_range *last = l->n ? &l->v[l->n - 1] : NULL;
	l->bytes += length;
	if (last && last->zero == zero && last->offset + last->length == offset) {
		last->length += length;
		return 0;
	}
	if (l->n == l->cap) {
		size_t cap = l->cap ? l->cap * 2 : 256;
		struct dirty_range *v = reallocarray(l->v, cap, sizeof *v);
		if (!v)
			return -ENOMEM;
		l->v = v;
		l->cap = cap;
	}
	l->v[l->n++] = (struct dirty_range){offset, length, zero};
	return 0;
}

static int open_pagemap(const struct dirty_source *s, struct err *e)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/pagemap", s->pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? err_errno(e, errno, "%s", path) : fd;
}

static struct pm_scan_arg scan_arg(const struct dirty_source *s, bool written)
{
	uint64_t never = PAGE_IS_PFNZERO | (s->file_backed ? PAGE_IS_FILE : 0);
	return (struct pm_scan_arg){
		.size = sizeof(struct pm_scan_arg),
		.start = s->base,
		.end = s->base + s->size,
		.category_inverted = never,
		.category_mask = never | (written ? PAGE_IS_WRITTEN : 0),
		.category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
		.return_mask = PAGE_IS_WRITTEN,
	};
}

// Walks over the pages that match; l NULL: only protects them again.
static int walk(int fd, struct pm_scan_arg a, uint64_t base, struct dirty_list *l, struct err *e)
{
	_cleanup_free_ struct page_region *v = malloc(REGIONS * sizeof *v);
	if (!v)
		return err_errno(e, ENOMEM, "scan of guest memory");
	a.vec = (uintptr_t)v;
	a.vec_len = REGIONS;
	while (a.start < a.end) {
		int n = ioctl(fd, PAGEMAP_SCAN, &a);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_errno(e, errno, "PAGEMAP_SCAN of guest memory");
		for (int i = 0; l && i < n; i++)
			if (dirty_list_add(l, v[i].start - base, v[i].end - v[i].start, false) < 0)
				return err_errno(e, ENOMEM, "scan of guest memory");
		if (a.walk_end <= a.start)
			return err_set(e, ERR_INTERNAL, "PAGEMAP_SCAN does not move on");
		a.start = a.walk_end;
	}
	return 0;
}

// For kernels before 6.7: one 64-bit entry a page. Says nothing about writes.
static int scan_entries(int fd, const struct dirty_source *s, struct dirty_list *l, struct err *e)
{
	enum { BATCH = 16384 };
	uint64_t pages = s->size / DIRTY_PAGE, first = s->base / DIRTY_PAGE;
	_cleanup_free_ uint64_t *entries = malloc(BATCH * sizeof *entries);
	if (!entries)
		return err_errno(e, ENOMEM, "scan of guest memory");
	for (uint64_t at = 0; at < pages;) {
		size_t want = (size_t)MIN(pages - at, (uint64_t)BATCH) * sizeof *entries;
		ssize_t got = pread(fd, entries, want, (off_t)((first + at) * sizeof *entries));
		if (got < (ssize_t)sizeof *entries)
			return err_errno(e, got < 0 ? errno : EIO, "reading the page map");
		uint64_t n = (uint64_t)got / sizeof *entries;
		for (uint64_t i = 0; i < n; i++)
			if (entries[i] & (PM_PRESENT | PM_SWAPPED) && !(entries[i] & PM_FILE) &&
				dirty_list_add(l, (at + i) * DIRTY_PAGE, DIRTY_PAGE, false) < 0)
				return err_errno(e, ENOMEM, "scan of guest memory");
		at += n;
	}
	return 0;
}

static bool scan_forbidden(void)
{
	return getenv("STASIS_NO_PAGEMAP_SCAN") != NULL;
}

static int scan(const struct dirty_source *s, bool written, struct dirty_list *l, struct err *e)
{
	_cleanup_close_ int fd = open_pagemap(s, e);
	if (fd < 0)
		return fd;
	if (!scan_forbidden() && (s->tracking || !written)) {
		int rc = walk(fd, scan_arg(s, written), s->base, l, e);
		l->exact = true;
		if (rc != -ENOTTY && rc != -EINVAL)
			return rc;
	}
	dirty_list_done(l);
	return scan_entries(fd, s, l, e);
}

static bool is_removed(const struct dirty_source *s, uint64_t page)
{
	return s->removed[page / 64] >> (page % 64) & 1;
}

// The removed pages of [from, to) as zeros.
static int add_removed(
	const struct dirty_source *s, uint64_t from, uint64_t to, struct dirty_list *l)
{
	for (uint64_t p = from / DIRTY_PAGE; p < to / DIRTY_PAGE;) {
		if (p % 64 == 0 && !s->removed[p / 64]) {
			p += 64;
			continue;
		}
		if (is_removed(s, p) && dirty_list_add(l, p * DIRTY_PAGE, DIRTY_PAGE, true) < 0)
			return -ENOMEM;
		p++;
	}
	return 0;
}

// Between the ranges that hold data. What was removed and written again is data.
static int merge_removed(const struct dirty_source *s, struct dirty_list *l)
{
	struct dirty_list all = {.exact = l->exact};
	uint64_t at = 0;
	int rc = 0;
	for (size_t i = 0; rc == 0 && i < l->n; i++) {
		rc = add_removed(s, at, l->v[i].offset, &all);
		if (rc == 0)
			rc = dirty_list_add(&all, l->v[i].offset, l->v[i].length, false);
		at = l->v[i].offset + l->v[i].length;
	}
	if (rc == 0)
		rc = add_removed(s, at, s->size, &all);
	if (rc < 0) {
		dirty_list_done(&all);
		return rc;
	}
	dirty_list_done(l);
	*l = all;
	return 0;
}

static bool any_removed(const struct dirty_source *s)
{
	for (uint64_t i = 0; s->removed && i < (s->size / DIRTY_PAGE + 63) / 64; i++)
		if (s->removed[i])
			return true;
	return false;
}

int dirty_scan(const struct dirty_source *s, struct dirty_list *ret, struct err *e)
{
	struct dirty_list l = {0};
	int rc = scan(s, true, &l, e);
	if (rc == 0 && any_removed(s) && (rc = merge_removed(s, &l)) < 0)
		err_errno(e, rc, "scan of guest memory");
	if (rc < 0) {
		dirty_list_done(&l);
		return rc;
	}
	*ret = l;
	return 0;
}

int dirty_scan_touched(const struct dirty_source *s, struct dirty_list *ret, struct err *e)
{
	struct dirty_list l = {0};
	int rc = scan(s, false, &l, e);
	if (rc < 0) {
		dirty_list_done(&l);
		return rc;
	}
	*ret = l;
	return 0;
}

int dirty_reset(const struct dirty_source *s, struct err *e)
{
	if (s->tracking && !scan_forbidden()) {
		_cleanup_close_ int fd = open_pagemap(s, e);
		if (fd < 0)
			return fd;
		struct pm_scan_arg a = scan_arg(s, true);
		a.flags = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC;
		int rc = walk(fd, a, s->base, NULL, e);
		if (rc < 0)
			return rc;
	}
	for (uint64_t i = 0; s->removed && i < (s->size / DIRTY_PAGE + 63) / 64; i++)
		s->removed[i] = 0;
	return 0;
}
