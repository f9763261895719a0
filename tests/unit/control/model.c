// SPDX-License-Identifier: Apache-2.0
#include "model.h"
#include <fcntl.h>
#include <string.h>
#include "agentclient/version.h"
#include "base/clock.h"

static struct host_sandbox *find(struct model *m, const char *id)
{
	for (size_t i = 0; i < m->n; i++)
		if (strcmp(m->box[i].id, id) == 0)
			return &m->box[i];
	return NULL;
}

static void add_event(struct model *m, const char *id, const char *kind, const char *cause)
{
	struct host_event *ev = &m->event[m->n_events++];
	ev->seq = m->n_events;
	ev->at_ns = clock_realtime_ns();
	snprintf(ev->sandbox, sizeof ev->sandbox, "%s", id);
	snprintf(ev->kind, sizeof ev->kind, "%s", kind);
	snprintf(ev->cause, sizeof ev->cause, "%s", cause);
	pthread_cond_broadcast(&m->event_added);
}

void model_tell(struct model *m, const char *id, const char *kind, const char *cause, json_t *data)
{
	pthread_mutex_lock(&m->lock);
	add_event(m, id, kind, cause);
	m->event[m->n_events - 1].data = data;
	pthread_mutex_unlock(&m->lock);
}

static int ordered(enum err_code code, struct err *e)
{
	return code ? err_set(e, code, "ordered failure") : 0;
}

static void before(struct model *m, const char *call)
{
	if (m->before)
		m->before(m->ctx, call);
}

static int missing(const char *id, struct err *e)
{
	return err_set(e, ERR_NOT_FOUND, "the host has no '%s'", id);
}

// With the lock held.
static bool asked_before(struct model *m, const char *op)
{
	for (size_t i = 0; i < m->n_done; i++)
		if (strcmp(m->done[i], op) == 0)
			return true;
	return false;
}

static void note_done(struct model *m, const char *op)
{
	if (m->n_done < MODEL_MAX)
		snprintf(m->done[m->n_done++], UUID_SIZE, "%s", op);
}

static int lose(struct err *e)
{
	int r = err_set(e, ERR_UNAVAILABLE, "the host does not answer");
	e->errnum = EHOSTUNREACH;
	return r;
}

static void set_phases(struct host_sandbox *s, const char *name)
{
	s->phases[0] = (struct host_phase){.name = "slot", .us = 12};
	s->phases[1] = (struct host_phase){.us = 3400};
	snprintf(s->phases[1].name, sizeof s->phases[1].name, "%s", name);
	s->n_phases = 2;
	bool wrote = strcmp(name, "memory") == 0;
	s->memory_written_bytes = wrote ? 40960 : 0;
	s->memory_kept_bytes = wrote ? 8192 : 0;
}

static struct host_snapshot *find_snapshot(struct model *m, const char *id)
{
	for (size_t i = 0; i < m->n_snapshots; i++)
		if (strcmp(m->snapshot[i].id, id) == 0)
			return &m->snapshot[i];
	return NULL;
}

static int no_snapshot(const char *id, struct err *e)
{
	return err_set(e, ERR_NOT_FOUND, "the host has no snapshot '%s'", id);
}

// With the lock held.
static struct host_sandbox *add_box(struct model *m, const char *id, const char *template)
{
	struct host_sandbox *s = &m->box[m->n++];
	*s = (struct host_sandbox){
		.state = SANDBOX_RUNNING,
		.vcpus = 1,
		.memory_mb = 512,
		.disk_mb = 2048,
		.created_ns = clock_realtime_ns(),
		.started_ns = clock_realtime_ns(),
		.disk_bytes = 12345,
		.generation = 1,
	};
	snprintf(s->address, sizeof s->address, "%s", m->address);
	snprintf(s->id, sizeof s->id, "%s", id);
	snprintf(s->template, sizeof s->template, "%s", template);
	return s;
}

