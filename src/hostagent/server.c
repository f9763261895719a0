// SPDX-License-Identifier: Apache-2.0
// How this works. Each method is a route of the HTTP server, whose handlers may block: a unary call
// runs on its connection's thread from request to answer. Two things cannot: a call with a time-out
// must be answered in time while its work goes on (undo and completion are on their own clock), and
// a fork tells of its children while it works. Both run on a thread of their own, as a job that the
// connection waits for and may leave behind. The server's end waits for all jobs.
#include <fcntl.h>
#include <grp.h>
#include <pthread.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include "base/clock.h"
#include "base/json.h"
#include "base/lock.h"
#include "base/file.h"
#include "base/log.h"
#include "hostagent/hostagent.h"
#include "hostagent/messages.h"
#include "http/connect.h"
#include "http/server.h"

#define SIGN_OF_LIFE_NS (15 * NSEC_PER_SEC)
#define WATCH_WAIT_MS 500 // how long a watcher may go without a look at its connection
#define LOG_PIECE (24u << 10)
#define MAX_DEADLINE_MS 9999999999ull // of Connect-Timeout-Ms: ten digits
#define JOB_STACK (512u << 10)

struct hostagent_server {
	struct hostagent host;
	struct http_server *http;
	char *socket;
	struct http_route routes[RPC_MAX];
	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned jobs;
};

// --- what each method does: in and out are the structs of its messages

static int take_one(int rc, struct rpc_sandbox *out)
{
	out->has = rc == 0;
	return rc;
}

static int do_create(const struct hostagent *h, void *in, void *out, struct err *e)
{
	struct rpc_sandbox *o = out;
	return take_one(h->ops->create(h->host, in, &o->sandbox, e), o);
}

static int do_destroy(const struct hostagent *h, void *in, void *out, struct err *e)
{
	const struct rpc_request *q = in;
	const char *cause = q->cause[0] ? q->cause : "killed";
	return q->generation ? h->ops->expire(h->host, q->op_id, q->id, q->generation, cause, e)
			     : h->ops->destroy(h->host, q->op_id, q->id, cause, e);
}

static int do_pause(const struct hostagent *h, void *in, void *out, struct err *e)
{
	const struct rpc_request *q = in;
	struct rpc_sandbox *o = out;
	return take_one(h->ops->pause(h->host, q->op_id, q->id, &o->sandbox, e), o);
}

// Also of a roll-back: it names a snapshot.
static int do_resume(const struct hostagent *h, void *in, void *out, struct err *e)
{
	struct rpc_sandbox *o = out;
	return take_one(h->ops->resume(h->host, in, &o->sandbox, e), o);
}

static int do_set_timeout(const struct hostagent *h, void *in, void *out, struct err *e)
{
	const struct rpc_request *q = in;
	return h->ops->set_timeout(h->host, q->op_id, q->id, q->ends_at_ns, e);
}

static int do_set_on_timeout(const struct hostagent *h, void *in, void *out, struct err *e)
{
	const struct rpc_request *q = in;
	return h->ops->set_on_timeout(h->host, q->op_id, q->id, q->on_timeout, e);
}

static int do_set_token(const struct hostagent *h, void *in, void *out, struct err *e)
{
	const struct rpc_request *q = in;
	return h->ops->set_token(h->host, q->op_id, q->id, q->token, e);
}

static int do_get(const struct hostagent *h, void *in, void *out, struct err *e)
{
	struct rpc_sandbox *o = out;
	return take_one(
		h->ops->get(h->host, ((const struct rpc_request *)in)->id, &o->sandbox, e), o);
}

static int do_list(const struct hostagent *h, void *in, void *out, struct err *e)
{
	struct rpc_sandboxes *o = out;
	return h->ops->list(h->host, &o->list, &o->n, e);
}

static int do_address(const struct hostagent *h, void *in, void *out, struct err *e)
{
	return h->ops->address(
		h->host, ((const struct rpc_request *)in)->id, &((struct rpc_text *)out)->place, e);
}

static int do_snapshot_create(const struct hostagent *h, void *in, void *out, struct err *e)
{
	struct rpc_snapshot *o = out;
	int rc = h->ops->snapshot_create(h->host, in, &o->snapshot, e);
	o->has = rc == 0;
	return rc;
}

