// SPDX-License-Identifier: Apache-2.0
// How this works. One descriptor in append mode, one write a line, under a lock. Each line has the
// next number. The files of a read are opened under the lock, so that no rotation comes in between,
// and read without it, up to what they had then. A line that a power cut has torn is closed at the
// next start, and passed over by readers.
#include "control/state/audit.h"
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/lock.h"
#include "base/log.h"
#include "base/str.h"

#define TAIL (64u << 10) // in which the last line is looked for
#define REFUSALS_BURST 50u
#define REFUSALS_PER_SEC 10u

struct audit {
	pthread_mutex_t lock;
	char *path;
	int fd;
	uint64_t size, max, next; // next number
	uint64_t first;		  // number of the oldest line that is kept
	uint64_t synced_size;
	uint64_t refill_ns; // CLOCK_MONOTONIC up to which refusals are paid for
	uint64_t told_suppressed;
	struct audit_counts counts;
	uint64_t complained_ns;
};

static uint64_t seq_of(const char *line, size_t len)
{
	_cleanup_json_ json_t *j = json_loadb(line, len, 0, NULL);
	return (uint64_t)json_integer_value(json_object_get(j, "seq"));
}

static int path_of(const struct audit *a, unsigned i, char out[512])
{
	return i ? str_format(out, 512, "%s.%u", a->path, i) : str_format(out, 512, "%s", a->path);
}

// The number of the last whole line of a file, 0 where there is none; *ret_torn: it ends in none.
static uint64_t last_seq(int fd, uint64_t size, bool *ret_torn)
{
	_cleanup_free_ char *text = malloc(TAIL);
	uint64_t from = size > TAIL ? size - TAIL : 0, seq = 0;
	ssize_t n = text ? RETRY_EINTR(pread(fd, text, TAIL, (off_t)from)) : -1;
	*ret_torn = n > 0 && text[n - 1] != '\n';
	for (ssize_t end = n, p = n - 1; n > 0 && p >= 0 && !seq; p--) {
		if (p > 0 && text[p - 1] != '\n')
			continue;
		seq = seq_of(text + p, (size_t)(end - p));
		end = p;
	}
	return seq;
}

static uint64_t first_seq(const char *path)
{
	_cleanup_free_ char *line = NULL;
	uint64_t seq = 0;
	size_t room = 0;
	FILE *f = fopen(path, "re");
	ssize_t n;
	while (f && !seq && (n = getline(&line, &room, f)) > 0)
		seq = seq_of(line, (size_t)n);
	if (f)
		fclose(f);
	return seq;
}

// Of the oldest file that is there.
static void find_first(struct audit *a)
{
	char path[512];
	a->first = 0;
	for (int i = AUDIT_KEEP; i >= 0 && !a->first; i--)
		if (path_of(a, (unsigned)i, path) == 0)
			a->first = first_seq(path);
	if (!a->first)
		a->first = a->next;
}

static int open_file(struct audit *a, bool new, struct err *e)
{
	struct stat st;
	a->fd = open(a->path,
		O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW | (new ? O_EXCL : 0), 0600);
	if (a->fd < 0 || fstat(a->fd, &st) < 0)
		return err_errno(e, errno, "%s", a->path);
	a->size = a->synced_size = (uint64_t)st.st_size;
	return 0;
}

static void go_on(struct audit *a)
{
	char path[512];
	bool torn = false, other;
	uint64_t last = last_seq(a->fd, a->size, &torn);
	for (unsigned i = 1; i <= AUDIT_KEEP && !last; i++) {
		struct stat st;
		_cleanup_close_ int fd =
			path_of(a, i, path) == 0 ? open(path, O_RDONLY | O_CLOEXEC) : -1;
		if (fd >= 0 && fstat(fd, &st) == 0)
			last = last_seq(fd, (uint64_t)st.st_size, &other);
	}
	a->next = last + 1;
	if (torn && write(a->fd, "\n", 1) == 1)
		a->size++;
	find_first(a);
}

int audit_open(const char *dir, uint64_t max_bytes, struct audit **ret, struct err *e)
{
	_cleanup_(audit_closep) struct audit *a = calloc(1, sizeof *a);
	if (!a)
		return err_errno(e, ENOMEM, "audit log");
	a->fd = -1;
	pthread_mutex_init(&a->lock, NULL);
	a->max = max_bytes ? max_bytes : AUDIT_SIZE_DEFAULT;
	if (!(a->path = str_printf("%s/audit.log", dir)))
		return err_errno(e, ENOMEM, "audit log");
	int rc = open_file(a, false, e);
	if (rc < 0)
		return rc;
	go_on(a);
	*ret = TAKE_PTR(a);
	return 0;
}

struct audit *audit_close(struct audit *a)
{
	if (!a)
		return NULL;
	if (a->fd >= 0)
		fdatasync(a->fd);
	safe_close(a->fd);
	pthread_mutex_destroy(&a->lock);
	free(a->path);
	free(a);
	return NULL;
}

// --- writing, with the lock held

static void complain(struct audit *a, const char *what, int errnum)
{
	uint64_t now = clock_monotonic_ns();
	a->counts.failed++;
	if (a->complained_ns && now - a->complained_ns < 60 * NSEC_PER_SEC)
		return;
	a->complained_ns = now;
	log_error("audit log: %s path=%s error=%s", what, a->path, strerror(errnum));
}