static int create(
	void *host, const struct host_create *req, struct host_sandbox *ret, struct err *e)
{
	struct model *m = host;
	before(m, "create");
	int r = ordered(m->fail_create, e);
	if (r < 0)
		return r;
	pthread_mutex_lock(&m->lock);
	const struct host_snapshot *from = find_snapshot(m, req->snapshot);
	if (req->snapshot[0] && !from) {
		pthread_mutex_unlock(&m->lock);
		return no_snapshot(req->snapshot, e);
	}
	struct host_sandbox *s = add_box(m, req->id, req->template);
	s->vcpus = from ? from->vcpus : req->vcpus ? req->vcpus : 1;
	s->memory_mb = from ? from->memory_mb : req->memory_mb ? req->memory_mb : 512;
	s->disk_mb = req->disk_mb ? req->disk_mb : 2048;
	s->ends_at_ns = req->ends_at_ns;
	s->on_timeout = req->on_timeout;
	snprintf(s->dns, sizeof s->dns, "%.47s", req->dns[0] ? req->dns : "192.0.2.53");
	snprintf(s->backend, sizeof s->backend, "%s", from ? "uffd" : "boot");
	set_phases(s, from ? "load" : "boot");
	const char *agent = json_string_value(json_object_get(req->env, "MODEL_AGENT"));
	snprintf(s->agent, sizeof s->agent, "%s", agent ? agent : "");
	m->last_create = *req;
	snprintf(m->last_token, sizeof m->last_token, "%s", req->token);
	char *env = json_dumps(req->env, JSON_COMPACT);
	snprintf(m->last_env, sizeof m->last_env, "%s", env);
	free(env);
	add_event(m, req->id, "running", "");
	*ret = *s;
	pthread_mutex_unlock(&m->lock);
	return m->lose_reply ? lose(e) : 0;
}

void model_add_snapshot(struct model *m, const char *snapshot, const char *id, const char *kind)
{
	pthread_mutex_lock(&m->lock);
	const struct host_sandbox *box = find(m, id);
	struct host_snapshot *s = &m->snapshot[m->n_snapshots++];
	*s = (struct host_snapshot){.vcpus = box ? box->vcpus : 1,
		.memory_mb = box ? box->memory_mb : 512,
		.disk_mb = box ? box->disk_mb : 2048,
		.memory_bytes = 4096 * 1000,
		.disk_bytes = 4096 * 10,
		.created_ns = clock_realtime_ns()};
	snprintf(s->id, sizeof s->id, "%s", snapshot);
	snprintf(s->kind, sizeof s->kind, "%s", kind);
	snprintf(s->sandbox, sizeof s->sandbox, "%s", id);
	pthread_mutex_unlock(&m->lock);
}

bool model_has_snapshot(struct model *m, const char *snapshot)
{
	pthread_mutex_lock(&m->lock);
	bool found = find_snapshot(m, snapshot) != NULL;
	pthread_mutex_unlock(&m->lock);
	return found;
}

static int wrong_state(const struct host_sandbox *s, struct err *e)
{
	return err_set(e, ERR_CONFLICT, "sandbox '%s' is %s", s->id, sandbox_state_name(s->state));
}

static int pause_box(
	void *host, const char *op, const char *id, struct host_sandbox *ret, struct err *e)
{
	struct model *m = host;
	before(m, "pause");
	int r = ordered(m->fail_pause, e);
	if (r < 0)
		return r;
	pthread_mutex_lock(&m->lock);
	struct host_sandbox *s = find(m, id);
	bool again = s && s->state == SANDBOX_PAUSED && asked_before(m, op);
	r = !s ? missing(id, e) : again ? 0 : s->state != SANDBOX_RUNNING ? wrong_state(s, e) : 0;
	if (again)
		*ret = *s;
	if (r == 0 && !again) {
		note_done(m, op);
		s->state = SANDBOX_PAUSED;
		s->generation++;
		s->address[0] = s->backend[0] = '\0';
		s->ends_at_ns = 0;
		snprintf(s->snapshot, sizeof s->snapshot, "%s", op);
		set_phases(s, "memory");
		add_event(m, id, "paused", "");
		*ret = *s;
	}
	pthread_mutex_unlock(&m->lock);
	return r == 0 && m->lose_reply ? lose(e) : r;
}