static int do_snapshot_delete(const struct hostagent *h, void *in, void *out, struct err *e)
{
	const struct rpc_request *q = in;
	return h->ops->snapshot_delete(h->host, q->op_id, q->snapshot, e);
}

static int do_snapshots(const struct hostagent *h, void *in, void *out, struct err *e)
{
	struct rpc_snapshots *o = out;
	return h->ops->snapshots(h->host, &o->list, &o->n, e);
}

static int do_snapshot_check(const struct hostagent *h, void *in, void *out, struct err *e)
{
	const struct rpc_request *q = in;
	return h->ops->snapshot_check(h->host, q->snapshot, out, e);
}

static int do_templates(const struct hostagent *h, void *in, void *out, struct err *e)
{
	struct rpc_host *o = out;
	return h->ops->templates(h->host, &o->templates, &o->n, e);
}

static int do_host(const struct hostagent *h, void *in, void *out, struct err *e)
{
	struct rpc_host *o = out;
	int rc = h->ops->info(h->host, &o->info, e);
	o->has = rc == 0;
	if (rc == 0 && !((const struct rpc_request *)in)->omit_templates)
		rc = do_templates(h, NULL, out, e);
	return rc;
}

static int do_drain(const struct hostagent *h, void *in, void *out, struct err *e)
{
	const struct rpc_request *q = in;
	return h->ops->drain(h->host, q->op_id, q->enabled, e);
}

static int do_metrics(const struct hostagent *h, void *in, void *out, struct err *e)
{
	return h->ops->metrics(h->host, &((struct rpc_text *)out)->data, e);
}

static int do_events(const struct hostagent *h, void *in, void *out, struct err *e)
{
	const struct rpc_request *q = in;
	struct rpc_events *o = out;
	return h->ops->events(h->host, q->after, q->max ? q->max : RPC_EVENTS_DEFAULT,
		(int)q->wait_ms, &o->list, &o->n, e);
}

static int do_ack(const struct hostagent *h, void *in, void *out, struct err *e)
{
	return h->ops->ack_events(h->host, ((const struct rpc_request *)in)->upto, e);
}

static int do_usage(const struct hostagent *h, void *in, void *out, struct err *e)
{
	struct rpc_usage *o = out;
	const struct host_usage_ask ask = {.of = ((const struct rpc_request *)in)->of};
	int rc = h->ops->usage(h->host, &ask, &o->report, e);
	o->has = rc == 0;
	return rc;
}

static int do_figures(const struct hostagent *h, void *in, void *out, struct err *e)
{
	return h->ops->figures(h->host, ((const struct rpc_request *)in)->id, out, e);
}

static int do_runtimes(const struct hostagent *h, void *in, void *out, struct err *e)
{
	struct rpc_runtimes *o = out;
	return h->ops->runtimes(h->host, &o->list, &o->n, e);
}

static int do_runtime_deny(const struct hostagent *h, void *in, void *out, struct err *e)
{
	const struct rpc_request *q = in;
	return h->ops->runtime_deny(h->host, q->op_id, q->runtime, q->enabled, e);
}

static int do_remove_unknown(const struct hostagent *h, void *in, void *out, struct err *e)
{
	size_t n = 0;
	int rc = h->ops->remove_unknown(h->host, ((const struct rpc_request *)in)->op_id, &n, e);
	((struct rpc_removed *)out)->n = n;
	return rc;
}

