// SPDX-License-Identifier: Apache-2.0
// The host is asked: about sandboxes, about itself, for metrics. No machine is needed to answer.
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/sysinfo.h>
#include "agentclient/version.h"
#include "base/clock.h"
#include "sandbox/capture/harvest.h"
#include "sandbox/machine/meter.h"
#include "sandbox/machine/source.h"
#include "sandbox/machine/vmm_choice.h"
#include "sandbox/table/disk_size.h"
#include "sandbox/table/space.h"
#include "sandbox/table/store.h"

int host_get(struct host *h, const char *id, struct host_sandbox *ret, struct err *e)
{
	pthread_mutex_lock(&h->lock);
	struct sandbox *s = host_find(h, id);
	if (s && s->hidden)
		s = NULL;
	if (s)
		*ret = s->info;
	pthread_mutex_unlock(&h->lock);
	if (!s)
		return err_set(e, ERR_NOT_FOUND, "no sandbox '%s'", id);
	ret->disk_bytes = disk_size(h, ret);
	return 0;
}

int host_address(struct host *h, const char *id, struct host_place *ret, struct err *e)
{
	int rc = 0;
	pthread_mutex_lock(&h->lock);
	struct sandbox *s = host_find(h, id);
	if (!s)
		rc = err_set(e, ERR_NOT_FOUND, "no sandbox '%s'", id);
	else if (s->info.state != SANDBOX_RUNNING)
		rc = err_set(e, ERR_CONFLICT, "sandbox '%s' is %s", id,
			sandbox_state_name(s->info.state));
	if (rc == 0) {
		snprintf(ret->address, sizeof ret->address, "%s", s->info.address);
		ret->owner_only = agent_is_owner_only(s->info.agent);
	}
	pthread_mutex_unlock(&h->lock);
	return rc;
}

int host_list(struct host *h, struct host_sandbox **ret, size_t *ret_n, struct err *e)
{
	pthread_mutex_lock(&h->lock);
	size_t n = 0;
	struct host_sandbox *list = calloc(h->n_sandboxes + 1u, sizeof *list);
	for (const struct sandbox *s = NULL; list && (s = host_next(h, s));)
		if (s->info.state != SANDBOX_STOPPED && !s->hidden)
			list[n++] = s->info;
	pthread_mutex_unlock(&h->lock);
	if (!list)
		return err_errno(e, ENOMEM, "list of sandboxes");
	for (size_t i = 0; i < n; i++)
		list[i].disk_bytes = disk_size(h, &list[i]);
	*ret = list;
	*ret_n = n;
	return 0;
}

int host_snapshot_check(
	struct host *h, const char *snapshot, struct host_snapshot_check *ret, struct err *e)
{
	struct err local = {0};
	return source_check(h, snapshot, ret, e ? e : &local);
}

int host_open_log(struct host *h, const char *id, int *ret_fd, struct err *e)
{
	char path[512];
	if (!id_is_sandbox(id) || host_disk_path(h, id, "console.log", path) < 0)
		return err_set(e, ERR_NOT_FOUND, "no sandbox '%s'", id);
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return err_set(e, ERR_NOT_FOUND, "no console log of sandbox '%s'", id);
	*ret_fd = fd;
	return 0;
}

int host_events(struct host *h, uint64_t after, size_t max, int wait_ms, struct host_event **ret,
	size_t *ret_n, struct err *e)
{
	uint64_t until = deadline_in_ms(wait_ms);
	pthread_mutex_lock(&h->event_lock);
	while (wait_ms > 0 && h->last_event <= after && !h->closing)
		if (cond_wait_until(&h->event_added, &h->event_lock, until) < 0)
			break;
	bool closing = h->closing;
	pthread_mutex_unlock(&h->event_lock);
	if (closing)
		return err_set(e, ERR_UNAVAILABLE, "the server is stopping");
	return store_events(h, MIN(after, (uint64_t)INT64_MAX), max, ret, ret_n, e);
}

