// SPDX-License-Identifier: Apache-2.0
#include "sandbox/table/promise.h"
#include <inttypes.h>
#include <unistd.h>
#include "disk/space.h"

static uint64_t times_percent(uint64_t has, unsigned percent)
{
	return percent && has ? has / 100 * percent + has % 100 * percent / 100 : UINT64_MAX;
}

void promise_limits(struct host *h, struct promise_limits *ret)
{
	struct disk_space now = {0};
	long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	disk_space(h->data_fd, &now); // where that fails nothing is limited by it
	ret->has = (struct promise){.disk_mb = now.total >> 20,
		.memory_mb = pages > 0 ? (uint64_t)pages * (uint64_t)page >> 20 : 0,
		.vcpus = cpus > 0 ? (uint64_t)cpus : 0};
	ret->all = (struct promise){.disk_mb = times_percent(ret->has.disk_mb, h->overcommit_disk),
		.memory_mb = times_percent(ret->has.memory_mb, h->overcommit_memory),
		.vcpus = times_percent(ret->has.vcpus, h->overcommit_vcpus)};
}

struct promise promise_sum(const struct host *h)
{
	struct promise p = {0};
	for (const struct sandbox *s = NULL; (s = host_next(h, s));) {
		if (s->info.state == SANDBOX_STOPPED || s->hidden)
			continue;
		p.disk_mb += s->info.disk_mb;
		if (s->info.state == SANDBOX_PAUSED && !s->starts)
			continue;
		p.memory_mb += s->info.memory_mb;
		p.vcpus += s->info.vcpus;
	}
	return p;
}

struct kind {
	const char *field, *what, *unit, *setting, *remedy;
	enum err_code code;
};

static int check(const struct kind *k, uint64_t one, size_t n, uint64_t sum, uint64_t all,
	uint64_t has, struct err *e)
{
	if (one > all)
		return err_set(e, ERR_INVALID,
			"%s: %" PRIu64 "%s are more than this host may promise to all: %" PRIu64
			"%s, of %" PRIu64 "%s that it has (serve --%s): ask for less",
			k->field, one, k->unit, all, k->unit, has, k->unit, k->setting);
	uint64_t more;
	if (!__builtin_mul_overflow(one, (uint64_t)n, &more) && sum <= all && more <= all - sum)
		return 0;
	return err_set(e, k->code,
		"no %s for %" PRIu64 "%s more: %" PRIu64 "%s are promised to sandboxes and this "
		"host may promise %" PRIu64 "%s (serve --%s): %s",
		k->what, one * n, k->unit, sum, k->unit, all, k->unit, k->setting, k->remedy);
}

int promise_check(const struct host *h, const struct promise_limits *l,
	const struct host_sandbox *one, size_t n, bool new_disk, struct err *e)
{
	static const struct kind
		disk = {"disk_mb", "disk", " MiB", "overcommit-disk",
			"remove sandboxes, also paused ones, or ask for a smaller disk",
			ERR_NO_SPACE},
		memory = {"memory_mb", "memory", " MiB", "overcommit-memory",
			"pause or remove sandboxes, or ask for less", ERR_LIMIT},
		vcpus = {"vcpus", "processors", "", "overcommit-vcpus",
			"pause or remove sandboxes, or ask for fewer", ERR_LIMIT};
	const struct promise sum = promise_sum(h);
	int rc = new_disk ? check(&disk, one->disk_mb, n, sum.disk_mb, l->all.disk_mb,
				    l->has.disk_mb, e)
			  : 0;
	if (rc == 0)
		rc = check(&memory, one->memory_mb, n, sum.memory_mb, l->all.memory_mb,
			l->has.memory_mb, e);
	return rc == 0 ? check(&vcpus, one->vcpus, n, sum.vcpus, l->all.vcpus, l->has.vcpus, e)
		       : rc;
}
