// SPDX-License-Identifier: Apache-2.0
// How this works. A scrape reads /proc/net/dev once for all sandboxes, /proc/<pid>/stat once for
// each process of one that runs (a VMM; fcqemu and QEMU), and asks for the size of one file of
// each. Which processes those are is found out once per start. What was loaded is what the pager
// told last (capture/harvest.h). Nothing is asked of a guest.
#include "sandbox/machine/meter.h"
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>
#include "base/file.h"
#include "sandbox/table/disk_size.h"
#include "shim/shim.h"

// proc_pid_net(5): the namespace of this thread, which is the server's.
#define NET_DEV "/proc/thread-self/net/dev"
#define NET_DEV_MAX (8u << 20)

struct metered {
	struct host_sandbox info;
	struct sandbox_meter meter;
	struct pager_figures pager;
	unsigned slot;
	bool has_slot;
	char host_if[sizeof((struct slot *)0)->host_if];
	struct host_figures f;
};

static uint64_t read_count(const char *host_if, const char *name)
{
	char path[96];
	_cleanup_free_ char *line = NULL;
	snprintf(path, sizeof path, "/sys/class/net/%s/statistics/%s", host_if, name);
	return file_read_line(AT_FDCWD, path, &line) == 0 ? strtoull(line, NULL, 10) : 0;
}

void meter_begin(struct sandbox *s)
{
	s->meter = (struct sandbox_meter){.sent_before = read_count(s->slot.host_if, "rx_bytes"),
		.received_before = read_count(s->slot.host_if, "tx_bytes")};
}

// utime, stime (14, 15; clock ticks) and rss (24; pages) of proc_pid_stat(5). The second field is
// the program's own word, and may have blanks and brackets in it.
static void add_process(int pid, struct host_figures *f)
{
	char path[40];
	unsigned long user = 0, system = 0;
	long pages = 0;
	_cleanup_free_ char *line = NULL;
	snprintf(path, sizeof path, "/proc/%d/stat", pid);
	const char *p = file_read_line(AT_FDCWD, path, &line) == 0 ? strrchr(line, ')') : NULL;
	if (!p ||
		sscanf(p + 1,
			" %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu %*d %*d %*d %*d %*d "
			"%*d %*u %*u %ld",
			&user, &system, &pages) != 3)
		return;
	f->cpu_us += (user + system) * (1000000ull / (uint64_t)sysconf(_SC_CLK_TCK));
	f->memory_bytes += (uint64_t)MAX(pages, 0l) * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void copy_one(struct sandbox *s, struct metered *m)
{
	m->info = s->info;
	m->meter = s->meter;
	m->pager = s->pager_told;
	m->has_slot = s->has_slot;
	m->slot = s->slot.index;
	memcpy(m->host_if, s->slot.host_if, sizeof m->host_if);
}

// Remembers the processes, unless the sandbox has been started anew meanwhile.
static void keep_processes(struct host *h, const struct metered *m)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&h->lock);
	struct sandbox *s = host_find(h, m->info.id);
	if (s && s->info.generation == m->info.generation)
		memcpy(s->meter.pid, m->meter.pid, sizeof s->meter.pid);
}

static void read_one(struct host *h, struct metered *m)
{
	char dir[512];
	m->f.state = m->info.state;
	m->f.faults = m->pager.n[PAGER_FAULTS];
	m->f.loaded_bytes = m->pager.n[PAGER_BYTES];
	m->f.disk_bytes = disk_size(h, &m->info);
	if (m->info.state != SANDBOX_RUNNING)
		return;
	if (!m->meter.pid[0] && host_run_path(h, m->info.id, dir) == 0 &&
		shim_processes(dir, m->meter.pid, ARRAY_SIZE(m->meter.pid)) == 0)
		keep_processes(h, m);
	for (size_t i = 0; i < ARRAY_SIZE(m->meter.pid) && m->meter.pid[i]; i++)
		add_process(m->meter.pid[i], &m->f);
}

// --- network

static uint64_t since(uint64_t now, uint64_t before)
{
	return now > before ? now - before : 0;
}

// "  st3fa9c1-7: bytes packets errs drop fifo frame compressed multicast bytes ...": received, then
// sent, by the host.
static void read_interface(const char *line, struct metered *const *by_slot, size_t n_slots)
{
	char name[32];
	uint64_t received, sent;
	if (sscanf(line, " %31[^: ]: %" SCNu64 " %*u %*u %*u %*u %*u %*u %*u %" SCNu64, name,
		    &received, &sent) != 3)
		return;
	const char *dash = strrchr(name, '-');
	unsigned long index = dash ? strtoul(dash + 1, NULL, 10) : n_slots;
	struct metered *m = index < n_slots ? by_slot[index] : NULL;
	if (!m || !str_eq(m->host_if, name))
		return;
	m->f.network_sent_bytes = since(received, m->meter.sent_before);
	m->f.network_received_bytes = since(sent, m->meter.received_before);
}

