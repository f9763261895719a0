// SPDX-License-Identifier: Apache-2.0
#include "control/state/ended.h"
#include <string.h>
#include "base/str.h"
#include "base/json.h"

char *ended_dump(const struct host_sandbox *s)
{
	_cleanup_json_ json_t *j = json_pack(
		"{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:s, s:s}", "state",
		sandbox_state_name(s->state), "vcpus", (json_int_t)s->vcpus, "memory_mb",
		(json_int_t)s->memory_mb, "disk_mb", (json_int_t)s->disk_mb, "started_ns",
		(json_int_t)s->started_ns, "stopped_ns", (json_int_t)s->stopped_ns, "ends_at_ns",
		(json_int_t)s->ends_at_ns, "generation", (json_int_t)s->generation, "cause",
		s->cause, "detail", s->detail, "dns", s->dns);
	return json_compact(j);
}

int ended_parse(const char *text, struct host_sandbox *ret)
{
	_cleanup_json_ json_t *j = NULL;
	const char *state = "", *cause = "", *detail = "", *dns = "";
	uint64_t vcpus = 0, memory = 0;
	const struct json_field fields[] = {
		{.name = "state", .type = JF_STRING, .out = &state},
		{.name = "vcpus", .type = JF_U64, .out = &vcpus, .max = UINT32_MAX},
		{.name = "memory_mb", .type = JF_U64, .out = &memory, .max = UINT32_MAX},
		{.name = "disk_mb", .type = JF_U64, .out = &ret->disk_mb},
		{.name = "started_ns", .type = JF_U64, .out = &ret->started_ns},
		{.name = "stopped_ns", .type = JF_U64, .out = &ret->stopped_ns},
		{.name = "ends_at_ns", .type = JF_U64, .out = &ret->ends_at_ns},
		{.name = "generation", .type = JF_U64, .out = &ret->generation},
		{.name = "cause", .type = JF_STRING, .out = &cause},
		{.name = "detail", .type = JF_STRING, .out = &detail},
		{.name = "dns", .type = JF_STRING, .out = &dns},
	};
	int r = json_parse_object(text, strlen(text), &j, NULL);
	if (r == 0)
		r = json_read_fields(j, fields, ARRAY_SIZE(fields), true, NULL);
	if (r < 0)
		return r;
	ret->state = sandbox_state_parse(state);
	if (ret->state == SANDBOX_STATE_MAX)
		ret->state = SANDBOX_STOPPED;
	ret->vcpus = (unsigned)vcpus;
	ret->memory_mb = (unsigned)memory;
	snprintf(ret->cause, sizeof ret->cause, "%s", cause);
	snprintf(ret->detail, sizeof ret->detail, "%s", detail);
	snprintf(ret->dns, sizeof ret->dns, "%s", dns);
	return 0;
}
