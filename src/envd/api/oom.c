// SPDX-License-Identifier: Apache-2.0
#include "envd/api/oom.h"
#include "base/json.h"
#include "base/clock.h"
#include "envd/wake/agent.h"

json_t *oom_json(const struct oom_kill *k, uint64_t count)
{
	char at[32];
	clock_format_rfc3339(k->at_ns, at);
	return json_pack("{s:s, s:i, s:I, s:I, s:I, s:s?, s:s, s:I}", "process", k->comm, "pid",
		(int)k->pid, "uid", (json_int_t)k->uid, "rssBytes", (json_int_t)k->rss_bytes,
		"memoryBytes", (json_int_t)oom_memory_bytes(), "cgroup",
		k->in_cgroup ? k->cgroup : NULL, "at", at, "count", (json_int_t)count);
}

static int take_told(struct oom_watch *w, json_t *body, struct err *e)
{
	uint64_t told = 0, seq = 0;
	const struct json_field fields[] = {{"told", JF_U64, &told}, {"seq", JF_U64, &seq}};
	int rc = json_read_fields(body, fields, ARRAY_SIZE(fields), true, e);
	if (rc == 0 && json_object_get(body, "told"))
		oom_watch_told(w, told, seq);
	return rc;
}

void oom_post(struct http_request *req, void *ctx)
{
	struct agent *a = ctx;
	struct oom_watch *w = process_table_oom(a->processes);
	struct oom_report r;
	struct err e = {0};
	_cleanup_json_ json_t *body = NULL;
	if (http_req_json(req, true, &body, &e) < 0 || take_told(w, body, &e) < 0) {
		http_reply_error(req, &e);
		return;
	}
	oom_watch_report(w, &r);
	json_t *kills = json_array();
	for (size_t i = 0; i < r.n; i++)
		json_array_append_new(kills, oom_json(&r.kills[i], 1));
	http_reply_json(req, 200,
		json_pack("{s:I, s:I, s:I, s:I, s:o}", "total", (json_int_t)r.total, "seq",
			(json_int_t)r.seq, "untold", (json_int_t)r.untold, "memoryBytes",
			(json_int_t)r.memory_bytes, "kills", kills));
}
