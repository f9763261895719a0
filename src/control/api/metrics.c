// SPDX-License-Identifier: Apache-2.0
#include "control/api/metrics.h"
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/file.h"
#include "control/api/context.h"
#include "control/api/find.h"
#include "control/api/reply.h"
#include "control/state/audit.h"
#include "control/state/render.h"

static void print_audit(const struct control *c, struct strbuf *out)
{
	const struct audit_counts n = audit_counts(c->audit);
	strbuf_addf(out,
		"# HELP stasis_audit_lines_total Of the audit log.\n"
		"# TYPE stasis_audit_lines_total counter\n"
		"stasis_audit_lines_total %llu\n"
		"# HELP stasis_audit_failed_total Lines that could not be written.\n"
		"# TYPE stasis_audit_failed_total counter\n"
		"stasis_audit_failed_total %llu\n"
		"# HELP stasis_refused_total Calls refused for their key or its quota.\n"
		"# TYPE stasis_refused_total counter\n"
		"stasis_refused_total %llu\n",
		(unsigned long long)n.lines, (unsigned long long)n.failed,
		(unsigned long long)n.refusals);
}

static uint64_t resident_bytes(void)
{
	_cleanup_free_ char *line = NULL;
	if (file_read_line(AT_FDCWD, "/proc/self/statm", &line) < 0)
		return 0;
	const char *second = strchr(line, ' ');
	return second ? strtoull(second, NULL, 10) * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
}

void metrics_get_all(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	_cleanup_strbuf_ struct strbuf out = {0};
	_cleanup_free_ struct host_sandbox *list = NULL;
	size_t n = 0, by_state[SANDBOX_STATE_MAX] = {0};
	struct err e = {0};
	stats_print(c->stats, &out);
	print_audit(c, &out);
	timings_print(c->timings, &out);
	strbuf_adds(&out, "# HELP process_resident_memory_bytes Of the server.\n"
			  "# TYPE process_resident_memory_bytes gauge\n");
	strbuf_addf(
		&out, "process_resident_memory_bytes %llu\n", (unsigned long long)resident_bytes());
	int rc = c->host.ops->list(c->host.host, &list, &n, &e);
	for (size_t i = 0; rc == 0 && i < n; i++)
		by_state[list[i].state]++;
	if (rc == 0)
		strbuf_adds(&out, "# HELP stasis_sandboxes Sandboxes that have not stopped.\n"
				  "# TYPE stasis_sandboxes gauge\n");
	for (int s = 0; rc == 0 && s < SANDBOX_STATE_MAX; s++)
		if (s != SANDBOX_STOPPED)
			strbuf_addf(&out, "stasis_sandboxes{state=\"%s\"} %zu\n",
				sandbox_state_name((enum sandbox_state)s), by_state[s]);
	if (rc == 0)
		rc = c->host.ops->metrics(c->host.host, &out, &e);
	if (rc == 0 && strbuf_check(&out) < 0)
		rc = err_errno(&e, ENOMEM, "metrics");
	if (rc < 0)
		reply_error(r, &e);
	else
		http_reply_data(
			r, 200, "text/plain; version=0.0.4; charset=utf-8", out.data, out.len);
}

static json_t *figures_json(const char *id, const struct host_figures *f)
{
	return json_pack("{s:s, s:s, s:o, s:f, s:I, s:I, s:I, s:I, s:I, s:I}", "id", id, "state",
		sandbox_state_name(f->state), "at", render_time(clock_realtime_ns()), "cpu_seconds",
		(double)f->cpu_us / 1e6, "memory_bytes", (json_int_t)f->memory_bytes, "disk_bytes",
		(json_int_t)f->disk_bytes, "network_received_bytes",
		(json_int_t)f->network_received_bytes, "network_sent_bytes",
		(json_int_t)f->network_sent_bytes, "page_faults", (json_int_t)f->faults,
		"loaded_bytes", (json_int_t)f->loaded_bytes);
}

void metrics_get_one(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	_cleanup_(row_unrefp) struct sandbox_row *row = NULL;
	struct host_figures f = {0};
	struct err e = {0};
	char id[64];
	find_path_id(c, r, id);
	int rc = find_live(c, id, &row, &e);
	if (rc == 0)
		rc = c->host.ops->figures(c->host.host, id, &f, &e);
	if (rc < 0)
		reply_error(r, &e);
	else
		http_reply_json(r, 200, figures_json(id, &f));
}