int host_ack_events(struct host *h, uint64_t upto, struct err *e)
{
	pthread_mutex_lock(&h->event_lock);
	uint64_t last = h->last_event;
	pthread_mutex_unlock(&h->event_lock);
	if (upto > last)
		return err_set(e, ERR_INVALID,
			"event %" PRIu64 " is yet to come: the last is %" PRIu64, upto, last);
	return store_ack(h, upto, e);
}

static bool volume_ok(struct host *h, char *reason, size_t size)
{
	struct volume_info v;
	struct err e = {0};
	if (volume_open(h->data_dir, &v, &e) == 0)
		return true;
	snprintf(reason, size, "%s", e.text);
	return false;
}

int host_info(struct host *h, struct host_info *ret, struct err *e)
{
	struct host_info i = {0};
	struct space space;
	struct sysinfo si;
	snprintf(i.version, sizeof i.version, "%s", STASIS_VERSION);
	snprintf(i.vmm, sizeof i.vmm, "%s", h->vmm->version);
	snprintf(i.isolation, sizeof i.isolation, "%s", h->vmm->kvm ? "kvm" : "emulated");
	snprintf(i.journal_id, sizeof i.journal_id, "%s", h->journal_id);
	pthread_mutex_lock(&h->event_lock);
	i.last_event = h->last_event;
	pthread_mutex_unlock(&h->event_lock);
	i.cpus = (unsigned)get_nprocs();
	i.max_sandboxes = h->max_sandboxes;
	i.volume_ok = volume_ok(h, i.volume_reason, sizeof i.volume_reason);
	if (sysinfo(&si) == 0)
		i.memory_mb = (uint64_t)si.totalram * si.mem_unit >> 20;
	space_read(h, &space);
	i.disk_total = space.now.total;
	i.disk_free = space.now.free;
	i.disk_free_inodes = space.now.free_inodes;
	i.disk_reserve = space.reserve;
	i.pause_bytes = space.pause_bytes;
	snprintf(i.disk_state, sizeof i.disk_state, "%s", space_level_name(space.level));
	slot_pool_stats(h->slots, &i.slots_ready, &i.slots_taken);
	pthread_mutex_lock(&h->lock);
	for (const struct sandbox *s = NULL; (s = host_next(h, s));)
		i.running += s->info.state == SANDBOX_RUNNING;
	pthread_mutex_unlock(&h->lock);
	*ret = i;
	return 0;
}

struct reading {
	const char *name, *type, *help;
	uint64_t value;
};

static void print_readings(const struct reading *list, size_t n, struct strbuf *out)
{
	for (size_t i = 0; i < n; i++)
		strbuf_addf(out, "# HELP %s %s\n# TYPE %s %s\n%s %" PRIu64 "\n", list[i].name,
			list[i].help, list[i].name, list[i].type, list[i].name, list[i].value);
}

static void print_counts(struct host *h, struct pager_figures *ret_pager, struct strbuf *out)
{
	pthread_mutex_lock(&h->lock);
	const struct reading list[] = {
		{"stasis_host_creates_total", "counter", "Sandboxes made.", h->creates},
		{"stasis_host_create_failures_total", "counter", "Creates that failed.",
			h->create_failures},
		{"stasis_host_destroys_total", "counter", "Sandboxes ended by a call.",
			h->destroys},
		{"stasis_host_guest_ends_total", "counter", "Sandboxes that ended otherwise.",
			h->guest_ends},
		{"stasis_host_guest_oom_kills_total", "counter",
			"Programs that guests killed for lack of memory.", h->oom_kills},
		{"stasis_host_pauses_total", "counter", "Pauses, by calls and time-outs.",
			h->pauses},
		{"stasis_host_resumes_total", "counter", "Resumes.", h->resumes},
		{"stasis_host_forks_total", "counter", "Forks.", h->forks},
		{"stasis_host_memory_written_bytes_total", "counter",
			"Memory that VMMs wrote for snapshots.", h->memory_written},
		{"stasis_host_memory_kept_bytes_total", "counter",
			"What of it had changed, and was kept.", h->memory_kept},
	};
	*ret_pager = h->pager;
	pthread_mutex_unlock(&h->lock);
	print_readings(list, ARRAY_SIZE(list), out);
}