static int (*const calls[RPC_MAX])(
	const struct hostagent *h, void *in, void *out, struct err *e) = {
	[RPC_CREATE_SANDBOX] = do_create,
	[RPC_DESTROY_SANDBOX] = do_destroy,
	[RPC_PAUSE_SANDBOX] = do_pause,
	[RPC_RESUME_SANDBOX] = do_resume,
	[RPC_ROLLBACK_SANDBOX] = do_resume,
	[RPC_SET_TIMEOUT] = do_set_timeout,
	[RPC_SET_ON_TIMEOUT] = do_set_on_timeout,
	[RPC_SET_TOKEN] = do_set_token,
	[RPC_GET_SANDBOX] = do_get,
	[RPC_LIST_SANDBOXES] = do_list,
	[RPC_GET_ADDRESS] = do_address,
	[RPC_CREATE_SNAPSHOT] = do_snapshot_create,
	[RPC_DELETE_SNAPSHOT] = do_snapshot_delete,
	[RPC_LIST_SNAPSHOTS] = do_snapshots,
	[RPC_CHECK_SNAPSHOT] = do_snapshot_check,
	[RPC_LIST_TEMPLATES] = do_templates,
	[RPC_GET_HOST] = do_host,
	[RPC_DRAIN] = do_drain,
	[RPC_GET_METRICS] = do_metrics,
	[RPC_LIST_EVENTS] = do_events,
	[RPC_ACK_EVENTS] = do_ack,
	[RPC_GET_USAGE] = do_usage,
	[RPC_REMOVE_UNKNOWN] = do_remove_unknown,
	[RPC_LIST_RUNTIMES] = do_runtimes,
	[RPC_DENY_RUNTIME] = do_runtime_deny,
	[RPC_GET_FIGURES] = do_figures,
};

// --- a job: one call's data, and its work where that runs on another thread

struct job {
	struct hostagent_server *server;
	const struct rpc_method *method;
	enum rpc rpc;
	json_t *request; // in points into it
	void *in, *out;
	uint64_t deadline_ns;
	int rc;
	struct err e;
	// of a fork
	struct host_sandbox *forked;
	struct host_fork fork;
	// under the server's lock
	unsigned refs;
	bool done;
	struct strbuf messages; // envelopes to be sent
};

static void job_destroy(struct job *j)
{
	if (j->in)
		wire_done(j->method->in, j->in);
	if (j->out)
		wire_done(j->method->out, j->out);
	json_decref(j->request);
	strbuf_done(&j->messages);
	free(j->forked);
	free(j->in);
	free(j->out);
	free(j);
}

static void job_unref(void *p)
{
	struct job *j = p;
	pthread_mutex_lock(&j->server->lock);
	bool last = --j->refs == 0;
	pthread_mutex_unlock(&j->server->lock);
	if (last)
		job_destroy(j);
}

// The envelope of a message, added for the connection to send.
static void job_add_message(struct job *j, const void *out)
{
	_cleanup_json_ json_t *m = wire_encode(j->method->out, out);
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&j->server->lock);
	connect_envelope_add_json(&j->messages, 0, m);
	pthread_cond_broadcast(&j->server->changed);
}

static void on_child(void *ctx, size_t i)
{
	struct job *j = ctx;
	const struct host_fork_child *c = &j->fork.children[i];
	struct rpc_forked *m = calloc(1, sizeof *m);
	if (!m)
		return; // the stream's end tells that a child is missing
	snprintf(m->id, sizeof m->id, "%s", c->id);
	m->ok = c->rc == 0;
	m->failed = !m->ok;
	if (m->ok)
		m->sandbox = *c->info;
	snprintf(m->error.code, sizeof m->error.code, "%s",
		err_info(m->ok		     ? ERR_NONE
			 : err_is_set(&c->e) ? c->e.code
					     : ERR_INTERNAL)
			->name);
	snprintf(m->error.message, sizeof m->error.message, "%s",
		m->ok ? "" : err_text(&c->e, c->rc));
	job_add_message(j, m);
	free(m);
}

static int run_fork(struct job *j)
{
	struct rpc_fork *in = j->in;
	j->forked = calloc(in->n, sizeof *j->forked);
	if (!j->forked)
		return err_errno(&j->e, ENOMEM, "fork");
	j->fork = (struct host_fork){.children = in->children,
		.n = in->n,
		.ends_at_ns = in->ends_at_ns,
		.on_timeout = in->on_timeout,
		.done = on_child,
		.ctx = j};
	memcpy(j->fork.op_id, in->op_id, sizeof in->op_id);
	memcpy(j->fork.id, in->id, sizeof in->id);
	for (size_t i = 0; i < in->n; i++) {
		in->children[i].info = &j->forked[i];
		if (!in->children[i].token)
			in->children[i].token = "";
	}
	return j->server->host.ops->fork(j->server->host.host, &j->fork, &j->e);
}

