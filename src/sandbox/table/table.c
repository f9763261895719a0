// SPDX-License-Identifier: Apache-2.0
// The table is a hash table by id; the paths of a sandbox are made here and nowhere else.
#include "sandbox/table/table.h"
#include <fcntl.h>
#include <string.h>
#include "base/clock.h"
#include "base/str.h"
#include "sandbox/table/bells.h"

static size_t bucket_of(const char *id)
{
	uint32_t x = 2166136261u; // FNV-1a
	for (; *id; id++)
		x = (x ^ (unsigned char)*id) * 16777619u;
	return x % HOST_BUCKETS;
}

struct sandbox *host_find(struct host *h, const char *id)
{
	struct sandbox *s = h->buckets[bucket_of(id)];
	while (s && strcmp(s->info.id, id) != 0)
		s = s->next;
	return s;
}

int host_insert(struct host *h, struct sandbox *s)
{
	if (host_find(h, s->info.id))
		return -EEXIST;
	struct sandbox **b = &h->buckets[bucket_of(s->info.id)];
	s->next = *b;
	*b = s;
	h->n_sandboxes++;
	return 0;
}

bool host_is_unknown(const struct host *h, unsigned kind, const char *name)
{
	for (size_t i = 0; i < h->n_unknown; i++)
		if (h->unknown[i].kind == kind && str_eq(h->unknown[i].name, name))
			return true;
	return false;
}

void host_remove(struct host *h, struct sandbox *s)
{
	struct sandbox **p = &h->buckets[bucket_of(s->info.id)];
	while (*p != s)
		p = &(*p)->next;
	*p = s->next;
	h->n_sandboxes--;
	safe_close(s->pidfd);
	refs_release_layers(h->refs, &s->base);
	layer_set_done(&s->base);
	free(s->unsettled);
	free(s);
}

void host_release(struct host *h, struct sandbox *s)
{
	s->operation = NULL;
	s->has_room = false;
	bool lives = s->info.state == SANDBOX_RUNNING || s->info.state == SANDBOX_ERROR || s->held;
	s->wanted = false;
	if (lives && s->pidfd >= 0 && !s->freeing && !s->hidden)
		monitor_watch(h, s);
	monitor_wake(h); // its time may have come meanwhile
	pthread_cond_broadcast(&h->changed);
}

int host_run_path(const struct host *h, const char *id, char out[512])
{
	return str_format(out, 512, "%s/%s", h->run_dir, id);
}

int host_disk_path(const struct host *h, const char *id, const char *file, char out[512])
{
	return str_format(out, 512, "%s/sandboxes/%s%s%s", h->data_dir, id, file ? "/" : "",
		file ? file : "");
}

unsigned host_live(const struct host *h)
{
	unsigned n = 0;
	for (const struct sandbox *s = NULL; (s = host_next(h, s));)
		n += s->starts || s->freeing ||
		     (s->info.state != SANDBOX_STOPPED && s->info.state != SANDBOX_PAUSED);
	return n;
}

struct sandbox *host_next(const struct host *h, const struct sandbox *s)
{
	if (s && s->next)
		return s->next;
	size_t b = s ? bucket_of(s->info.id) + 1 : 0;
	while (b < HOST_BUCKETS && !h->buckets[b])
		b++;
	return b < HOST_BUCKETS ? h->buckets[b] : NULL;
}

int host_open_disk(const struct host *h, const char *id, struct err *e)
{
	char path[512];
	if (host_disk_path(h, id, NULL, path) < 0)
		return err_set(e, ERR_INTERNAL, "data directory path too long");
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? err_errno(e, errno, "%s", path) : fd;
}

void sandbox_set_end(struct sandbox *s, uint64_t ends_at_ns)
{
	uint64_t now = clock_realtime_ns();
	s->info.ends_at_ns = ends_at_ns;
	s->due_ns =
		ends_at_ns ? clock_monotonic_ns() + (ends_at_ns > now ? ends_at_ns - now : 0) : 0;
}