static int resume_box(
	void *host, const struct host_resume *req, struct host_sandbox *ret, struct err *e)
{
	struct model *m = host;
	before(m, "resume");
	int r = ordered(m->fail_resume, e);
	if (r < 0)
		return r;
	pthread_mutex_lock(&m->lock);
	struct host_sandbox *s = find(m, req->id);
	if (!s)
		r = missing(req->id, e);
	else if (req->from[0] && !find_snapshot(m, req->from))
		r = no_snapshot(req->from, e);
	else if (s->state != SANDBOX_PAUSED && !(req->from[0] && s->state == SANDBOX_RUNNING))
		r = wrong_state(s, e);
	if (r == 0) {
		s->state = SANDBOX_RUNNING;
		s->generation++;
		s->ends_at_ns = req->ends_at_ns;
		s->snapshot[0] = '\0';
		snprintf(s->address, sizeof s->address, "%s", m->address);
		snprintf(s->backend, sizeof s->backend, "%s", req->disk_only ? "boot" : "uffd");
		snprintf(m->last_token, sizeof m->last_token, "%s", req->token);
		set_phases(s, "load");
		m->last_resume = *req;
		add_event(m, req->id, "resumed", "");
		*ret = *s;
	}
	pthread_mutex_unlock(&m->lock);
	return r;
}

static int fork_box(void *host, struct host_fork *req, struct err *e)
{
	struct model *m = host;
	int r = ordered(m->fail_fork, e);
	if (r < 0)
		return r;
	pthread_mutex_lock(&m->lock);
	struct host_sandbox *source = find(m, req->id);
	r = !source ? missing(req->id, e)
	    : source->state != SANDBOX_RUNNING && source->state != SANDBOX_PAUSED
		    ? wrong_state(source, e)
		    : 0;
	m->last_fork = *req;
	pthread_mutex_unlock(&m->lock);
	for (size_t i = 0; i < req->n && r == 0; i++) {
		struct host_fork_child *child = &req->children[i];
		if (m->before_child)
			m->before_child(m->ctx, i);
		pthread_mutex_lock(&m->lock);
		if (m->fail_children >> MIN(i, 31) & 1) {
			child->rc = err_set(&child->e, ERR_LIMIT, "no room for %s", child->id);
		} else {
			struct host_sandbox *s = add_box(m, child->id, source->template);
			s->ends_at_ns = req->ends_at_ns;
			s->on_timeout = req->on_timeout;
			snprintf(s->backend, sizeof s->backend, "%s", "file");
			set_phases(s, "load");
			add_event(m, child->id, "running", "");
			*child->info = *s;
		}
		pthread_mutex_unlock(&m->lock);
		if (req->done)
			req->done(req->ctx, i);
	}
	return r;
}

static int rewarm(struct model *m, const struct host_snapshot_create *req,
	struct host_snapshot *ret, struct err *e)
{
	char box[64] = "";
	pthread_mutex_lock(&m->lock);
	const struct host_snapshot *of = find_snapshot(m, req->rewarm);
	snprintf(box, sizeof box, "%s", of ? of->sandbox : "");
	pthread_mutex_unlock(&m->lock);
	if (!of)
		return no_snapshot(req->rewarm, e);
	model_add_snapshot(m, req->snapshot, box, "template");
	pthread_mutex_lock(&m->lock);
	*ret = *find_snapshot(m, req->snapshot);
	pthread_mutex_unlock(&m->lock);
	return 0;
}