static void run(struct job *j)
{
	const struct hostagent *h = &j->server->host;
	j->rc = j->rpc == RPC_FORK_SANDBOX ? run_fork(j) : calls[j->rpc](h, j->in, j->out, &j->e);
}

static void *job_thread(void *arg)
{
	struct job *j = arg;
	struct hostagent_server *s = j->server;
	run(j);
	pthread_mutex_lock(&s->lock);
	j->done = true;
	pthread_cond_broadcast(&s->changed);
	bool last = --j->refs == 0;
	pthread_mutex_unlock(&s->lock);
	if (last)
		job_destroy(j);
	// The server may be gone right after this.
	pthread_mutex_lock(&s->lock);
	s->jobs--;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

static int job_start(struct job *j)
{
	pthread_attr_t attr;
	pthread_t t;
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, JOB_STACK);
	pthread_mutex_lock(&j->server->lock);
	j->refs++;
	j->server->jobs++;
	pthread_mutex_unlock(&j->server->lock);
	int rc = -pthread_create(&t, &attr, job_thread, j);
	pthread_attr_destroy(&attr);
	if (rc < 0) {
		pthread_mutex_lock(&j->server->lock);
		j->refs--;
		j->server->jobs--;
		pthread_mutex_unlock(&j->server->lock);
		return err_errno(&j->e, rc, "thread of a call");
	}
	return 0;
}

static int too_late(struct err *e)
{
	return err_set(e, ERR_TIMEOUT,
		"the call's time is over; its work goes on: ask again with the same operation id");
}

// --- requests

static void reply_error(struct http_request *r, const struct err *e)
{
	_cleanup_json_ json_t *j = rpc_error_json(e);
	_cleanup_free_ char *text = json_compact(j);
	http_reply_data(r, rpc_error_status(e), "application/json", text ? text : "{}",
		text ? strlen(text) : 2);
}

static bool has_type(const struct http_request *r, const char *type)
{
	const char *got = http_req_header(r, "Content-Type");
	size_t n = strlen(type);
	return got && strncasecmp(got, type, n) == 0 &&
	       (got[n] == '\0' || got[n] == ';' || got[n] == ' ');
}

static int check_headers(struct http_request *r, bool stream, struct job *j)
{
	const char *version = http_req_header(r, "Connect-Protocol-Version");
	const char *timeout = http_req_header(r, "Connect-Timeout-Ms");
	const char *coding =
		http_req_header(r, stream ? "Connect-Content-Encoding" : "Content-Encoding");
	uint64_t ms = 0;
	if (version && !str_eq(version, "1"))
		return err_set(
			&j->e, ERR_INVALID, "Connect-Protocol-Version '%.20s': must be 1", version);
	if (coding && !str_eq(coding, "identity"))
		return err_set(&j->e, ERR_UNIMPLEMENTED, "%s '%.40s': only identity is supported",
			stream ? "Connect-Content-Encoding" : "Content-Encoding", coding);
	if (timeout && (str_to_u64(timeout, MAX_DEADLINE_MS, &ms) < 0 || strlen(timeout) > 10))
		return err_set(&j->e, ERR_INVALID,
			"Connect-Timeout-Ms '%.20s': must be a number of at most ten digits",
			timeout);
	if (timeout)
		j->deadline_ns = http_req_started_ns(r) + ms * NSEC_PER_MSEC;
	return 0;
}

