// SPDX-License-Identifier: Apache-2.0
#include "sandbox/table/space.h"
#include "base/lock.h"
#include "base/log.h"
#include "sandbox/table/bells.h"

#define FLOOR (16ull << 20) // that no promise touches: headers, databases

const char *space_level_name(enum space_level l)
{
	static const char *const names[] = {"ok", "warning", "low"};
	return names[l];
}

// Whether there is less than that; a level that was entered for it needs a quarter more to be left.
static bool is_less(uint64_t is, uint64_t than, bool entered)
{
	return is < (entered ? than + than / 4 : than);
}

enum space_level space_judge(enum space_level was, const struct space *s)
{
	bool low = was == SPACE_LOW, warned = was >= SPACE_WARNING;
	uint64_t inodes = disk_inode_reserve(&s->now);
	if (is_less(s->now.free, s->reserve, low) || is_less(s->now.free_inodes, inodes, low))
		return SPACE_LOW;
	if (is_less(s->now.free, 2 * s->reserve, warned) ||
		is_less(s->now.free, s->pause_bytes, warned) ||
		is_less(s->now.free_inodes, 2 * inodes, warned))
		return SPACE_WARNING;
	return SPACE_OK;
}

// Whether a pause of it may come. What starts counts from when it was given the room: by the time
// that it runs another one may have been given the same.
static bool may_pause(const struct sandbox *s)
{
	switch (s->info.state) {
	case SANDBOX_RUNNING:
	case SANDBOX_PAUSING:
		return !s->hidden;
	case SANDBOX_PENDING:
	case SANDBOX_PAUSED: // a resume that has not moved it yet
	case SANDBOX_RESUMING:
		return s->has_room;
	default:
		return false;
	}
}

// Their memory at most: what a pause writes is what the guest has written.
static uint64_t pause_bytes(struct host *h)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&h->lock);
	uint64_t sum = 0;
	for (const struct sandbox *s = NULL; (s = host_next(h, s));)
		if (may_pause(s))
			sum += (uint64_t)s->info.memory_mb << 20;
	return sum;
}

void space_read(struct host *h, struct space *ret)
{
	// First: a pause that ends in between counts twice then, and not as neither.
	struct space s = {.pause_bytes = pause_bytes(h)};
	int rc = disk_space(h->data_fd, &s.now);
	if (rc < 0) { // other calls say so in better words
		log_warn("room of the volume is not known error=%d", rc);
		*ret = s;
		return;
	}
	s.reserve = disk_reserve(&s.now, h->reserve_bytes, h->reserve_percent);
	s.level = space_judge((enum space_level)h->space_level, &s);
	if (atomic_exchange(&h->space_level, (int)s.level) != (int)s.level)
		upkeep_wake(h); // it tells
	*ret = s;
}

static void mib(uint64_t bytes, char out[32])
{
	snprintf(out, 32, "%llu MiB", (unsigned long long)(bytes >> 20));
}

// After what is kept for the pauses of all that runs, in the error's words.
static void pauses_of_others(const struct host *h, const struct space *s, char out[80])
{
	char all[32];
	mib(s->pause_bytes, all);
	out[0] = '\0';
	if (h->pause_room)
		snprintf(out, 80, ", pauses of all that runs up to %s (pause_room)", all);
}

int space_check(struct host *h, const char *what, uint64_t needs, struct err *e)
{
	struct space s;
	char has[32], keeps[32], takes[32], others[80];
	space_read(h, &s);
	mib(s.now.free, has);
	mib(s.reserve, keeps);
	mib(needs, takes);
	pauses_of_others(h, &s, others);
	if (h->pause_room)
		needs += s.pause_bytes;
	static const char remedy[] =
		"'stasis du' shows what its removal frees; or make the volume larger";
	if (s.level == SPACE_LOW && s.now.free_inodes < 2 * disk_inode_reserve(&s.now))
		return err_set(e, ERR_NO_SPACE,
			"no %s while the volume has room for %llu more files only: %s", what,
			(unsigned long long)s.now.free_inodes, remedy);
	if (s.level == SPACE_LOW)
		return err_set(e, ERR_NO_SPACE,
			"no %s while the volume is low: %s are free, and %s are kept for pauses "
			"(serve --disk-reserve): %s",
			what, has, keeps, remedy);
	if (s.now.total && s.now.free < s.reserve + needs)
		return err_set(e, ERR_NO_SPACE,
			"no room on the volume for this %s: it may need %s%s, %s are free, and %s "
			"are kept for pauses (serve --disk-reserve): %s",
			what, takes, others, has, keeps, remedy);
	return 0;
}

int space_start(struct host *h, const char *what, struct sandbox *s, struct err *e)
{
	if (!h->pause_room)
		return space_check(h, what, 0, e);
	_cleanup_unlock_ pthread_mutex_t *one_at_a_time = mutex_lock(&h->space_lock);
	pthread_mutex_lock(&h->lock);
	bool counts = may_pause(s);
	uint64_t needs = counts ? 0 : (uint64_t)s->info.memory_mb << 20;
	pthread_mutex_unlock(&h->lock);
	int rc = space_check(h, what, needs, e);
	pthread_mutex_lock(&h->lock);
	s->has_room |= rc == 0;
	pthread_mutex_unlock(&h->lock);
	return rc;
}

int space_promise(struct host *h, const char *what, uint64_t bytes, struct err *e)
{
	struct space s;
	char has[32], takes[32];
	space_read(h, &s);
	uint64_t promised = atomic_fetch_add(&h->space_promised, bytes);
	if (!s.now.total || s.now.free >= promised + bytes + FLOOR)
		return 0;
	space_give_back(h, bytes);
	mib(s.now.free - MIN(promised, s.now.free), has);
	mib(bytes + FLOOR, takes);
	return err_set(e, ERR_NO_SPACE,
		"no room on the volume for this %s: it may need %s, and %s are free; nothing of "
		"the sandbox is lost. 'stasis du' shows what its removal frees",
		what, takes, has);
}

void space_give_back(struct host *h, uint64_t bytes)
{
	atomic_fetch_sub(&h->space_promised, bytes);
}