static int snapshot_create(void *host, const struct host_snapshot_create *req,
	struct host_snapshot *ret, struct err *e)
{
	struct model *m = host;
	if (m->before_snapshot)
		m->before_snapshot(m->ctx);
	int r = ordered(m->fail_snapshot, e);
	if (r == 0 && req->rewarm[0])
		return rewarm(m, req, ret, e);
	if (r < 0)
		return r;
	pthread_mutex_lock(&m->lock);
	struct host_sandbox *s = find(m, req->id);
	r = !s								? missing(req->id, e)
	    : s->state != SANDBOX_RUNNING && s->state != SANDBOX_PAUSED ? wrong_state(s, e)
									: 0;
	if (r == 0) {
		set_phases(s, "snapshot");
		add_event(m, req->id, "snapshot_created", "");
	}
	pthread_mutex_unlock(&m->lock);
	if (r < 0)
		return r;
	model_add_snapshot(m, req->snapshot, req->id, "template");
	pthread_mutex_lock(&m->lock);
	*ret = *find_snapshot(m, req->snapshot);
	pthread_mutex_unlock(&m->lock);
	return 0;
}

static int snapshot_delete(void *host, const char *op, const char *snapshot, struct err *e)
{
	struct model *m = host;
	int r = ordered(m->fail_snapshot_delete, e);
	if (r < 0)
		return r;
	pthread_mutex_lock(&m->lock);
	struct host_snapshot *s = find_snapshot(m, snapshot);
	if (s)
		*s = m->snapshot[--m->n_snapshots];
	pthread_mutex_unlock(&m->lock);
	return 0;
}

static int snapshots(void *host, struct host_snapshot **ret, size_t *ret_n, struct err *e)
{
	struct model *m = host;
	int r = ordered(m->fail_snapshots, e);
	if (r < 0)
		return r;
	pthread_mutex_lock(&m->lock);
	*ret_n = m->n_snapshots;
	*ret = calloc(m->n_snapshots + 1, sizeof **ret);
	memcpy(*ret, m->snapshot, m->n_snapshots * sizeof **ret);
	pthread_mutex_unlock(&m->lock);
	return 0;
}

static int snapshot_check(
	void *host, const char *snapshot, struct host_snapshot_check *ret, struct err *e)
{
	struct model *m = host;
	int r = ordered(m->fail_snapshots, e);
	if (r < 0)
		return r;
	pthread_mutex_lock(&m->lock);
	r = find_snapshot(m, snapshot) ? 0 : no_snapshot(snapshot, e);
	pthread_mutex_unlock(&m->lock);
	*ret = (struct host_snapshot_check){.resumes = !m->foreign};
	snprintf(ret->reason, sizeof ret->reason, "%s", m->foreign ? m->foreign : "");
	return r;
}

void model_end(struct model *m, const char *id, const char *cause)
{
	pthread_mutex_lock(&m->lock);
	struct host_sandbox *s = find(m, id);
	s->state = SANDBOX_STOPPED;
	s->generation++;
	s->backend[0] = s->snapshot[0] = '\0';
	s->stopped_ns = clock_realtime_ns();
	s->address[0] = '\0';
	snprintf(s->cause, sizeof s->cause, "%s", cause);
	if (!m->tells_no_end)
		add_event(m, id, "stopped", cause);
	pthread_mutex_unlock(&m->lock);
}

void model_forget(struct model *m, const char *id)
{
	pthread_mutex_lock(&m->lock);
	snprintf(find(m, id)->id, sizeof m->box[0].id, "-");
	pthread_mutex_unlock(&m->lock);
}

static int destroy(void *host, const char *op, const char *id, const char *cause, struct err *e)
{
	struct model *m = host;
	int r = ordered(m->fail_destroy, e);
	if (r < 0)
		return r;
	pthread_mutex_lock(&m->lock);
	bool known = find(m, id) != NULL;
	pthread_mutex_unlock(&m->lock);
	if (!known)
		return missing(id, e);
	model_end(m, id, cause);
	return 0;
}

static int expire(void *host, const char *op, const char *id, uint64_t generation,
	const char *cause, struct err *e)
{
	struct model *m = host;
	if (m->before)
		m->before(m->ctx, "expire");
	int r = ordered(m->fail_destroy, e);
	if (r < 0)
		return r;
	pthread_mutex_lock(&m->lock);
	const struct host_sandbox *s = find(m, id);
	if (s && m->fail_expire_from && s >= &m->box[m->fail_expire_from]) {
		pthread_mutex_unlock(&m->lock);
		return err_set(e, ERR_INTERNAL, "an order to fail");
	}
	bool same = s && s->state == SANDBOX_PAUSED && s->generation == generation;
	bool again = asked_before(m, op);
	if (same)
		note_done(m, op);
	pthread_mutex_unlock(&m->lock);
	if (again)
		return 0;
	if (!s)
		return missing(id, e);
	if (!same)
		return err_set(e, ERR_CONFLICT, "sandbox '%s' was used meanwhile", id);
	model_end(m, id, cause);
	return 0;
}