// The file is moved aside, the oldest one goes. Where that fails it grows on.
static void rotate(struct audit *a)
{
	char from[512], to[512];
	struct err e = {0};
	for (unsigned i = AUDIT_KEEP; i-- > 0;)
		if (path_of(a, i, from) == 0 && path_of(a, i + 1, to) == 0 &&
			rename(from, to) < 0 && errno != ENOENT)
			complain(a, "cannot be moved aside", errno);
	int old = a->fd;
	if (open_file(a, true, &e) < 0) {
		complain(a, e.text, EIO);
		a->fd = old;
		a->size = 0; // tried again a whole size later
		return;
	}
	fdatasync(old);
	safe_close(old);
	find_first(a);
}

static void write_line(struct audit *a, const char *line, size_t len)
{
	if (a->size && a->size + len > a->max)
		rotate(a);
	ssize_t n = RETRY_EINTR(write(a->fd, line, len));
	if (n == (ssize_t)len) {
		a->size += len;
		a->next++;
		a->counts.lines++;
		return;
	}
	complain(a, "a line is lost", n < 0 ? errno : ENOSPC);
	// Half a line would swallow the next one.
	if (n > 0 && ftruncate(a->fd, (off_t)a->size) < 0 && write(a->fd, "\n", 1) == 1)
		a->size += (uint64_t)n + 1;
}

void audit_write(struct audit *a, json_t *entry)
{
	char at[32];
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&a->lock);
	clock_format_rfc3339(clock_realtime_ns(), at);
	_cleanup_json_ json_t *line = json_pack("{s:I, s:s}", "seq", (json_int_t)a->next, "at", at);
	if (entry && line)
		json_object_update(line, entry);
	json_decref(entry);
	_cleanup_free_ char *text = line ? json_compact(line) : NULL;
	_cleanup_free_ char *whole = text ? str_printf("%s\n", text) : NULL;
	if (whole)
		write_line(a, whole, strlen(whole));
	else
		complain(a, "a line is lost", ENOMEM);
}

bool audit_takes_refusal(struct audit *a, uint64_t *ret_suppressed)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&a->lock);
	uint64_t now = clock_monotonic_ns(), each = NSEC_PER_SEC / REFUSALS_PER_SEC;
	uint64_t next = MAX(a->refill_ns, now) + each;
	a->counts.refusals++;
	if (next > now + REFUSALS_BURST * each) {
		a->counts.suppressed++;
		return false;
	}
	a->refill_ns = next;
	*ret_suppressed = a->counts.suppressed - a->told_suppressed;
	a->told_suppressed = a->counts.suppressed;
	return true;
}

struct audit_counts audit_counts(struct audit *a)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&a->lock);
	return a->counts;
}

void audit_sync(struct audit *a)
{
	pthread_mutex_lock(&a->lock);
	int fd = a->size == a->synced_size ? -1 : fcntl(a->fd, F_DUPFD_CLOEXEC, 3);
	a->synced_size = a->size;
	pthread_mutex_unlock(&a->lock);
	if (fd < 0)
		return;
	fdatasync(fd);
	close(fd);
}

// --- reading

void audit_range(struct audit *a, uint64_t *ret_first, uint64_t *ret_last)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&a->lock);
	*ret_first = a->first;
	*ret_last = a->next - 1;
}

struct reader {
	uint64_t after, since_ns;
	size_t n, max;
	int (*take)(void *ctx, json_t *line);
	void *ctx;
};

static int read_line(struct reader *r, const char *text, size_t len)
{
	uint64_t at = 0;
	_cleanup_json_ json_t *j = json_loadb(text, len, 0, NULL);
	const char *when = json_string_value(json_object_get(j, "at"));
	uint64_t seq = (uint64_t)json_integer_value(json_object_get(j, "seq"));
	if (!j || seq <= r->after ||
		(when && clock_parse_rfc3339(when, &at) == 0 && at < r->since_ns))
		return 0;
	r->n++;
	return r->take(r->ctx, j);
}

static int read_file(struct reader *r, FILE *f, uint64_t size)
{
	_cleanup_free_ char *line = NULL;
	size_t room = 0;
	uint64_t at = 0;
	ssize_t n;
	int rc = 0;
	while (rc == 0 && r->n < r->max && at < size && (n = getline(&line, &room, f)) > 0) {
		at += (uint64_t)n;
		rc = read_line(r, line, (size_t)n);
	}
	return rc;
}

int audit_read(struct audit *a, uint64_t after, uint64_t since_ns, size_t max,
	int (*take)(void *ctx, json_t *line), void *ctx, struct err *e)
{
	struct reader r = {after, since_ns, 0, max, take, ctx};
	FILE *files[AUDIT_KEEP + 1] = {0};
	char path[512];
	pthread_mutex_lock(&a->lock);
	uint64_t size = a->size;
	for (unsigned i = 0; i <= AUDIT_KEEP; i++)
		if (path_of(a, i, path) == 0)
			files[i] = fopen(path, "re");
	pthread_mutex_unlock(&a->lock);
	int rc = 0;
	for (int i = AUDIT_KEEP; i >= 0; i--) {
		if (files[i] && rc == 0)
			rc = read_file(&r, files[i], i == 0 ? size : UINT64_MAX);
		if (files[i])
			fclose(files[i]);
	}
	return rc < 0 ? err_errno(e, rc, "audit log") : 0;
}
