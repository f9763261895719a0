// SPDX-License-Identifier: Apache-2.0
// A thread of its own asks the kernel, since that may take for ever on a broken disk. It works
// piece by piece and looks at the clock in between; who waits for it leaves at the limit in any
// case. One that is still at its piece then, also in a snapshot, ends behind it.
#include "envd/wake/trim.h"
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/lock.h"
#include "base/log.h"
#include "base/str.h"

#define SECTOR 512u
#define THREAD_STACK (64u << 10)
#define FREE_WAIT_MS 1000

struct trim {
	char *path;
	pthread_mutex_t lock;
	pthread_cond_t idle;
	bool busy;	   // a thread is at work
	uint64_t until_ns; // its limit
	uint64_t size;	   // of the device
	uint64_t trimmed;  // by it, bytes
	struct trim_plan plan;
};

// --- the decision

bool trim_plan_begin(struct trim_plan *p, const struct trim_counts *now)
{
	if (p->under_way)
		return true;
	if (now->written < p->since.written) // another device
		*p = (struct trim_plan){.since = *now};
	if (now->written - p->since.written + now->free <= p->since.free + TRIM_WORTH)
		return false;
	*p = (struct trim_plan){.since = *now, .under_way = true};
	return true;
}

bool trim_plan_next(struct trim_plan *p, uint64_t size, uint64_t *ret_start, uint64_t *ret_length)
{
	p->under_way = p->under_way && p->next < size;
	if (!p->under_way)
		return false;
	*ret_start = p->next;
	*ret_length = MIN(TRIM_CHUNK, size - p->next);
	p->next += *ret_length;
	return true;
}

// --- the file system

// A number of /sys/dev/block/M:N/<file>, the words-th of its line.
static int read_sectors(dev_t dev, const char *file, unsigned words, uint64_t *ret)
{
	char name[96];
	_cleanup_free_ char *line = NULL;
	snprintf(name, sizeof name, "/sys/dev/block/%u:%u/%s", major(dev), minor(dev), file);
	int rc = file_read_line(AT_FDCWD, name, &line);
	if (rc < 0)
		return rc;
	char *rest = line, *word = NULL;
	while (words > 0 && (word = strsep(&rest, " \t")))
		words -= *word != '\0';
	uint64_t sectors;
	rc = word ? str_to_u64(word, UINT64_MAX / SECTOR, &sectors) : -EBADMSG;
	if (rc == 0)
		*ret = sectors * SECTOR;
	return rc;
}

// Sectors written are the 7th number of "stat" (Documentation/block/stat.rst).
static int read_counts(const char *path, struct trim_counts *ret)
{
	struct trim_counts c;
	struct stat st;
	struct statvfs fs;
	if (stat(path, &st) < 0 || statvfs(path, &fs) < 0)
		return -errno;
	c.free = (uint64_t)fs.f_bfree * fs.f_frsize;
	int rc = read_sectors(st.st_dev, "stat", 7, &c.written);
	if (rc == 0)
		rc = read_sectors(st.st_dev, "size", 1, &c.size);
	if (rc == 0)
		*ret = c;
	return rc;
}

static int trim_piece(int fd, uint64_t start, uint64_t length, uint64_t *ret_trimmed)
{
	struct fstrim_range r = {.start = start, .len = length, .minlen = TRIM_EXTENT};
	if (ioctl(fd, FITRIM, &r) < 0)
		return -errno;
	*ret_trimmed = r.len;
	return 0;
}

static void *work(void *arg)
{
	struct trim *t = arg;
	uint64_t start, length, trimmed = 0;
	_cleanup_close_ int fd = open(t->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int rc = fd < 0 ? -errno : 0;
	pthread_mutex_lock(&t->lock);
	while (rc == 0 && !deadline_over(t->until_ns) &&
		trim_plan_next(&t->plan, t->size, &start, &length)) {
		pthread_mutex_unlock(&t->lock);
		rc = trim_piece(fd, start, length, &trimmed);
		pthread_mutex_lock(&t->lock);
		if (rc == 0)
			t->trimmed += trimmed;
	}
	// EOPNOTSUPP: neither file system nor disk can; EINVAL: the end of the file system.
	if (rc < 0)
		t->plan.under_way = false;
	if (rc < 0 && rc != -EOPNOTSUPP && rc != -EINVAL)
		log_warn("free space is not discarded error=%s", strerror(-rc));
	t->busy = false;
	pthread_cond_broadcast(&t->idle);
	pthread_mutex_unlock(&t->lock);
	return NULL;
}

static int start_thread(struct trim *t)
{
	pthread_attr_t attr;
	pthread_t thread;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, THREAD_STACK);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	int rc = pthread_create(&thread, &attr, work, t);
	pthread_attr_destroy(&attr);
	return -rc;
}

struct trim *trim_new(const char *path)
{
	struct trim *t = calloc(1, sizeof *t);
	if (!t || !(t->path = strdup(path))) {
		free(t);
		return NULL;
	}
	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->idle, NULL);
	int rc = read_counts(path, &t->plan.since);
	if (rc < 0)
		log_debug("no counts of %s error=%s", path, strerror(-rc));
	return t;
}

struct trim *trim_free(struct trim *t)
{
	if (!t)
		return NULL;
	uint64_t until = deadline_in_ms(FREE_WAIT_MS);
	pthread_mutex_lock(&t->lock);
	t->until_ns = 0;
	while (t->busy && cond_wait_until(&t->idle, &t->lock, until) == 0)
		;
	bool busy = t->busy;
	pthread_mutex_unlock(&t->lock);
	if (busy) // its thread still uses it
		return NULL;
	pthread_mutex_destroy(&t->lock);
	pthread_cond_destroy(&t->idle);
	free(t->path);
	free(t);
	return NULL;
}

uint64_t trim_run(struct trim *t, uint64_t limit_ns)
{
	uint64_t started = clock_monotonic_ns(), took;
	struct trim_counts now;
	if (!t || read_counts(t->path, &now) < 0)
		return 0;
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&t->lock);
	if (t->busy || !trim_plan_begin(&t->plan, &now))
		return 0;
	t->until_ns = started + limit_ns;
	t->size = now.size;
	t->trimmed = 0;
	t->busy = start_thread(t) == 0;
	while (t->busy && cond_wait_until(&t->idle, &t->lock, t->until_ns) == 0)
		;
	took = clock_monotonic_ns() - started;
	const char *rest = t->busy ? " still=busy" : t->plan.under_way ? " rest=next" : "";
	log_info("free space was discarded bytes=%llu ms=%u%s", (unsigned long long)t->trimmed,
		(unsigned)(took / NSEC_PER_MSEC), rest);
	return took;
}