static int get(void *host, const char *id, struct host_sandbox *ret, struct err *e)
{
	struct model *m = host;
	int r = ordered(m->fail_get, e);
	if (r < 0)
		return r;
	pthread_mutex_lock(&m->lock);
	struct host_sandbox *s = find(m, id);
	if (s)
		*ret = *s;
	pthread_mutex_unlock(&m->lock);
	return s ? 0 : missing(id, e);
}

static int list(void *host, struct host_sandbox **ret, size_t *ret_n, struct err *e)
{
	struct model *m = host;
	pthread_mutex_lock(&m->lock);
	struct host_sandbox *out = calloc(m->n + 1, sizeof *out);
	size_t n = 0;
	for (size_t i = 0; i < m->n; i++)
		if (m->box[i].state != SANDBOX_STOPPED)
			out[n++] = m->box[i];
	pthread_mutex_unlock(&m->lock);
	*ret = out;
	*ret_n = n;
	return 0;
}

static int set_timeout(void *host, const char *op, const char *id, uint64_t at, struct err *e)
{
	struct model *m = host;
	before(m, "set_timeout");
	pthread_mutex_lock(&m->lock);
	struct host_sandbox *s = find(m, id);
	if (s)
		s->ends_at_ns = at;
	pthread_mutex_unlock(&m->lock);
	return s ? 0 : missing(id, e);
}

static int set_on_timeout(
	void *host, const char *op, const char *id, enum on_timeout on_timeout, struct err *e)
{
	struct model *m = host;
	before(m, "set_on_timeout");
	int r = ordered(m->fail_on_timeout, e);
	if (r < 0)
		return r;
	pthread_mutex_lock(&m->lock);
	struct host_sandbox *s = find(m, id);
	if (s)
		s->on_timeout = on_timeout;
	pthread_mutex_unlock(&m->lock);
	if (s && m->lose_reply)
		return lose(e);
	return s ? 0 : missing(id, e);
}

static int set_token(void *host, const char *op, const char *id, const char *token, struct err *e)
{
	struct model *m = host;
	int r = ordered(m->fail_token, e);
	if (r < 0)
		return r;
	pthread_mutex_lock(&m->lock);
	struct host_sandbox *s = find(m, id);
	bool runs = s && s->state == SANDBOX_RUNNING;
	if (runs)
		snprintf(m->last_token, sizeof m->last_token, "%s", token);
	m->tokens_set += runs;
	pthread_mutex_unlock(&m->lock);
	if (s && !runs)
		return err_set(e, ERR_CONFLICT, "it does not run");
	return s ? 0 : missing(id, e);
}

static int address(void *host, const char *id, struct host_place *ret, struct err *e)
{
	struct host_sandbox s;
	int r = get(host, id, &s, e);
	if (r == 0 && s.state != SANDBOX_RUNNING)
		r = err_set(e, ERR_CONFLICT, "not running");
	if (r == 0)
		*ret = (struct host_place){.owner_only = agent_is_owner_only(s.agent)};
	if (r == 0)
		snprintf(ret->address, sizeof ret->address, "%s", s.address);
	return r;
}

static int open_log(void *host, const char *id, int *ret_fd, struct err *e)
{
	FILE *f = tmpfile();
	if (((struct model *)host)->log)
		fputs(((struct model *)host)->log, f);
	else
		fprintf(f, "console of %s\n", id);
	fflush(f);
	*ret_fd = dup(fileno(f));
	fclose(f);
	return 0;
}

