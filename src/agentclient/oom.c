// SPDX-License-Identifier: Apache-2.0
#include "agentclient/oom.h"
#include <string.h>
#include "base/printable.h"

#define MAX_BYTES (UINT64_MAX >> 12) // fits what JSON carries, and sums of it

static uint64_t read_number(const json_t *j, const char *name, uint64_t max)
{
	json_int_t v = json_integer_value(json_object_get(j, name));
	return v < 0 ? 0 : MIN((uint64_t)v, max);
}

static void read_text(const json_t *j, const char *name, char *out, size_t size)
{
	const json_t *v = json_object_get(j, name);
	printable_copy(out, size, json_is_string(v) ? json_string_value(v) : "",
		json_is_string(v) ? json_string_length(v) : 0);
}

void oom_read(const json_t *j, struct envd_oom *ret)
{
	*ret = (struct envd_oom){.pid = read_number(j, "pid", INT32_MAX),
		.uid = read_number(j, "uid", UINT32_MAX),
		.rss_bytes = read_number(j, "rssBytes", MAX_BYTES),
		.memory_bytes = read_number(j, "memoryBytes", MAX_BYTES),
		.count = json_is_object(j) ? MAX(read_number(j, "count", OOM_MAX_COUNT), 1u) : 0};
	read_text(j, "process", ret->process, sizeof ret->process);
	read_text(j, "cgroup", ret->cgroup, sizeof ret->cgroup);
	read_text(j, "at", ret->at, sizeof ret->at);
	if (json_is_string(json_object_get(j, "cgroup")) && !ret->cgroup[0])
		snprintf(ret->cgroup, sizeof ret->cgroup, "?");
}

void oom_read_report(const json_t *j, struct envd_oom_report *ret)
{
	size_t i;
	json_t *kill;
	*ret = (struct envd_oom_report){.total = read_number(j, "total", INT64_MAX),
		.untold = read_number(j, "untold", OOM_MAX_COUNT),
		.seq = read_number(j, "seq", INT64_MAX),
		.memory_bytes = read_number(j, "memoryBytes", MAX_BYTES)};
	json_array_foreach (json_object_get(j, "kills"), i, kill)
		if (ret->n < ENVD_OOM_KILLS)
			oom_read(kill, &ret->kills[ret->n++]);
}

json_t *envd_oom_json(const struct envd_oom *o)
{
	return json_pack("{s:s, s:I, s:I, s:I, s:I, s:s?, s:I, s:s}", "process", o->process, "pid",
		(json_int_t)o->pid, "uid", (json_int_t)o->uid, "rss_bytes",
		(json_int_t)o->rss_bytes, "memory_bytes", (json_int_t)o->memory_bytes, "cgroup",
		o->cgroup[0] ? o->cgroup : NULL, "count", (json_int_t)o->count, "at", o->at);
}
