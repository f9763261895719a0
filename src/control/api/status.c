// SPDX-License-Identifier: Apache-2.0
#include "control/api/status.h"
#include "base/embed.h"
#include "control/api/context.h"
#include "control/api/reply.h"
#include "control/api/runtimes.h"
#include "control/state/render.h"

extern const struct embed control_openapi[];

void status_health(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	struct host_info info = {0};
	struct err e = {0};
	const char *reason = NULL;
	if (c->host.ops->info(c->host.host, &info, &e) < 0)
		reason = e.text;
	else if (!info.volume_ok)
		reason = info.volume_reason[0] ? info.volume_reason : "the data volume is absent";
	json_t *j = json_pack(
		"{s:s, s:s}", "status", reason ? "degraded" : "ok", "version", STASIS_VERSION);
	if (reason)
		json_object_set_new(j, "reason", render_text(reason));
	http_reply_json(r, 200, j);
}

void status_host(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	struct host_info i = {0};
	struct err e = {0};
	if (c->host.ops->info(c->host.host, &i, &e) < 0) {
		reply_error(r, &e);
		return;
	}
	http_reply_json(r, 200,
		json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, "
			  "s:I, s:o, s:b, s:o, s:o}",
			"version", i.version, "vmm", i.vmm, "isolation", i.isolation, "cpus",
			(json_int_t)i.cpus, "memory_mb", (json_int_t)i.memory_mb, "running",
			(json_int_t)i.running, "max_sandboxes", (json_int_t)i.max_sandboxes,
			"slots_ready", (json_int_t)i.slots_ready, "slots_taken",
			(json_int_t)i.slots_taken, "disk_total_bytes", (json_int_t)i.disk_total,
			"disk_free_bytes", (json_int_t)i.disk_free, "disk_free_inodes",
			(json_int_t)i.disk_free_inodes, "disk_reserve_bytes",
			(json_int_t)i.disk_reserve, "pause_bytes", (json_int_t)i.pause_bytes,
			"disk_state", render_text(i.disk_state), "volume_ok", i.volume_ok,
			"volume_reason", render_text(i.volume_reason), "kept_runtimes",
			runtimes_kept_json(c)));
}

void status_openapi(struct http_request *r, void *ctx)
{
	http_reply_data(
		r, 200, "application/json", control_openapi[0].data, control_openapi[0].len);
}