static void read_network(struct metered *list, size_t n)
{
	unsigned most = 0;
	for (size_t i = 0; i < n; i++)
		if (list[i].has_slot)
			most = MAX(most, list[i].slot);
	_cleanup_free_ struct metered **by_slot = calloc(most + 1u, sizeof *by_slot);
	_cleanup_strbuf_ struct strbuf text = {0};
	if (!by_slot || file_read(AT_FDCWD, NET_DEV, NET_DEV_MAX, &text) < 0)
		return;
	for (size_t i = 0; i < n; i++)
		if (list[i].has_slot && list[i].info.state == SANDBOX_RUNNING)
			by_slot[list[i].slot] = &list[i];
	for (char *line = text.data, *end; line && *line; line = end) {
		end = strchrnul(line, '\n');
		if (*end)
			*end++ = '\0';
		read_interface(line, by_slot, most + 1u);
	}
}

// --- one

int host_figures(struct host *h, const char *id, struct host_figures *ret, struct err *e)
{
	struct metered m = {0};
	pthread_mutex_lock(&h->lock);
	struct sandbox *s = host_find(h, id);
	bool found = s && !s->hidden && s->info.state != SANDBOX_STOPPED;
	if (found)
		copy_one(s, &m);
	pthread_mutex_unlock(&h->lock);
	if (!found)
		return err_set(e, ERR_NOT_FOUND, "no sandbox '%s'", id);
	read_one(h, &m);
	if (m.info.state == SANDBOX_RUNNING && m.has_slot) {
		m.f.network_sent_bytes =
			since(read_count(m.host_if, "rx_bytes"), m.meter.sent_before);
		m.f.network_received_bytes =
			since(read_count(m.host_if, "tx_bytes"), m.meter.received_before);
	}
	*ret = m.f;
	return 0;
}

// --- all

static const struct {
	const char *name, *type, *help;
	size_t at;     // in struct host_figures
	double divide; // into the unit of the name
} series[] = {
	{"stasis_sandbox_cpu_seconds_total", "counter",
		"CPU time of the VMM, guest and emulation, since the last start or resume.",
		offsetof(struct host_figures, cpu_us), 1e6},
	{"stasis_sandbox_memory_bytes", "gauge",
		"Memory of the host that the VMM has now; pages that it shares count for each.",
		offsetof(struct host_figures, memory_bytes), 1},
	{"stasis_sandbox_disk_bytes", "gauge",
		"Blocks of the sandbox's disk; those that it shares count for each.",
		offsetof(struct host_figures, disk_bytes), 1},
	{"stasis_sandbox_network_received_bytes_total", "counter",
		"What its slot got, since the last start or resume.",
		offsetof(struct host_figures, network_received_bytes), 1},
	{"stasis_sandbox_network_sent_bytes_total", "counter",
		"What its slot sent, since the last start or resume.",
		offsetof(struct host_figures, network_sent_bytes), 1},
	{"stasis_sandbox_page_faults_total", "counter",
		"Page faults that the pager answered since the last resume, as it told last.",
		offsetof(struct host_figures, faults), 1},
	{"stasis_sandbox_loaded_bytes_total", "counter",
		"Memory that the pager loaded since the last resume, as it told last.",
		offsetof(struct host_figures, loaded_bytes), 1},
};

static int collect(struct host *h, struct metered **ret, size_t *ret_n, size_t *ret_left)
{
	size_t n = 0, all = 0;
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&h->lock);
	size_t most = MIN((size_t)h->n_sandboxes, (size_t)h->metrics_sandboxes);
	struct metered *list = calloc(most + 1, sizeof *list);
	if (!list)
		return -ENOMEM;
	for (int running = 1; running >= 0; running--)
		for (struct sandbox *s = NULL; (s = host_next(h, s));) {
			if (s->hidden || s->info.state == SANDBOX_STOPPED ||
				(s->info.state == SANDBOX_RUNNING) != running)
				continue;
			all++;
			if (n < most)
				copy_one(s, &list[n++]);
		}
	*ret = list;
	*ret_n = n;
	*ret_left = all - n;
	return 0;
}

int meter_print(struct host *h, struct strbuf *out, struct err *e)
{
	_cleanup_free_ struct metered *list = NULL;
	size_t n = 0, left = 0;
	int rc = collect(h, &list, &n, &left);
	if (rc < 0)
		return err_errno(e, rc, "metrics");
	for (size_t i = 0; i < n; i++)
		read_one(h, &list[i]);
	read_network(list, n);
	for (size_t k = 0; k < ARRAY_SIZE(series); k++) {
		strbuf_addf(out, "# HELP %s %s\n# TYPE %s %s\n", series[k].name, series[k].help,
			series[k].name, series[k].type);
		for (size_t i = 0; i < n; i++) {
			uint64_t v = *(const uint64_t *)((const char *)&list[i].f + series[k].at);
			strbuf_addf(out, "%s{id=\"%s\",template=\"%s\"} ", series[k].name,
				list[i].info.id, list[i].info.template);
			if (series[k].divide > 1)
				strbuf_addf(out, "%.6f\n", (double)v / series[k].divide);
			else
				strbuf_addf(out, "%" PRIu64 "\n", v);
		}
	}
	strbuf_addf(out,
		"# HELP stasis_sandboxes_left_out Sandboxes that have no lines of their own above: "
		"beyond metrics_sandboxes.\n# TYPE stasis_sandboxes_left_out gauge\n"
		"stasis_sandboxes_left_out %zu\n",
		left);
	return strbuf_check(out);
}
