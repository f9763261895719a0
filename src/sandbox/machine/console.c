// SPDX-License-Identifier: Apache-2.0
#include "sandbox/machine/console.h"
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include "base/printable.h"
#include "sandbox/table/table.h"

#define LISTEN_READ (1u << 20) // at most, of what is new
#define WORD_MAX 64u	       // a word that was cut by the last look is found by the next

// The agent's line (envd/process/oom.c), whatever the guest's log level, and the kernel's.
static const char *const words[] = {"envd: out of memory: killed", "ut of memory: Killed process"};

static int open_console(struct host *h, const char *id, uint64_t *ret_size)
{
	char path[512];
	struct stat st;
	if (host_disk_path(h, id, "console.log", path) < 0)
		return -EINVAL;
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return fd < 0 ? -errno : -EINVAL;
	*ret_size = (uint64_t)st.st_size;
	return TAKE_FD(fd);
}

void console_tail(struct host *h, const char *id, struct strbuf *ret)
{
	uint64_t size;
	_cleanup_free_ char *raw = malloc(PRINTABLE_TAIL_READ);
	_cleanup_close_ int fd = open_console(h, id, &size);
	if (fd < 0 || !raw)
		return;
	uint64_t from = size > PRINTABLE_TAIL_READ ? size - PRINTABLE_TAIL_READ : 0;
	ssize_t n = pread(fd, raw, PRINTABLE_TAIL_READ, (off_t)from);
	if (n > 0)
		printable_tail(ret, raw, (size_t)n);
}

// The last line with the text of what the console has from there on.
static void find_line(
	struct host *h, const char *id, const char *text, uint64_t least, char *out, size_t size)
{
	uint64_t console;
	size_t len = strlen(text);
	const char *at = NULL;
	_cleanup_free_ char *raw = malloc(PRINTABLE_TAIL_READ);
	_cleanup_close_ int fd = open_console(h, id, &console);
	out[0] = '\0';
	if (fd < 0 || !raw)
		return;
	uint64_t from = console - MIN(console, (uint64_t)PRINTABLE_TAIL_READ);
	// One that was cut meanwhile begins anew.
	from = MAX(from, least <= console ? least : 0);
	ssize_t n = pread(fd, raw, PRINTABLE_TAIL_READ, (off_t)from);
	for (const char *p = raw; n > 0; p++) {
		p = memmem(p, (size_t)(raw + n - p), text, len);
		if (!p)
			break;
		at = p;
	}
	if (!at)
		return;
	const char *begin = memrchr(raw, '\n', (size_t)(at - raw));
	const char *end = memchr(at, '\n', (size_t)(raw + n - at));
	begin = begin ? begin + 1 : raw;
	printable_copy(out, size, begin, (size_t)((end ? end : raw + n) - begin));
}

void console_line(struct host *h, const char *id, const char *text, char *out, size_t size)
{
	find_line(h, id, text, 0, out, size);
}

uint64_t console_size(struct host *h, const char *id)
{
	uint64_t size = 0;
	_cleanup_close_ int fd = open_console(h, id, &size);
	return fd < 0 ? 0 : size;
}

void console_last(struct host *h, const char *id, uint64_t from, char *out, size_t size)
{
	uint64_t console;
	find_line(h, id, "Kernel panic - not syncing", from, out, size);
	_cleanup_free_ char *raw = malloc(PRINTABLE_TAIL_READ);
	_cleanup_close_ int fd = open_console(h, id, &console);
	if (out[0] || fd < 0 || !raw)
		return;
	uint64_t at = console - MIN(console, (uint64_t)PRINTABLE_TAIL_READ);
	at = MAX(at, from <= console ? from : 0);
	ssize_t n = pread(fd, raw, PRINTABLE_TAIL_READ, (off_t)at);
	_cleanup_strbuf_ struct strbuf tail = {0};
	if (n > 0)
		printable_tail(&tail, raw, (size_t)n);
	if (!tail.len)
		return;
	tail.data[tail.len - 1] = '\0'; // each line has its newline
	const char *line = strrchr(tail.data, '\n');
	line = line ? line + 1 : tail.data;
	printable_copy(out, size, line, strlen(line));
}

json_t *console_event(struct host *h, const char *id)
{
	_cleanup_strbuf_ struct strbuf text = {0};
	console_tail(h, id, &text);
	if (!text.len)
		return NULL;
	json_t *lines = json_array();
	for (const char *p = text.data, *end; (end = strchr(p, '\n')); p = end + 1)
		json_array_append_new(lines, json_stringn(p, (size_t)(end - p)));
	return json_pack("{s:o}", "console", lines);
}

bool console_tells_of_kill(struct host *h, const char *id, uint64_t *seen)
{
	char path[512];
	struct stat st;
	uint64_t size;
	if (host_disk_path(h, id, "console.log", path) < 0 || lstat(path, &st) < 0 ||
		(uint64_t)st.st_size == *seen)
		return false;
	_cleanup_close_ int fd = open_console(h, id, &size);
	if (fd < 0)
		return false;
	// Where it is shorter it was cut, and what is in it may be new.
	uint64_t from = size < *seen ? 0 : *seen - MIN(*seen, (uint64_t)WORD_MAX);
	if (size - from > LISTEN_READ)
		from = size - LISTEN_READ;
	size_t len = (size_t)(size - from);
	_cleanup_free_ char *text = malloc(len + 1);
	ssize_t n = text ? pread(fd, text, len, (off_t)from) : -1;
	*seen = size;
	for (size_t i = 0; n > 0 && i < ARRAY_SIZE(words); i++)
		if (memmem(text, (size_t)n, words[i], strlen(words[i])))
			return true;
	return false;
}

// A line that ends so. After a power-off that there is no hardware for, the kernel runs on without
// devices, and complains of that.
static bool tells_of_halt(const char *text, size_t len)
{
	static const char halted[] = "reboot: System halted", off[] = "reboot: Power down";
	while (len && (text[len - 1] == '\n' || text[len - 1] == '\r'))
		len--;
	if (len >= sizeof halted - 1 &&
		memcmp(text + len - (sizeof halted - 1), halted, sizeof halted - 1) == 0)
		return true;
	for (const char *p = text;
		(p = memmem(p, (size_t)(text + len - p), off, sizeof off - 1));) {
		p += sizeof off - 1;
		if (p == text + len || *p == '\n' || *p == '\r')
			return true;
	}
	return false;
}

bool console_tells_of_halt(struct host *h, const char *id, uint64_t *size)
{
	char path[512], tail[4096];
	struct stat st;
	uint64_t is;
	if (host_disk_path(h, id, "console.log", path) < 0 || lstat(path, &st) < 0 ||
		(uint64_t)st.st_size == *size)
		return false;
	_cleanup_close_ int fd = open_console(h, id, &is);
	if (fd < 0)
		return false;
	*size = is;
	ssize_t n = pread(fd, tail, sizeof tail, (off_t)(is - MIN(is, (uint64_t)sizeof tail)));
	return n > 0 && tells_of_halt(tail, (size_t)n);
}