static int read_request(struct http_request *r, bool stream, struct job *j)
{
	size_t len;
	const char *body = http_req_body(r, &len);
	_cleanup_strbuf_ struct strbuf in = {0}, payload = {0};
	int rc = check_headers(r, stream, j);
	if (rc < 0)
		return rc;
	if (stream) {
		unsigned flags;
		strbuf_add(&in, body, len);
		if (connect_envelope_next(&in, &flags, &payload) != 1 || flags != 0 || in.len > 0)
			return err_set(
				&j->e, ERR_INVALID, "the request must be one uncompressed message");
		body = payload.data;
		len = payload.len;
	}
	// An empty body is what some clients make of an empty message.
	rc = json_parse_object(len ? body : "{}", len ? len : 2, &j->request, &j->e);
	const struct rpc_method *m = j->method;
	j->in = calloc(1, MAX(m->in->size, sizeof(struct rpc_request)));
	j->out = calloc(1, MAX(m->out->size, 1));
	if (!j->in || !j->out)
		return err_errno(&j->e, ENOMEM, "%s", m->name);
	if (rc == 0)
		rc = wire_decode(m->in, j->request, false, j->in, &j->e);
	if (rc < 0)
		return err_prefix(&j->e, rc, "%s", m->name);
	if (j->rpc == RPC_CREATE_SANDBOX && !((struct host_create *)j->in)->token)
		((struct host_create *)j->in)->token = "";
	if ((j->rpc == RPC_RESUME_SANDBOX || j->rpc == RPC_ROLLBACK_SANDBOX) &&
		!((struct host_resume *)j->in)->token)
		((struct host_resume *)j->in)->token = "";
	return 0;
}

static struct job *job_new(struct http_request *r, struct hostagent_server *s)
{
	struct job *j = calloc(1, sizeof *j);
	if (!j)
		return NULL;
	j->server = s;
	j->rpc = (enum rpc)http_req_route(r)->flags;
	j->method = &rpc_methods[j->rpc];
	j->refs = 1;
	j->deadline_ns = TIME_NEVER;
	return j;
}

static bool right_type(struct http_request *r, const char *type)
{
	if (has_type(r, type))
		return true;
	http_reply_header(r, "Accept-Post", type);
	http_reply_empty(r, 415);
	return false;
}

static void no_memory(struct http_request *r)
{
	struct err e = {0};
	err_errno(&e, ENOMEM, "call");
	reply_error(r, &e);
}

static void on_unary(struct http_request *r, void *ctx)
{
	struct hostagent_server *s = ctx;
	if (!right_type(r, "application/json"))
		return;
	struct job *j = job_new(r, s);
	if (!j) {
		no_memory(r);
		return;
	}
	struct err late = {0};
	int rc = read_request(r, false, j);
	if (rc == 0 && deadline_over(j->deadline_ns))
		rc = too_late(&late);
	if (rc == 0 && j->deadline_ns == TIME_NEVER) {
		run(j);
		rc = j->rc;
	} else if (rc == 0 && (rc = job_start(j)) == 0) {
		pthread_mutex_lock(&s->lock);
		while (!j->done && cond_wait_until(&s->changed, &s->lock, j->deadline_ns) == 0)
			;
		bool done = j->done;
		pthread_mutex_unlock(&s->lock);
		rc = done ? j->rc : too_late(&late);
	}
	json_t *answer = rc == 0 ? wire_encode(j->method->out, j->out) : NULL;
	if (answer)
		http_reply_json(r, 200, answer);
	else if (rc == 0)
		no_memory(r);
	else
		reply_error(r, err_is_set(&late) ? &late : &j->e);
	job_unref(j);
}

// --- streams: always status 200, an error is the end's

struct stream {
	struct job *job;
	struct http_request *req;
	struct strbuf out;
	bool ended;
	// events
	uint64_t after, spoke_ns;
	// log
	int fd;
	uint64_t offset;
};

static void stream_free(void *p)
{
	struct stream *st = p;
	safe_close(st->fd);
	strbuf_done(&st->out);
	if (st->job)
		job_unref(st->job);
	free(st);
}

static void stream_end(struct stream *st, int rc, const struct err *e)
{
	st->ended = true;
	if (rc == 0) {
		connect_envelope_add_end(&st->out, NULL);
		return;
	}
	_cleanup_json_ json_t *m = json_pack("{s:o}", "error", rpc_error_json(e));
	connect_envelope_add_json(&st->out, CONNECT_FLAG_END, m);
}

