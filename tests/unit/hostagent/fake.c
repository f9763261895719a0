// SPDX-License-Identifier: Apache-2.0
#include "fake.h"
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include "base/clock.h"
#include "base/file.h"

static int enter(struct fake *f, const char *call, const char *id, struct err *e)
{
	pthread_mutex_lock(&f->lock);
	f->calls++;
	snprintf(f->call, sizeof f->call, "%s", call);
	snprintf(f->id, sizeof f->id, "%s", id ? id : "");
	int rc = f->fail ? err_set(e, f->fail, "%s",
				   f->fail_text ? f->fail_text : "as it was ordered")
			 : 0;
	pthread_mutex_unlock(&f->lock);
	return rc;
}

static int operate(
	struct fake *f, const char *call, const char *op_id, const char *id, struct err *e)
{
	int rc = enter(f, call, id, e);
	pthread_mutex_lock(&f->lock);
	snprintf(f->op_id, sizeof f->op_id, "%s", op_id);
	f->waiting++;
	pthread_cond_broadcast(&f->changed);
	while (f->closed || (id && strcmp(id, "ihangs") == 0 && !f->stopped))
		pthread_cond_wait(&f->changed, &f->lock);
	f->waiting--;
	bool known = false;
	for (unsigned i = 0; i < MIN(f->n_ops, FAKE_MAX_OPS); i++)
		known |= strcmp(f->ops[i], op_id) == 0;
	if (rc == 0 && !known) {
		snprintf(f->ops[f->n_ops++ % FAKE_MAX_OPS], UUID_SIZE, "%s", op_id);
		f->done++;
	}
	pthread_mutex_unlock(&f->lock);
	return rc;
}

static void note(char *out, size_t size, const char *text)
{
	snprintf(out, size, "%s", text ? text : "(null)");
}

