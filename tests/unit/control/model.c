// SPDX-License-Identifier: Apache-2.0
#include "model.h"
#include <fcntl.h>
#include <string.h>
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

static int ordered(enum err_code code, struct err *e)
{
	return code ? err_set(e, code, "ordered failure") : 0;
}

static int missing(const char *id, struct err *e)
{
	return err_set(e, ERR_NOT_FOUND, "the host has no '%s'", id);
}

static int create(
	void *host, const struct host_create *req, struct host_sandbox *ret, struct err *e)
{
	struct model *m = host;
	int r = ordered(m->fail_create, e);
	if (r < 0)
		return r;
	pthread_mutex_lock(&m->lock);
	struct host_sandbox *s = &m->box[m->n++];
	*s = (struct host_sandbox){
		.state = SANDBOX_RUNNING,
		.vcpus = req->vcpus ? req->vcpus : 1,
		.memory_mb = req->memory_mb ? req->memory_mb : 512,
		.disk_mb = req->disk_mb ? req->disk_mb : 2048,
		.created_ns = clock_realtime_ns(),
		.started_ns = clock_realtime_ns(),
		.ends_at_ns = req->ends_at_ns,
		.disk_bytes = 12345,
		.phases = {{"slot", 12}, {"boot", 3400}},
		.n_phases = 2,
	};
	snprintf(s->address, sizeof s->address, "%s", m->address);
	snprintf(s->id, sizeof s->id, "%s", req->id);
	snprintf(s->template, sizeof s->template, "%s", req->template);
	snprintf(m->last_token, sizeof m->last_token, "%s", req->token);
	char *env = json_dumps(req->env, JSON_COMPACT);
	snprintf(m->last_env, sizeof m->last_env, "%s", env);
	free(env);
	add_event(m, req->id, "running", "");
	*ret = *s;
	pthread_mutex_unlock(&m->lock);
	return 0;
}

void model_end(struct model *m, const char *id, const char *cause)
{
	pthread_mutex_lock(&m->lock);
	struct host_sandbox *s = find(m, id);
	s->state = SANDBOX_STOPPED;
	s->stopped_ns = clock_realtime_ns();
	s->address[0] = '\0';
	snprintf(s->cause, sizeof s->cause, "%s", cause);
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
	pthread_mutex_lock(&m->lock);
	struct host_sandbox *s = find(m, id);
	if (s)
		s->ends_at_ns = at;
	pthread_mutex_unlock(&m->lock);
	return s ? 0 : missing(id, e);
}

static int address(void *host, const char *id, char out[48], struct err *e)
{
	struct host_sandbox s;
	int r = get(host, id, &s, e);
	if (r == 0 && s.state != SANDBOX_RUNNING)
		r = err_set(e, ERR_CONFLICT, "not running");
	if (r == 0)
		snprintf(out, 48, "%s", s.address);
	return r;
}

static int open_log(void *host, const char *id, int *ret_fd, struct err *e)
{
	FILE *f = tmpfile();
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
	uint64_t until = clock_monotonic_ns() + (uint64_t)wait_ms * NSEC_PER_MSEC;
	struct timespec ts = {
		.tv_sec = (time_t)(until / NSEC_PER_SEC), .tv_nsec = (long)(until % NSEC_PER_SEC)};
	pthread_mutex_lock(&m->lock);
	while (wait_ms > 0 && m->n_events <= after)
		if (pthread_cond_timedwait(&m->event_added, &m->lock, &ts) == ETIMEDOUT)
			break;
	struct host_event *out = calloc(max + 1, sizeof *out);
	size_t n = 0;
	for (uint64_t i = after; i < m->n_events && n < max; i++)
		out[n++] = m->event[i];
	pthread_mutex_unlock(&m->lock);
	*ret = out;
	*ret_n = n;
	return 0;
}

static int templates(void *host, struct host_template **ret, size_t *ret_n, struct err *e)
{
	struct host_template *t = calloc(1, sizeof *t);
	*t = (struct host_template){.name = "base",
		.kind = "base",
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
	snprintf(ret->volume_reason, sizeof ret->volume_reason, "%s",
		m->volume_gone ? "not mounted" : "");
	return 0;
}

static int metrics(void *host, struct strbuf *out, struct err *e)
{
	strbuf_adds(out, "stasis_model_metric 42\n");
	return 0;
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
	pthread_cond_destroy(&m->event_added);
	pthread_mutex_destroy(&m->lock);
}

struct hostagent model_host(struct model *m)
{
	static const struct hostagent_ops ops = {
		.create = create,
		.destroy = destroy,
		.get = get,
		.list = list,
		.set_timeout = set_timeout,
		.address = address,
		.open_log = open_log,
		.events = events,
		.templates = templates,
		.info = info,
		.metrics = metrics,
	};
	return (struct hostagent){&ops, m};
}