static void more_forked(struct stream *st)
{
	struct job *j = st->job;
	struct err late = {0};
	pthread_mutex_lock(&j->server->lock);
	bool in_time = true;
	while (j->messages.len == 0 && !j->done && in_time)
		in_time =
			cond_wait_until(&j->server->changed, &j->server->lock, j->deadline_ns) == 0;
	struct strbuf got = j->messages;
	j->messages = (struct strbuf){0};
	bool done = j->done;
	pthread_mutex_unlock(&j->server->lock);
	strbuf_add(&st->out, got.data, got.len);
	st->out.failed |= got.failed;
	strbuf_done(&got);
	if (done)
		stream_end(st, j->rc, &j->e);
	else if (!in_time)
		stream_end(st, too_late(&late), &late);
}

static void more_events(struct stream *st)
{
	struct job *j = st->job;
	const struct hostagent *h = &j->server->host;
	struct rpc_events got = {0};
	struct err e = {0};
	if (deadline_over(j->deadline_ns)) {
		stream_end(st, too_late(&e), &e);
		return;
	}
	int rc = h->ops->events(
		h->host, st->after, RPC_EVENTS_DEFAULT, WATCH_WAIT_MS, &got.list, &got.n, &e);
	if (rc < 0) {
		stream_end(st, rc, &e);
		return;
	}
	if (got.n > 0 || clock_monotonic_ns() - st->spoke_ns > SIGN_OF_LIFE_NS) {
		_cleanup_json_ json_t *m = wire_encode(j->method->out, &got);
		connect_envelope_add_json(&st->out, 0, m);
		st->spoke_ns = clock_monotonic_ns();
	}
	if (got.n > 0)
		st->after = got.list[got.n - 1].seq;
	wire_done(j->method->out, &got);
}

static void more_log(struct stream *st)
{
	char buf[LOG_PIECE];
	struct err e = {0};
	ssize_t n = RETRY_EINTR(pread(st->fd, buf, sizeof buf, (off_t)st->offset));
	if (n <= 0) {
		stream_end(st, n == 0 ? 0 : err_errno(&e, errno, "console log"), &e);
		return;
	}
	st->offset += (uint64_t)n;
	struct rpc_text piece = {.data = {.data = buf, .len = (size_t)n}};
	_cleanup_json_ json_t *m = wire_encode(st->job->method->out, &piece);
	connect_envelope_add_json(&st->out, 0, m);
}

static ssize_t stream_next(void *p, char *buf, size_t max)
{
	struct stream *st = p;
	struct err e = {0};
	while (st->out.len == 0) {
		if (st->ended)
			return 0;
		enum rpc rpc = st->job->rpc;
		// A fork's work cannot be left half told because the server stops.
		if (rpc != RPC_FORK_SANDBOX && http_req_closing(st->req))
			stream_end(st, err_set(&e, ERR_UNAVAILABLE, "the host is stopping"), &e);
		else if (rpc != RPC_FORK_SANDBOX && http_req_aborted(st->req))
			return -ECONNRESET;
		else if (rpc == RPC_FORK_SANDBOX)
			more_forked(st);
		else if (rpc == RPC_WATCH_EVENTS)
			more_events(st);
		else
			more_log(st);
		if (st->out.failed)
			return -ENOMEM;
	}
	size_t n = MIN(max, st->out.len);
	memcpy(buf, st->out.data, n);
	strbuf_consume(&st->out, n);
	return (ssize_t)n;
}

static int stream_start(struct stream *st)
{
	struct job *j = st->job;
	const struct hostagent *h = &j->server->host;
	const struct rpc_request *q = j->in;
	if (deadline_over(j->deadline_ns))
		return too_late(&j->e);
	if (j->rpc == RPC_FORK_SANDBOX)
		return job_start(j);
	if (j->rpc == RPC_READ_LOG) {
		st->offset = q->offset;
		return h->ops->open_log(h->host, q->id, &st->fd, &j->e);
	}
	st->after = q->after;
	st->spoke_ns = clock_monotonic_ns();
	return 0;
}

static void on_stream(struct http_request *r, void *ctx)
{
	if (!right_type(r, "application/connect+json"))
		return;
	struct stream *st = calloc(1, sizeof *st);
	if (!st || !(st->job = job_new(r, ctx))) {
		free(st);
		no_memory(r);
		return;
	}
	st->req = r;
	st->fd = -1;
	int rc = read_request(r, true, st->job);
	if (rc == 0)
		rc = stream_start(st);
	if (rc < 0)
		stream_end(st, rc, &st->job->e);
	http_reply_stream(r, 200, "application/connect+json", stream_next, st, stream_free);
}

