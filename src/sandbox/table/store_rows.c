// SPDX-License-Identifier: Apache-2.0
// One row of each table, as SQL: the columns of a sandbox, a snapshot, a layer, an event.
#include "sandbox/table/store_rows.h"
#include <string.h>
#include "base/clock.h"
#include "base/json.h"
#include "base/request_id.h"
#include "sandbox/table/owed.h"

static char *phases_text(const struct host_sandbox *s)
{
	_cleanup_json_ json_t *a = json_array();
	for (unsigned i = 0; a && i < s->n_phases; i++)
		json_array_append_new(
			a, json_pack("[s, I]", s->phases[i].name, (json_int_t)s->phases[i].us));
	return a ? json_compact(a) : NULL;
}

static void phases_read(struct host_sandbox *s, const char *text)
{
	_cleanup_json_ json_t *a = json_loads(text, 0, NULL);
	size_t i;
	json_t *p;
	json_array_foreach (a, i, p) {
		const char *name = json_string_value(json_array_get(p, 0));
		if (!name || s->n_phases == HOST_MAX_PHASES)
			continue;
		struct host_phase *ph = &s->phases[s->n_phases++];
		snprintf(ph->name, sizeof ph->name, "%s", name);
		ph->us = (uint64_t)json_integer_value(json_array_get(p, 1));
	}
}

int store_put_event(struct host *h, const char *id, const struct store_event *ev, struct err *e)
{
	if (!ev)
		return 0;
	_cleanup_json_ json_t *j = ev->data ? json_copy(ev->data) : json_object();
	if (request_id_current()[0])
		json_object_set_new(j, "request_id", json_string(request_id_current()));
	_cleanup_free_ char *data = json_compact(j);
	if (!data)
		return err_errno(e, ENOMEM, "event");
	return db_exec(h->db, e,
		"INSERT INTO events (at_ns, sandbox, kind, cause, data) VALUES (?, ?, ?, ?, ?)",
		"issss", (int64_t)clock_realtime_ns(), id, ev->kind, ev->cause ? ev->cause : "",
		data);
}

int store_put_sandbox(
	struct host *h, const struct sandbox *s, const struct time_settings *t, struct err *e)
{
	const struct host_sandbox *i = &s->info;
	_cleanup_free_ char *phases = phases_text(i), *owed = owed_text(s);
	if (!phases || !owed)
		return err_errno(e, ENOMEM, "sandbox row");
	return db_exec(h->db, e,
		"INSERT OR REPLACE INTO sandboxes (id, template, state, vcpus, memory_mb, disk_mb, "
		"created_ns, started_ns, stopped_ns, ends_at_ns, on_timeout, slot, token, cause, "
		"detail, phases, snapshot, backend, generation, lineage, kernel_id, parent, dns, "
		"dns_own, agent, owed, unquiesced) VALUES "
		"(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
		"sssiiiiiiiiissssssiisssissi", i->id, i->template, sandbox_state_name(i->state),
		(int64_t)i->vcpus, (int64_t)i->memory_mb, (int64_t)i->disk_mb,
		(int64_t)i->created_ns, (int64_t)i->started_ns, (int64_t)i->stopped_ns,
		(int64_t)t->ends_at_ns, (int64_t)t->on_timeout,
		s->has_slot ? (int64_t)s->slot.index : (int64_t)-1, s->token, i->cause, i->detail,
		phases, i->snapshot, i->backend, (int64_t)i->generation, (int64_t)s->full_next,
		s->kernel_id, s->parent, i->dns, (int64_t)s->dns_own, i->agent, owed,
		(int64_t)i->unquiesced);
}

int store_put_layer(struct host *h, const char *id, struct err *e)
{
	return db_exec(h->db, e, "INSERT OR IGNORE INTO layers (id) VALUES (?)", "s", id);
}

int store_put_snapshot(struct host *h, const struct store_snapshot *s, struct err *e)
{
	const struct host_snapshot *i = &s->info;
	return db_exec(h->db, e,
		"INSERT INTO snapshots (id, kind, sandbox, template, parent, image_key, token, "
		"vcpus, memory_mb, disk_mb, memory_bytes, disk_bytes, created_ns) VALUES "
		"(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
		"sssssssiiiiii", i->id, i->kind, i->sandbox, i->template, i->parent, s->image_key,
		s->token, (int64_t)i->vcpus, (int64_t)i->memory_mb, (int64_t)i->disk_mb,
		(int64_t)i->memory_bytes, (int64_t)i->disk_bytes, (int64_t)i->created_ns);
}

int store_row_sandbox(sqlite3_stmt *row, struct sandbox **ret)
{
	struct sandbox *s = calloc(1, sizeof *s);
	if (!s)
		return -ENOMEM;
	struct host_sandbox *i = &s->info;
	s->pidfd = -1;
	snprintf(i->id, sizeof i->id, "%s", db_text(row, 0));
	snprintf(i->template, sizeof i->template, "%s", db_text(row, 1));
	i->state = sandbox_state_parse(db_text(row, 2));
	if (i->state == SANDBOX_STATE_MAX)
		i->state = SANDBOX_ERROR;
	i->vcpus = (unsigned)sqlite3_column_int64(row, 3);
	i->memory_mb = (unsigned)sqlite3_column_int64(row, 4);
	i->disk_mb = (uint64_t)sqlite3_column_int64(row, 5);
	i->created_ns = (uint64_t)sqlite3_column_int64(row, 6);
	i->started_ns = (uint64_t)sqlite3_column_int64(row, 7);
	i->stopped_ns = (uint64_t)sqlite3_column_int64(row, 8);
	i->ends_at_ns = (uint64_t)sqlite3_column_int64(row, 9);
	i->on_timeout = sqlite3_column_int64(row, 10) ? ON_TIMEOUT_PAUSE : ON_TIMEOUT_KILL;
	int64_t slot = sqlite3_column_int64(row, 11);
	s->has_slot = slot >= 0;
	s->slot.index = (unsigned)MAX(slot, 0);
	snprintf(s->token, sizeof s->token, "%s", db_text(row, 12));
	snprintf(i->cause, sizeof i->cause, "%s", db_text(row, 13));
	snprintf(i->detail, sizeof i->detail, "%s", db_text(row, 14));
	phases_read(i, db_text(row, 15));
	snprintf(i->snapshot, sizeof i->snapshot, "%s", db_text(row, 16));
	snprintf(i->backend, sizeof i->backend, "%s", db_text(row, 17));
	i->generation = (uint64_t)sqlite3_column_int64(row, 18);
	s->full_next = sqlite3_column_int64(row, 19) != 0;
	snprintf(s->kernel_id, sizeof s->kernel_id, "%s", db_text(row, 20));
	snprintf(s->parent, sizeof s->parent, "%s", db_text(row, 21));
	snprintf(i->dns, sizeof i->dns, "%s", db_text(row, 22));
	s->dns_own = sqlite3_column_int64(row, 23) != 0;
	snprintf(i->agent, sizeof i->agent, "%s", db_text(row, 24));
	owed_read(s, db_text(row, 25));
	i->unquiesced = sqlite3_column_int64(row, 26) != 0;
	*ret = s;
	return 0;
}