static int events(void *host, uint64_t after, size_t max, int wait_ms, struct host_event **ret,
	size_t *ret_n, struct err *e)
{
	struct model *m = host;
	int failed = ordered(m->fail_events, e);
	if (failed < 0)
		return failed;
	uint64_t until = clock_monotonic_ns() + (uint64_t)wait_ms * NSEC_PER_MSEC;
	struct timespec ts = {
		.tv_sec = (time_t)(until / NSEC_PER_SEC), .tv_nsec = (long)(until % NSEC_PER_SEC)};
	pthread_mutex_lock(&m->lock);
	while (wait_ms > 0 && m->n_events <= after)
		if (pthread_cond_timedwait(&m->event_added, &m->lock, &ts) == ETIMEDOUT)
			break;
	struct host_event *out = calloc(max + 1, sizeof *out);
	size_t n = 0;
	for (uint64_t i = MAX(after, m->acked); i < m->n_events && n < max; i++) {
		out[n] = m->event[i];
		out[n].data = json_deep_copy(m->event[i].data);
		n++;
	}
	pthread_mutex_unlock(&m->lock);
	*ret = out;
	*ret_n = n;
	return 0;
}

static int ack_events(void *host, uint64_t upto, struct err *e)
{
	struct model *m = host;
	int failed = ordered(m->fail_ack, e);
	if (failed < 0)
		return failed;
	pthread_mutex_lock(&m->lock);
	m->acked = MAX(m->acked, upto);
	pthread_mutex_unlock(&m->lock);
	return 0;
}

static int templates(void *host, struct host_template **ret, size_t *ret_n, struct err *e)
{
	struct host_template *t = calloc(1, sizeof *t);
	*t = (struct host_template){.name = "base",
		.kind = "base",
		.frozen = true,
		.vcpus = 1,
		.memory_mb = 512,
		.min_memory_mb = 128,
		.disk_mb = 1024};
	*ret = t;
	*ret_n = 1;
	return 0;
}

static int info(void *host, struct host_info *ret, struct err *e)
{
	struct model *m = host;
	*ret = (struct host_info){.version = "0.1.0",
		.vmm = "model",
		.isolation = "none",
		.volume_ok = !m->volume_gone};
	pthread_mutex_lock(&m->lock);
	ret->last_event = m->n_events;
	snprintf(ret->journal_id, sizeof ret->journal_id, "%s", m->journal);
	pthread_mutex_unlock(&m->lock);
	snprintf(ret->volume_reason, sizeof ret->volume_reason, "%s",
		m->volume_gone ? "not mounted" : "");
	return 0;
}

static int metrics(void *host, struct strbuf *out, struct err *e)
{
	strbuf_adds(out, "# HELP stasis_model_metric None.\n# TYPE stasis_model_metric gauge\n"
			 "stasis_model_metric 42\n");
	return 0;
}

// Each has 100 bytes, 60 of them alone; all share the rest.
static void add_usage(struct host_usage_report *r, const char *kind, const char *id,
	const struct host_usage_ask *ask)
{
	struct host_usage_item *x = &r->items[r->n_items++];
	*x = (struct host_usage_item){.bytes = 100,
		.unique_bytes = 60,
		.frees_bytes = 60,
		.memory_bytes = 30,
		.layers = 2};
	snprintf(x->kind, sizeof x->kind, "%s", kind);
	snprintf(x->id, sizeof x->id, "%s", id);
	if (!ask->of || !*ask->of || !strcmp(ask->of, id))
		return;
	struct host_usage_share *s = &r->shares[r->n_shares++];
	s->bytes = 40;
	memcpy(s->kind, x->kind, sizeof s->kind);
	memcpy(s->id, x->id, sizeof s->id);
}