// What the HTTP server itself refuses: unknown paths, other methods than POST, large bodies.
static void format_error(
	struct http_request *r, int status, const struct err *e, struct strbuf *out)
{
	struct err no_method = {0};
	if (status == 404) {
		err_set(&no_method, ERR_UNIMPLEMENTED, "no such method: %.200s", http_req_path(r));
		e = &no_method;
	}
	_cleanup_json_ json_t *j = rpc_error_json(e);
	_cleanup_free_ char *text = json_compact(j);
	strbuf_adds(out, text ? text : "{}");
}

// --- life

// The group has to reach the socket: through a directory of ours that is closed to others.
static int let_group_reach(const char *socket, gid_t group)
{
	struct stat st;
	const char *slash = strrchr(socket, '/');
	_cleanup_free_ char *dir = !slash	     ? strdup(".")
				   : slash == socket ? strdup("/")
						     : strndup(socket, (size_t)(slash - socket));
	if (!dir)
		return -ENOMEM;
	if (stat(dir, &st) < 0)
		return -errno;
	return st.st_uid == geteuid() && !(st.st_mode & S_IXOTH)
		       ? file_let_group_pass(AT_FDCWD, dir, group)
		       : 0;
}

static int listen_at(const char *path, const char *group, struct err *e)
{
	bool shared = group && *group;
	struct group gr, *found = NULL;
	char buf[4096];
	if (shared && (getgrnam_r(group, &gr, buf, sizeof buf, &found) != 0 || !found))
		return err_set(e, ERR_INVALID, "no group '%s' on this machine", group);
	// Who may connect can do anything to the sandboxes of this machine.
	_cleanup_close_ int fd = http_listen_unix(path, 0600, e);
	if (fd < 0)
		return fd;
	if (shared && (chown(path, (uid_t)-1, gr.gr_gid) < 0 || chmod(path, 0660) < 0))
		return err_errno(e, errno, "%s", path);
	int rc = shared ? let_group_reach(path, gr.gr_gid) : 0;
	if (rc < 0)
		return err_errno(e, rc, "let group %s reach %s", group, path);
	return TAKE_FD(fd);
}

int hostagent_serve(
	const struct hostagent_server_config *cfg, struct hostagent_server **ret, struct err *e)
{
	_cleanup_(hostagent_server_freep) struct hostagent_server *s = calloc(1, sizeof *s);
	if (!s)
		return err_errno(e, ENOMEM, "host agent");
	s->host = cfg->host;
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->changed, NULL);
	for (unsigned i = 0; i < RPC_MAX; i++)
		s->routes[i] = (struct http_route){.method = "POST",
			.pattern = rpc_methods[i].path,
			.handler = rpc_methods[i].stream ? on_stream : on_unary,
			.flags = i};
	int fd = listen_at(cfg->socket, cfg->group, e);
	if (fd < 0)
		return fd;
	s->socket = strdup(cfg->socket);
	const struct http_server_config http = {
		.routes = s->routes,
		.n_routes = RPC_MAX,
		.ctx = s,
		.listen_fd = fd,
		.default_body_limit = RPC_MAX_BODY,
		.format_error = format_error,
		.request_ids = true,
	};
	int rc = s->socket ? http_server_start(&http, &s->http, e)
			   : err_errno(e, ENOMEM, "host agent");
	if (rc < 0)
		return rc;
	*ret = TAKE_PTR(s);
	return 0;
}

struct hostagent_server *hostagent_server_free(struct hostagent_server *s)
{
	if (!s)
		return NULL;
	if (s->http) {
		// Its name goes first: who finds it gone does not wait for an answer.
		unlink(s->socket);
		http_server_free(s->http);
	}
	pthread_mutex_lock(&s->lock);
	while (s->jobs > 0)
		pthread_cond_wait(&s->changed, &s->lock);
	pthread_mutex_unlock(&s->lock);
	pthread_cond_destroy(&s->changed);
	pthread_mutex_destroy(&s->lock);
	free(s->socket);
	free(s);
	return NULL;
}