static void print_state(struct host *h, const struct host_info *i, struct strbuf *out)
{
	unsigned freeing = 0;
	pthread_mutex_lock(&h->lock);
	for (const struct sandbox *s = NULL; (s = host_next(h, s));)
		freeing += s->freeing;
	pthread_mutex_unlock(&h->lock);
	const struct reading list[] = {
		{"stasis_host_slots_ready", "gauge", "Network slots made ahead.", i->slots_ready},
		{"stasis_host_slots_taken", "gauge", "Network slots of sandboxes.", i->slots_taken},
		{"stasis_host_max_sandboxes", "gauge", "The setting max_sandboxes.",
			i->max_sandboxes},
		{"stasis_host_disk_bytes", "gauge", "Size of the data volume.", i->disk_total},
		{"stasis_host_disk_free_bytes", "gauge", "Free on the data volume.", i->disk_free},
		{"stasis_host_disk_free_inodes", "gauge", "Free inodes of the data volume.",
			i->disk_free_inodes},
		{"stasis_host_disk_reserve_bytes", "gauge", "Kept free for pauses.",
			i->disk_reserve},
		{"stasis_host_disk_low", "gauge", "1: nothing new is started for lack of disk.",
			str_eq(i->disk_state, space_level_name(SPACE_LOW))},
		{"stasis_host_pause_bytes", "gauge", "What a pause of all that runs would need.",
			i->pause_bytes},
		{"stasis_host_freeing", "gauge",
			"Ended sandboxes whose processes or files are "
			"not gone yet.",
			freeing},
		{"stasis_host_damaged_headers", "gauge",
			"Snapshots whose memory's header cannot be read.", h->damaged},
		{"stasis_host_volume_ok", "gauge", "0: the data volume is absent.", i->volume_ok},
	};
	print_readings(list, ARRAY_SIZE(list), out);
}

static void print_unknown(struct host *h, struct strbuf *out)
{
	static const char *const kinds[UNKNOWN_KINDS] = {"shim", "sandbox", "snapshot", "layer"};
	unsigned unknown[UNKNOWN_KINDS] = {0};
	pthread_mutex_lock(&h->lock);
	for (size_t k = 0; k < h->n_unknown; k++)
		unknown[h->unknown[k].kind]++;
	pthread_mutex_unlock(&h->lock);
	strbuf_adds(out, "# HELP stasis_host_unknown On this machine and in no row.\n"
			 "# TYPE stasis_host_unknown gauge\n");
	for (size_t k = 0; k < UNKNOWN_KINDS; k++)
		strbuf_addf(out, "stasis_host_unknown{kind=\"%s\"} %u\n", kinds[k], unknown[k]);
}

static void print_starts(struct host *h, struct strbuf *out)
{
	unsigned inside;
	size_t in_line;
	gate_count(&h->gate, &inside, &in_line);
	strbuf_addf(out,
		"# HELP stasis_host_starts Machines that come up, and that wait for their turn.\n"
		"# TYPE stasis_host_starts gauge\n"
		"stasis_host_starts{state=\"under_way\"} %u\n"
		"stasis_host_starts{state=\"waiting\"} %zu\n",
		inside, in_line);
}

int host_metrics(struct host *h, struct strbuf *out, struct err *e)
{
	struct host_info i;
	struct pager_figures pager;
	int rc = host_info(h, &i, e);
	if (rc < 0)
		return rc;
	print_counts(h, &pager, out);
	print_state(h, &i, out);
	print_unknown(h, out);
	print_starts(h, out);
	// Pagers tell their figures a while after the start of their sandbox and at its pause.
	harvest_metrics(&pager, out);
	return meter_print(h, out, e);
}
