// SPDX-License-Identifier: Apache-2.0
// What tests do and see inside a machine, and inside a snapshot.
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"
#include "played/played.h"
#include "snapshot/layer.h"
#include "snapshot/merge.h"
#include "snapshot/store.h"

const struct content content_booted = {
	.page = {[0] = 1000, [1] = 1001, [2] = 1002, [3] = 1003, [100] = 1100, [255] = 1255}};

void page_fill(void *page, uint32_t number)
{
	uint32_t *p = page;
	for (unsigned i = 0; i < PLAYED_PAGE / 4; i++)
		p[i] = number ? number * 2654435761u + i * 40503u : 0;
	if (number)
		p[0] = number;
}

uint32_t page_number(const void *page)
{
	static const unsigned char zeros[PLAYED_PAGE];
	unsigned char want[PLAYED_PAGE];
	uint32_t number;
	if (memcmp(page, zeros, PLAYED_PAGE) == 0)
		return 0;
	memcpy(&number, page, sizeof number);
	page_fill(want, number);
	return memcmp(want, page, PLAYED_PAGE) == 0 ? number : UINT32_MAX;
}

static void dir_of(const char *id, char out[512])
{
	snprintf(out, 512, "%s/%s", world.run, id);
}

static bool write_number(int fd, unsigned at, uint32_t number)
{
	unsigned char bytes[PLAYED_PAGE];
	page_fill(bytes, number);
	return pwrite(fd, bytes, sizeof bytes, (off_t)at * PLAYED_PAGE) == sizeof bytes;
}

unsigned page_next_data(int fd, unsigned page)
{
	off_t at = lseek(fd, (off_t)page * PLAYED_PAGE, SEEK_DATA);
	return at < 0 ? UINT32_MAX : (unsigned)(at / PLAYED_PAGE);
}

static bool read_numbers(int fd, uint32_t *ret, unsigned n)
{
	unsigned char bytes[PLAYED_PAGE];
	struct stat st;
	memset(ret, 0, n * sizeof *ret);
	if (fstat(fd, &st) < 0 || st.st_size < (off_t)n * PLAYED_PAGE)
		return false;
	for (unsigned i = page_next_data(fd, 0); i < n; i = page_next_data(fd, i + 1)) {
		if (pread(fd, bytes, sizeof bytes, (off_t)i * PLAYED_PAGE) != sizeof bytes)
			return false;
		ret[i] = page_number(bytes);
	}
	return true;
}

bool guest_goes_on(const char *id)
{
	char dir[512];
	struct machine m;
	dir_of(id, dir);
	return machine_read(dir, &m) == 0 && machine_lives(&m) && m.state == VMM_RUNNING &&
	       m.booted && !m.frozen;
}

bool guest_write(const char *id, unsigned page, uint32_t number)
{
	char dir[512];
	struct machine m;
	dir_of(id, dir);
	if (!guest_goes_on(id) || machine_read(dir, &m) < 0)
		return false;
	_cleanup_close_ int fd = machine_memory(dir, O_RDWR);
	m.dirty[page] = 1;
	return fd >= 0 && write_number(fd, page, number) && machine_write(dir, &m) == 0;
}

bool guest_write_disk(const char *id, unsigned block, uint32_t number)
{
	char dir[512];
	struct machine m;
	dir_of(id, dir);
	if (!guest_goes_on(id) || machine_read(dir, &m) < 0)
		return false;
	_cleanup_close_ int fd = open(m.rootfs, O_RDWR | O_CLOEXEC);
	return fd >= 0 && write_number(fd, block, number);
}

bool guest_read(const char *id, struct content *ret)
{
	char dir[512];
	struct machine m;
	dir_of(id, dir);
	if (machine_read(dir, &m) < 0 || !machine_lives(&m))
		return false;
	_cleanup_close_ int memory = machine_memory(dir, O_RDONLY);
	_cleanup_close_ int disk = open(m.rootfs, O_RDONLY | O_CLOEXEC);
	return memory >= 0 && disk >= 0 && read_numbers(memory, ret->page, PLAYED_PAGES) &&
	       read_numbers(disk, ret->disk, PLAYED_BLOCKS);
}

bool snapshot_content(const char *snapshot, struct content *ret, struct err *e)
{
	struct snapshot_info info;
	_cleanup_(header_freep) struct header *h = NULL;
	char path[512];
	_cleanup_close_ int data = open(world.data, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_close_ int layers = openat(data, "layers", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_close_ int out = memfd_create("content", MFD_CLOEXEC);
	snprintf(path, sizeof path, "snapshots/%s/disk.img", snapshot);
	_cleanup_close_ int disk = openat(data, path, O_RDONLY | O_CLOEXEC);
	if (snapshot_read(data, snapshot, &info, &h, e) < 0 ||
		layer_materialise(h, layers, out, e) < 0)
		return false;
	if (ftruncate(out, (off_t)PLAYED_PAGES * PLAYED_PAGE) < 0 || disk < 0 ||
		!read_numbers(out, ret->page, PLAYED_PAGES) ||
		!read_numbers(disk, ret->disk, PLAYED_BLOCKS)) {
		err_set(e, ERR_INTERNAL, "%s cannot be read", path);
		return false;
	}
	return true;
}

const char *content_differs(const struct content *want, const struct content *is)
{
	static _Thread_local char text[120];
	for (unsigned i = 0; i < PLAYED_PAGES; i++)
		if (want->page[i] != is->page[i]) {
			snprintf(text, sizeof text, "page %u is %u, should be %u", i, is->page[i],
				want->page[i]);
			return text;
		}
	for (unsigned i = 0; i < PLAYED_BLOCKS; i++)
		if (want->disk[i] != is->disk[i]) {
			snprintf(text, sizeof text, "block %u of the disk is %u, should be %u", i,
				is->disk[i], want->disk[i]);
			return text;
		}
	return NULL;
}

bool guest_dns(const char *id, char ret[48])
{
	char dir[512];
	struct machine m;
	dir_of(id, dir);
	if (machine_read(dir, &m) < 0)
		return false;
	memcpy(ret, m.dns, sizeof m.dns);
	return true;
}

bool guest_set_agent(const char *id, const char *instance, const char *token)
{
	char dir[512];
	struct machine m;
	dir_of(id, dir);
	if (machine_read(dir, &m) < 0)
		return false;
	if (instance)
		snprintf(m.instance, sizeof m.instance, "%s", instance);
	snprintf(m.token, sizeof m.token, "%s", token);
	return machine_write(dir, &m) == 0;
}

void guest_crash(const char *id, const char *cause)
{
	char dir[512], path[600];
	struct machine m;
	struct shim_exit x = {.first = "vmm", .at_ns = clock_realtime_ns()};
	dir_of(id, dir);
	if (machine_read(dir, &m) < 0)
		return;
	if (cause) {
		snprintf(x.cause, sizeof x.cause, "%s", cause);
		snprintf(path, sizeof path, "%s/exit", dir);
		_cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
		file_write_full(fd, &x, sizeof x);
	}
	kill(m.pid, SIGKILL);
}
