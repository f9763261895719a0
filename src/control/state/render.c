// SPDX-License-Identifier: Apache-2.0
#include "control/state/render.h"
#include <string.h>
#include "agentclient/version.h"
#include "base/clock.h"
#include "control/state/port_access.h"

const char *render_state_name(enum sandbox_state s)
{
	return s == SANDBOX_UNREACHABLE ? "unreachable" : sandbox_state_name(s);
}

json_t *render_time(uint64_t realtime_ns)
{
	if (!realtime_ns)
		return json_null();
	char text[32];
	clock_format_rfc3339(realtime_ns, text);
	return json_string(text);
}

json_t *render_text(const char *text)
{
	if (!text[0])
		return json_null();
	json_t *j = json_string(text);
	return j ? j : json_string("(not UTF-8)");
}

json_t *render_phases(const struct host_sandbox *s)
{
	json_t *phases = json_array();
	for (unsigned i = 0; i < s->n_phases && i < HOST_MAX_PHASES; i++)
		json_array_append_new(phases, json_pack("{s:s, s:I}", "name", s->phases[i].name,
						      "us", (json_int_t)s->phases[i].us));
	return phases;
}

static int put(json_t *object, const char *key, json_t *value)
{
	return json_object_set_new_nocheck(object, key, value);
}

// Commas between.
static json_t *render_list(const char *text)
{
	json_t *list = json_array();
	for (const char *p = text; *p; p += *p == ',') {
		size_t len = strcspn(p, ",");
		json_array_append_new(list, json_stringn(p, len));
		p += len;
	}
	return list;
}

int render_agent(json_t *object, const char *agent)
{
	json_t *weak = json_array();
	const struct agent_weakness *w;
	for (unsigned i = 0; (w = agent_weakness(agent, i)); i++)
		json_array_append_new(weak, json_string(w->text));
	int r = put(object, "agent_version",
		agent[0] ? render_text(agent_version_shown(agent)) : json_null());
	return r | put(object, "agent_weaknesses", weak);
}

json_t *render_sandbox(const struct sandbox_row *row, const struct host_sandbox *s)
{
	json_t *j = json_object();
	char name[64], url[ROW_URL_SIZE], token[SHA256_HEX_SIZE], port_token[SHA256_HEX_SIZE];
	row_get_name(row, name);
	row_url(row, url);
	port_access_token(row, port_token);
	int r = put(j, "id", json_string(row->id));
	r |= put(j, "name", render_text(name));
	r |= put(j, "template", json_string(row->template));
	r |= put(j, "state", json_string(render_state_name(s->state)));
	r |= put(j, "vcpus", json_integer(s->vcpus));
	r |= put(j, "memory_mb", json_integer(s->memory_mb));
	r |= put(j, "disk_mb", json_integer((json_int_t)s->disk_mb));
	r |= put(j, "created_at", render_time(row->created_ns));
	r |= put(j, "started_at", render_time(s->started_ns));
	r |= put(j, "ends_at", render_time(s->ends_at_ns));
	r |= put(j, "stopped_at", render_time(s->stopped_ns));
	r |= put(j, "on_timeout",
		json_string(row->on_timeout == ON_TIMEOUT_PAUSE ? "pause" : "kill"));
	r |= put(j, "metadata", row_metadata(row));
	r |= put(j, "dns", render_list(s->dns));
	r |= put(j, "cause", render_text(s->cause));
	r |= put(j, "detail", render_text(s->detail));
	r |= put(j, "disk_used_bytes", json_integer((json_int_t)s->disk_bytes));
	r |= put(j, "backend", render_text(s->backend));
	r |= put(j, "generation", json_integer((json_int_t)s->generation));
	bool runs = s->state == SANDBOX_RUNNING, paused = s->state == SANDBOX_PAUSED;
	r |= put(j, "agent", render_text(runs ? s->agent_silent ? "silent" : "answers" : ""));
	r |= put(j, "quiesced", paused ? json_boolean(!s->unquiesced) : json_null());
	r |= render_agent(j, s->agent);
	r |= put(j, "url", render_text(url));
	row_get_token(row, token);
	r |= put(j, "public", json_boolean(!row->is_private));
	r |= put(j, "envd_token", json_string(token));
	r |= put(j, "port_token", json_string(port_token));
	r |= put(j, "owner", render_text(row->owner));
	r |= put(j, "phases", render_phases(s));
	r |= put(j, "memory_written_bytes", json_integer((json_int_t)s->memory_written_bytes));
	r |= put(j, "memory_kept_bytes", json_integer((json_int_t)s->memory_kept_bytes));
	if (r == 0)
		return j;
	json_decref(j);
	return NULL;
}