static void note_env(struct fake *f, json_t *env)
{
	char *text = env ? json_dumps(env, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
	note(f->env, sizeof f->env, text);
	free(text);
}

static int create(void *p, const struct host_create *req, struct host_sandbox *ret, struct err *e)
{
	struct fake *f = p;
	int rc = operate(f, "create", req->op_id, req->id, e);
	pthread_mutex_lock(&f->lock);
	f->create = *req;
	note(f->token, sizeof f->token, req->token);
	note_env(f, req->env);
	pthread_mutex_unlock(&f->lock);
	if (rc == 0) {
		*ret = f->sandbox;
		snprintf(ret->id, sizeof ret->id, "%s", req->id);
	}
	return rc;
}

static int destroy(void *p, const char *op_id, const char *id, const char *cause, struct err *e)
{
	struct fake *f = p;
	note(f->cause, sizeof f->cause, cause);
	return operate(f, "destroy", op_id, id, e);
}

static int expire(void *p, const char *op_id, const char *id, uint64_t generation,
	const char *cause, struct err *e)
{
	struct fake *f = p;
	note(f->cause, sizeof f->cause, cause);
	f->generation = generation;
	return operate(f, "expire", op_id, id, e);
}

static int pause_(
	void *p, const char *op_id, const char *id, struct host_sandbox *ret, struct err *e)
{
	int rc = operate(p, "pause", op_id, id, e);
	if (rc == 0)
		*ret = ((struct fake *)p)->sandbox;
	return rc;
}

static int resume(void *p, const struct host_resume *req, struct host_sandbox *ret, struct err *e)
{
	struct fake *f = p;
	f->resume = *req;
	note(f->token, sizeof f->token, req->token);
	int rc = operate(f, req->from[0] ? "rollback" : "resume", req->op_id, req->id, e);
	if (rc == 0)
		*ret = f->sandbox;
	return rc;
}

// Children come up from the last to the first; those whose token is "bad" do not.
static int fork_(void *p, struct host_fork *req, struct err *e)
{
	struct fake *f = p;
	int rc = operate(f, "fork", req->op_id, req->id, e);
	f->ends_at_ns = req->ends_at_ns;
	f->sandbox.on_timeout = req->on_timeout;
	note_env(f, req->n ? req->children[0].env : NULL);
	for (size_t i = req->n; rc == 0 && i-- > 0;) {
		struct host_fork_child *c = &req->children[i];
		pthread_mutex_lock(&f->lock);
		while (i == 0 && f->hold_last)
			pthread_cond_wait(&f->changed, &f->lock);
		pthread_mutex_unlock(&f->lock);
		c->rc = 0;
		if (strcmp(c->token, "bad") == 0) {
			c->rc = err_set(&c->e, ERR_NO_SPACE, "no room for %s", c->id);
		} else {
			*c->info = f->sandbox;
			snprintf(c->info->id, sizeof c->info->id, "%s", c->id);
		}
		if (req->done)
			req->done(req->ctx, i);
	}
	return rc;
}

static int snapshot_create(
	void *p, const struct host_snapshot_create *req, struct host_snapshot *ret, struct err *e)
{
	struct fake *f = p;
	note(f->snapshot, sizeof f->snapshot, req->snapshot);
	int rc = operate(f, "snapshot_create", req->op_id, req->id, e);
	if (rc == 0)
		*ret = f->snapshot_answer;
	return rc;
}

static int snapshot_delete(void *p, const char *op_id, const char *snapshot, struct err *e)
{
	struct fake *f = p;
	note(f->snapshot, sizeof f->snapshot, snapshot);
	return operate(f, "snapshot_delete", op_id, "", e);
}

static int snapshots(void *p, struct host_snapshot **ret, size_t *ret_n, struct err *e)
{
	struct fake *f = p;
	int rc = enter(f, "snapshots", "", e);
	if (rc < 0)
		return rc;
	*ret = calloc(2, sizeof **ret);
	(*ret)[0] = (*ret)[1] = f->snapshot_answer;
	*ret_n = 2;
	return 0;
}

static int snapshot_check(
	void *p, const char *snapshot, struct host_snapshot_check *ret, struct err *e)
{
	struct fake *f = p;
	int rc = enter(f, "snapshot_check", "", e);
	note(f->snapshot, sizeof f->snapshot, snapshot);
	*ret = (struct host_snapshot_check){.reason = "its guest ran on kvm"};
	return rc;
}

static int get(void *p, const char *id, struct host_sandbox *ret, struct err *e)
{
	int rc = enter(p, "get", id, e);
	if (rc == 0 && strcmp(id, "inospace") == 0)
		rc = err_set(e, ERR_NO_SPACE, "the disk is full");
	if (rc == 0)
		*ret = ((struct fake *)p)->sandbox;
	return rc;
}

static int list(void *p, struct host_sandbox **ret, size_t *ret_n, struct err *e)
{
	struct fake *f = p;
	int rc = enter(f, "list", "", e);
	if (rc < 0)
		return rc;
	*ret = calloc(3, sizeof **ret);
	for (int i = 0; i < 3; i++) {
		(*ret)[i] = f->sandbox;
		snprintf((*ret)[i].id, sizeof(*ret)[i].id, "i%d", i);
	}
	*ret_n = 3;
	return 0;
}

static int set_timeout(void *p, const char *op_id, const char *id, uint64_t at, struct err *e)
{
	((struct fake *)p)->ends_at_ns = at;
	return operate(p, "set_timeout", op_id, id, e);
}

static int set_on_timeout(
	void *p, const char *op_id, const char *id, enum on_timeout on_timeout, struct err *e)
{
	((struct fake *)p)->on_timeout = on_timeout;
	return operate(p, "set_on_timeout", op_id, id, e);
}

static int set_token(void *p, const char *op_id, const char *id, const char *token, struct err *e)
{
	struct fake *f = p;
	note(f->token, sizeof f->token, token);
	return operate(f, "set_token", op_id, id, e);
}

static int address(void *p, const char *id, struct host_place *ret, struct err *e)
{
	int rc = enter(p, "address", id, e);
	if (rc == 0)
		*ret = (struct host_place){.address = "10.213.0.9", .owner_only = true};
	return rc;
}

static int open_log(void *p, const char *id, int *ret_fd, struct err *e)
{
	struct fake *f = p;
	int rc = enter(f, "open_log", id, e);
	if (rc < 0)
		return rc;
	*ret_fd = memfd_create("log", MFD_CLOEXEC);
	if (file_write_full(*ret_fd, f->log, f->log_len) < 0)
		return err_set(e, ERR_INTERNAL, "memfd");
	lseek(*ret_fd, 0, SEEK_SET);
	return 0;
}

static int events(void *p, uint64_t after, size_t max, int wait_ms, struct host_event **ret,
	size_t *ret_n, struct err *e)
{
	struct fake *f = p;
	int rc = enter(f, "events", "", e);
	if (rc < 0)
		return rc;
	uint64_t until = clock_realtime_ns() + (uint64_t)wait_ms * NSEC_PER_MSEC;
	struct timespec ts = {
		.tv_sec = (time_t)(until / NSEC_PER_SEC), .tv_nsec = (long)(until % NSEC_PER_SEC)};
	pthread_mutex_lock(&f->lock);
	while (wait_ms > 0 && f->last_event <= after && !f->stopped)
		if (pthread_cond_timedwait(&f->changed, &f->lock, &ts) == ETIMEDOUT)
			break;
	uint64_t last = f->last_event, first = MAX(after, f->acked) + 1;
	pthread_mutex_unlock(&f->lock);
	size_t n = last >= first ? MIN(last - first + 1, max) : 0;
	*ret = calloc(n + 1, sizeof **ret);
	for (size_t i = 0; i < n; i++) {
		struct host_event *ev = &(*ret)[i];
		*ev = (struct host_event){.seq = first + i, .at_ns = 1000 + first + i};
		snprintf(ev->sandbox, sizeof ev->sandbox, "ibox");
		snprintf(ev->kind, sizeof ev->kind, "running");
		snprintf(ev->cause, sizeof ev->cause, "test");
		if (ev->seq % 2)
			ev->data = json_pack("{s:i}", "n", (int)ev->seq);
	}
	*ret_n = n;
	return 0;
}

static int ack_events(void *p, uint64_t upto, struct err *e)
{
	struct fake *f = p;
	int rc = enter(f, "ack_events", "", e);
	if (rc == 0)
		f->acked = f->upto = upto;
	return rc;
}

static int templates(void *p, struct host_template **ret, size_t *ret_n, struct err *e)
{
	int rc = enter(p, "templates", "", e);
	if (rc < 0)
		return rc;
	*ret = calloc(1, sizeof **ret);
	**ret = (struct host_template){.name = "base",
		.kind = "base",
		.frozen = true,
		.vcpus = 2,
		.memory_mb = 512,
		.min_memory_mb = 128,
		.disk_mb = 2048,
		.disk_bytes = 1ull << 40,
		.created_ns = 1764086400123456789ull,
		.kernel_id = "abc"};
	*ret_n = 1;
	return 0;
}

static int drain(void *p, const char *op_id, bool on, struct err *e)
{
	int rc = operate(p, "drain", op_id, "", e);
	if (rc == 0)
		((struct fake *)p)->draining = on;
	return rc;
}

static int info(void *p, struct host_info *ret, struct err *e)
{
	int rc = enter(p, "info", "", e);
	if (rc == 0)
		*ret = ((struct fake *)p)->info;
	return rc;
}

static int metrics(void *p, struct strbuf *out, struct err *e)
{
	int rc = enter(p, "metrics", "", e);
	if (rc == 0)
		strbuf_adds(out, "stasis_fake 1\n");
	return rc;
}

static int usage(
	void *p, const struct host_usage_ask *ask, struct host_usage_report *ret, struct err *e)
{
	int rc = enter(p, "usage", ask->of ? ask->of : "", e);
	if (rc < 0)
		return rc;
	*ret = (struct host_usage_report){.n_items = 1, .n_unknown = 1, .n_shares = 1};
	ret->sum = (struct host_usage){.total_bytes = 1ull << 40, .unknown_bytes = 12};
	ret->unknown = calloc(1, sizeof *ret->unknown);
	*ret->unknown = (struct host_unknown){.kind = "snapshot", .id = "abc", .bytes = 12};
	ret->items = calloc(1, sizeof *ret->items);
	*ret->items = (struct host_usage_item){"sandbox", "box", 5, 4, 3, 2, 1};
	ret->shares = calloc(1, sizeof *ret->shares);
	*ret->shares = (struct host_usage_share){"image", "base", 1};
	return 0;
}

static int runtimes(void *p, struct host_runtime **ret, size_t *ret_n, struct err *e)
{
	int rc = enter(p, "runtimes", "", e);
	if (rc < 0)
		return rc;
	*ret = calloc(1, sizeof **ret);
	**ret = (struct host_runtime){.id = "0123", .program = "qemu", .snapshots = 1ull << 40};
	*ret_n = 1;
	return 0;
}

static int figures(void *p, const char *id, struct host_figures *ret, struct err *e)
{
	int rc = enter(p, "figures", id, e);
	*ret = (struct host_figures){SANDBOX_RUNNING, 1ull << 40, 2, 3, 4, 5, 6, 7};
	return rc;
}

static int runtime_deny(void *p, const char *op_id, const char *id, bool on, struct err *e)
{
	int rc = operate(p, on ? "runtime_deny" : "runtime_allow", op_id, "", e);
	return rc == 0 && !str_eq(id, "0123") ? err_set(e, ERR_INVALID, "no runtime") : rc;
}

static int remove_unknown(void *p, const char *op_id, size_t *ret_n, struct err *e)
{
	int rc = operate(p, "remove_unknown", op_id, "", e);
	*ret_n = 3;
	return rc;
}

struct hostagent fake_host(struct fake *f)
{
	static const struct hostagent_ops ops = {create, destroy, expire, pause_, resume, fork_,
		snapshot_create, snapshot_delete, snapshots, snapshot_check, get, figures, list,
		set_timeout, set_on_timeout, set_token, address, open_log, events, ack_events,
		templates, drain, info, metrics, usage, runtimes, runtime_deny, remove_unknown};
	return (struct hostagent){&ops, f};
}

void fake_init(struct fake *f)
{
	memset(f, 0, sizeof *f);
	pthread_mutex_init(&f->lock, NULL);
	pthread_cond_init(&f->changed, NULL);
	f->log = "console\n";
	f->log_len = strlen(f->log);
	f->sandbox = (struct host_sandbox){.id = "ibox",
		.template = "base",
		.state = SANDBOX_RUNNING,
		.vcpus = 2,
		.memory_mb = 512,
		.disk_mb = 2048,
		.created_ns = 1764086400123456789ull,
		.started_ns = 1764086400223456789ull,
		.ends_at_ns = UINT64_MAX,
		.on_timeout = ON_TIMEOUT_PAUSE,
		.address = "10.213.0.9",
		.backend = "uffd",
		.generation = 1ull << 60,
		.detail = "a \"quoted\"\n\xc3\xa9 text",
		.disk_bytes = 123456789012ull,
		.phases = {{"slot", 12}, {"boot", 3400}},
		.n_phases = 2,
		.memory_written_bytes = 1ull << 40,
		.memory_kept_bytes = 8192};
	f->snapshot_answer = (struct host_snapshot){.id = "22222222-2222-4222-8222-222222222222",
		.kind = "template",
		.sandbox = "ibox",
		.template = "base",
		.parent = "33333333-3333-4333-8333-333333333333",
		.vcpus = 2,
		.memory_mb = 512,
		.disk_mb = 2048,
		.memory_bytes = 1ull << 33,
		.disk_bytes = 77,
		.created_ns = 1764086400123456789ull};
	f->info = (struct host_info){.version = "0.1.0",
		.vmm = "fake 1",
		.isolation = "kvm",
		.cpus = 8,
		.running = 3,
		.max_sandboxes = 200,
		.slots_ready = 4,
		.slots_taken = 3,
		.memory_mb = 32768,
		.disk_total = 1ull << 40,
		.disk_free = 1ull << 39,
		.volume_ok = true,
		.journal_id = "j1"};
}

void fake_done(struct fake *f)
{
	pthread_cond_destroy(&f->changed);
	pthread_mutex_destroy(&f->lock);
}

void fake_open(struct fake *f)
{
	pthread_mutex_lock(&f->lock);
	f->closed = f->hold_last = false;
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->lock);
}

void fake_wait_for(struct fake *f, unsigned waiting)
{
	pthread_mutex_lock(&f->lock);
	while (f->waiting < waiting)
		pthread_cond_wait(&f->changed, &f->lock);
	pthread_mutex_unlock(&f->lock);
}

void fake_stop(struct fake *f)
{
	pthread_mutex_lock(&f->lock);
	f->stopped = true;
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->lock);
}

void fake_add_event(struct fake *f)
{
	pthread_mutex_lock(&f->lock);
	f->last_event++;
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->lock);
}