static int usage(
	void *host, const struct host_usage_ask *ask, struct host_usage_report *ret, struct err *e)
{
	struct model *m = host;
	before(m, "usage");
	*ret = (struct host_usage_report){.sum = {.total_bytes = 1000,
						  .free_bytes = 400,
						  .sandboxes = 2,
						  .sandbox_bytes = 300,
						  .own_layer_bytes = 100,
						  .unknown = 1,
						  .unknown_bytes = 7}};
	ret->unknown = calloc(1, sizeof *ret->unknown);
	*ret->unknown = (struct host_unknown){.kind = "layer", .id = "abc", .bytes = 7};
	ret->n_unknown = 1;
	ret->items = calloc(MODEL_MAX * 2, sizeof *ret->items);
	ret->shares = calloc(MODEL_MAX * 2, sizeof *ret->shares);
	pthread_mutex_lock(&m->lock);
	for (size_t i = 0; i < m->n; i++)
		if (m->box[i].state != SANDBOX_STOPPED)
			add_usage(ret, "sandbox", m->box[i].id, ask);
	for (size_t i = 0; i < m->n_snapshots; i++)
		add_usage(ret, "snapshot", m->snapshot[i].id, ask);
	pthread_mutex_unlock(&m->lock);
	return 0;
}

static int runtimes(void *host, struct host_runtime **ret, size_t *ret_n, struct err *e)
{
	struct model *m = host;
	*ret = calloc(2, sizeof **ret);
	(*ret)[0] = (struct host_runtime){.id = "00000000000000000000000000000001",
		.program = "qemu",
		.version = "10.0.2",
		.current = true};
	(*ret)[1] = (struct host_runtime){.id = "00000000000000000000000000000002",
		.program = "qemu",
		.version = "7.2.22",
		.package = "qemu-system-x86 1:7.2+dfsg-7",
		.denied = m->denied,
		.refused = "",
		.snapshots = 3,
		.oldest_ns = 1764086400000000000ull,
		.newest_ns = 1764172800000000000ull};
	if (m->denied)
		snprintf((*ret)[1].refused, sizeof(*ret)[1].refused, "is denied");
	*ret_n = 2;
	return 0;
}

static int figures(void *host, const char *id, struct host_figures *ret, struct err *e)
{
	struct host_sandbox s;
	int rc = get(host, id, &s, e);
	if (rc == 0)
		*ret = (struct host_figures){s.state, 1500000, 2, 3, 4, 5, 6, 7};
	return rc;
}

static int runtime_deny(void *host, const char *op_id, const char *id, bool on, struct err *e)
{
	if (!str_eq(id, "00000000000000000000000000000002"))
		return err_set(e, ERR_INVALID, "'%s' is no runtime", id);
	((struct model *)host)->denied = on;
	return 0;
}

static int remove_unknown(void *host, const char *op_id, size_t *ret_n, struct err *e)
{
	*ret_n = 1;
	return id_is_uuid(op_id) ? 0 : err_set(e, ERR_INVALID, "no operation id");
}

void model_init(struct model *m)
{
	*m = (struct model){.address = "127.0.0.1"};
	pthread_mutex_init(&m->lock, NULL);
	pthread_condattr_t attr;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&m->event_added, &attr);
	pthread_condattr_destroy(&attr);
}

void model_done(struct model *m)
{
	for (size_t i = 0; i < m->n_events; i++)
		host_event_done(&m->event[i]);
	pthread_cond_destroy(&m->event_added);
	pthread_mutex_destroy(&m->lock);
}

struct hostagent model_host(struct model *m)
{
	static const struct hostagent_ops ops = {
		.create = create,
		.destroy = destroy,
		.expire = expire,
		.pause = pause_box,
		.resume = resume_box,
		.fork = fork_box,
		.snapshot_create = snapshot_create,
		.snapshot_delete = snapshot_delete,
		.snapshots = snapshots,
		.snapshot_check = snapshot_check,
		.get = get,
		.list = list,
		.set_timeout = set_timeout,
		.set_on_timeout = set_on_timeout,
		.set_token = set_token,
		.address = address,
		.open_log = open_log,
		.events = events,
		.ack_events = ack_events,
		.templates = templates,
		.info = info,
		.metrics = metrics,
		.usage = usage,
		.runtimes = runtimes,
		.figures = figures,
		.runtime_deny = runtime_deny,
		.remove_unknown = remove_unknown,
	};
	return (struct hostagent){&ops, m};
}
