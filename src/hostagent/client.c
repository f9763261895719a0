// SPDX-License-Identifier: Apache-2.0
// The contract's struct over a socket. Connections are kept and shared by all threads: one is taken
// for a call and put back, so a call costs two system calls on each side and no dial.
//
// A connection that breaks is no answer. Every operation has an id and is done once however often
// it is asked for, so the call is made once more before the host is called lost; a fork is not,
// since its children may have been told of already.
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include "base/json.h"
#include "hostagent/hostagent.h"
#include "hostagent/messages.h"
#include "http/client.h"
#include "http/connect.h"

#define MAX_IDLE 16
#define READ_TIMEOUT_MS 10000
#define OPERATION_TIMEOUT_MS (15 * 60 * 1000)
#define MAX_ANSWER (64u << 20)
#define MAX_LOG (256u << 20)
// Marks errors of a host that did not answer; no code of a host's own comes with it.
#define LOST_ERRNUM EHOSTUNREACH

struct client {
	char *socket;
	unsigned read_timeout_ms, operation_timeout_ms;
	pthread_mutex_t lock;
	struct http_client *idle[MAX_IDLE];
	unsigned n_idle;
};

bool hostagent_lost(const struct err *e)
{
	return e && e->code == ERR_UNAVAILABLE && e->errnum == LOST_ERRNUM;
}

static int lost(struct client *c, const char *method, const struct err *why, struct err *e)
{
	int rc = err_set(e, ERR_UNAVAILABLE, "the host does not answer (%s, %s): %s", c->socket,
		method, why->text);
	if (e)
		e->errnum = LOST_ERRNUM;
	return rc;
}

// --- connections

static int take_connection(struct client *c, struct http_client **ret, struct err *e)
{
	pthread_mutex_lock(&c->lock);
	struct http_client *h = c->n_idle ? c->idle[--c->n_idle] : NULL;
	pthread_mutex_unlock(&c->lock);
	if (h) {
		*ret = h;
		return 0;
	}
	static const char *const headers[] = {"Connect-Protocol-Version: 1", NULL};
	const struct http_client_config cfg = {.unix_path = c->socket,
		.base_url = "http://host",
		.headers = headers,
		.passes_request_id = true};
	return http_client_new(&cfg, ret, e);
}

static void put_connection(struct client *c, struct http_client *h)
{
	pthread_mutex_lock(&c->lock);
	if (c->n_idle < MAX_IDLE)
		c->idle[c->n_idle++] = TAKE_PTR(h);
	pthread_mutex_unlock(&c->lock);
	http_client_free(h);
}

// --- unary calls

static bool may_ask_again(int rc)
{
	return rc == -ECONNRESET || rc == -EPIPE;
}

static int send_call(struct client *c, enum rpc rpc, const char *body, unsigned timeout_ms,
	struct http_response *ret, struct err *e)
{
	const struct rpc_method *m = &rpc_methods[rpc];
	const struct http_call call = {.method = "POST",
		.path = m->path,
		.body = body,
		.body_len = strlen(body),
		.timeout_ms = (int)timeout_ms,
		.max_body = MAX_ANSWER};
	for (int again = 0;; again++) {
		struct http_client *h = NULL;
		struct err why = {0};
		int rc = take_connection(c, &h, e);
		if (rc < 0)
			return rc;
		rc = http_client_call(h, &call, ret, &why);
		if (rc == 0) {
			put_connection(c, h);
			return 0;
		}
		http_client_free(h);
		http_response_done(ret);
		if (again == 0 && may_ask_again(rc))
			continue;
		if (rc == -EMSGSIZE || rc == -ENOMEM) {
			err_set(e, why.code, "%s: %s", m->name, why.text);
			return rc;
		}
		return lost(c, m->name, &why, e);
	}
}

static int read_answer(const struct rpc_method *m, const struct http_response *r, json_t **ret,
	void *out, struct err *e)
{
	_cleanup_json_ json_t *j = NULL;
	struct err why = {0};
	int rc = json_parse_object(r->body.data, r->body.len, &j, &why);
	if (r->status != 200)
		return rpc_error_read(j, r->status, e);
	if (rc == 0)
		rc = wire_decode(m->out, j, true, out, &why);
	if (rc < 0)
		return err_set(e, ERR_INTERNAL, "answer of the host to %s: %s", m->name, why.text);
	*ret = TAKE_PTR(j);
	return 0;
}

static int call(struct client *c, enum rpc rpc, const void *in, void *out, unsigned timeout_ms,
	struct err *e)
{
	const struct rpc_method *m = &rpc_methods[rpc];
	_cleanup_json_ json_t *request = wire_encode(m->in, in), *answer = NULL;
	_cleanup_free_ char *body = json_compact(request);
	_cleanup_(http_response_done) struct http_response r = {0};
	if (!body)
		return err_errno(e, ENOMEM, "%s", m->name);
	int rc = send_call(c, rpc, body, timeout_ms, &r, e);
	return rc < 0 ? rc : read_answer(m, &r, &answer, out, e);
}

static int ask(struct client *c, enum rpc rpc, const void *in, void *out, struct err *e)
{
	return call(c, rpc, in, out, c->read_timeout_ms, e);
}

static int order(struct client *c, enum rpc rpc, const void *in, void *out, struct err *e)
{
	return call(c, rpc, in, out, c->operation_timeout_ms, e);
}

// Ids come from outside; a longer one than any that exists would be cut to another.
static int set_id(struct rpc_request *q, const char *id, struct err *e)
{
	if (str_format(q->id, sizeof q->id, "%s", id) < 0)
		return err_set(e, ERR_NOT_FOUND, "no sandbox '%.64s'", id);
	return 0;
}

static int set_op(struct rpc_request *q, const char *op_id, struct err *e)
{
	if (str_format(q->op_id, sizeof q->op_id, "%s", op_id) < 0)
		return err_set(e, ERR_INVALID, "operation id '%.64s' is not a UUID", op_id);
	return 0;
}

static int no_sandbox(const char *method, struct err *e)
{
	return err_set(e, ERR_INTERNAL, "answer of the host to %s: without a sandbox", method);
}

static int take_sandbox(int rc, enum rpc rpc, const struct rpc_sandbox *got,
	struct host_sandbox *ret, struct err *e)
{
	if (rc == 0 && !got->has)
		rc = no_sandbox(rpc_methods[rpc].name, e);
	if (rc == 0)
		*ret = got->sandbox;
	return rc;
}

static int create(void *p, const struct host_create *req, struct host_sandbox *ret, struct err *e)
{
	struct rpc_sandbox got;
	int rc = order(p, RPC_CREATE_SANDBOX, req, &got, e);
	return take_sandbox(rc, RPC_CREATE_SANDBOX, &got, ret, e);
}

static int destroy(void *p, const char *op_id, const char *id, const char *cause, struct err *e)
{
	struct rpc_request q = {0};
	int rc = set_op(&q, op_id, e);
	if (rc == 0)
		rc = set_id(&q, id, e);
	if (rc < 0)
		return rc;
	snprintf(q.cause, sizeof q.cause, "%s", cause ? cause : "");
	return order(p, RPC_DESTROY_SANDBOX, &q, NULL, e);
}

static int expire(void *p, const char *op_id, const char *id, uint64_t generation,
	const char *cause, struct err *e)
{
	struct rpc_request q = {.generation = generation};
	int rc = set_op(&q, op_id, e);
	if (rc == 0)
		rc = set_id(&q, id, e);
	if (rc < 0)
		return rc;
	snprintf(q.cause, sizeof q.cause, "%s", cause);
	return order(p, RPC_DESTROY_SANDBOX, &q, NULL, e);
}

static int pause_(
	void *p, const char *op_id, const char *id, struct host_sandbox *ret, struct err *e)
{
	struct rpc_request q = {0};
	struct rpc_sandbox got;
	int rc = set_op(&q, op_id, e);
	if (rc == 0)
		rc = set_id(&q, id, e);
	if (rc == 0)
		rc = order(p, RPC_PAUSE_SANDBOX, &q, &got, e);
	return take_sandbox(rc, RPC_PAUSE_SANDBOX, &got, ret, e);
}

static int resume(void *p, const struct host_resume *req, struct host_sandbox *ret, struct err *e)
{
	struct rpc_sandbox got;
	enum rpc rpc = req->from[0] ? RPC_ROLLBACK_SANDBOX : RPC_RESUME_SANDBOX;
	int rc = order(p, rpc, req, &got, e);
	return take_sandbox(rc, rpc, &got, ret, e);
}

static int snapshot_create(
	void *p, const struct host_snapshot_create *req, struct host_snapshot *ret, struct err *e)
{
	struct rpc_snapshot got;
	int rc = order(p, RPC_CREATE_SNAPSHOT, req, &got, e);
	if (rc == 0 && !got.has)
		rc = err_set(e, ERR_INTERNAL,
			"answer of the host to CreateSnapshot: without a snapshot");
	if (rc == 0)
		*ret = got.snapshot;
	return rc;
}

static int set_snapshot(struct rpc_request *q, const char *snapshot, struct err *e)
{
	if (str_format(q->snapshot, sizeof q->snapshot, "%s", snapshot) < 0)
		return err_set(e, ERR_INVALID, "snapshot id '%.64s' is not a UUID", snapshot);
	return 0;
}

static int snapshot_delete(void *p, const char *op_id, const char *snapshot, struct err *e)
{
	struct rpc_request q = {0};
	int rc = set_op(&q, op_id, e);
	if (rc == 0)
		rc = set_snapshot(&q, snapshot, e);
	return rc < 0 ? rc : order(p, RPC_DELETE_SNAPSHOT, &q, NULL, e);
}

static int snapshot_check(
	void *p, const char *snapshot, struct host_snapshot_check *ret, struct err *e)
{
	struct rpc_request q = {0};
	int rc = set_snapshot(&q, snapshot, e);
	return rc < 0 ? rc : ask(p, RPC_CHECK_SNAPSHOT, &q, ret, e);
}

static int snapshots(void *p, struct host_snapshot **ret, size_t *ret_n, struct err *e)
{
	struct rpc_snapshots got;
	int rc = ask(p, RPC_LIST_SNAPSHOTS, NULL, &got, e);
	if (rc == 0) {
		*ret = got.list;
		*ret_n = got.n;
	}
	return rc;
}

static int get(void *p, const char *id, struct host_sandbox *ret, struct err *e)
{
	struct rpc_request q = {0};
	struct rpc_sandbox got;
	int rc = set_id(&q, id, e);
	if (rc == 0)
		rc = ask(p, RPC_GET_SANDBOX, &q, &got, e);
	return take_sandbox(rc, RPC_GET_SANDBOX, &got, ret, e);
}

static int list(void *p, struct host_sandbox **ret, size_t *ret_n, struct err *e)
{
	struct rpc_sandboxes got;
	int rc = ask(p, RPC_LIST_SANDBOXES, NULL, &got, e);
	if (rc == 0) {
		*ret = got.list;
		*ret_n = got.n;
	}
	return rc;
}

static int set_timeout(void *p, const char *op_id, const char *id, uint64_t at, struct err *e)
{
	struct rpc_request q = {.ends_at_ns = at};
	int rc = set_op(&q, op_id, e);
	if (rc == 0)
		rc = set_id(&q, id, e);
	return rc < 0 ? rc : order(p, RPC_SET_TIMEOUT, &q, NULL, e);
}

static int set_on_timeout(
	void *p, const char *op_id, const char *id, enum on_timeout on_timeout, struct err *e)
{
	struct rpc_request q = {.on_timeout = on_timeout};
	int rc = set_op(&q, op_id, e);
	if (rc == 0)
		rc = set_id(&q, id, e);
	return rc < 0 ? rc : order(p, RPC_SET_ON_TIMEOUT, &q, NULL, e);
}

static int set_token(void *p, const char *op_id, const char *id, const char *token, struct err *e)
{
	struct rpc_request q = {.token = token};
	int rc = set_op(&q, op_id, e);
	if (rc == 0)
		rc = set_id(&q, id, e);
	return rc < 0 ? rc : order(p, RPC_SET_TOKEN, &q, NULL, e);
}

// Asked for each request at the edge and not remembered: an address is another sandbox's as soon as
// its own has stopped.
static int address(void *p, const char *id, struct host_place *ret, struct err *e)
{
	struct rpc_request q = {0};
	struct rpc_text got;
	int rc = set_id(&q, id, e);
	if (rc == 0)
		rc = ask(p, RPC_GET_ADDRESS, &q, &got, e);
	if (rc == 0 && !got.place.address[0])
		rc = err_set(e, ERR_CONFLICT, "sandbox %s has no address", id);
	if (rc == 0)
		*ret = got.place;
	return rc;
}

static int events(void *p, uint64_t after, size_t max, int wait_ms, struct host_event **ret,
	size_t *ret_n, struct err *e)
{
	struct client *c = p;
	struct rpc_request q = {.after = MIN(after, (uint64_t)INT64_MAX),
		.max = (unsigned)MIN(MAX(max, 1u), RPC_EVENTS_MAX),
		.wait_ms = (unsigned)MIN(MAX(wait_ms, 0), (int)RPC_WAIT_MAX_MS)};
	struct rpc_events got;
	int rc = call(c, RPC_LIST_EVENTS, &q, &got, c->read_timeout_ms + q.wait_ms, e);
	if (rc == 0) {
		*ret = got.list;
		*ret_n = got.n;
	}
	return rc;
}

static int ack_events(void *p, uint64_t upto, struct err *e)
{
	struct rpc_request q = {.upto = upto};
	return ask(p, RPC_ACK_EVENTS, &q, NULL, e);
}

static int templates(void *p, struct host_template **ret, size_t *ret_n, struct err *e)
{
	struct rpc_host got;
	int rc = ask(p, RPC_LIST_TEMPLATES, NULL, &got, e);
	if (rc == 0) {
		*ret = got.templates;
		*ret_n = got.n;
	}
	return rc;
}

static int figures(void *p, const char *id, struct host_figures *ret, struct err *e)
{
	struct rpc_request q = {0};
	int rc = set_id(&q, id, e);
	return rc < 0 ? rc : ask(p, RPC_GET_FIGURES, &q, ret, e);
}

static int runtimes(void *p, struct host_runtime **ret, size_t *ret_n, struct err *e)
{
	struct rpc_runtimes got;
	int rc = ask(p, RPC_LIST_RUNTIMES, NULL, &got, e);
	if (rc == 0) {
		*ret = got.list;
		*ret_n = got.n;
	}
	return rc;
}

static int runtime_deny(void *p, const char *op_id, const char *id, bool on, struct err *e)
{
	struct rpc_request q = {.enabled = on};
	int rc = set_op(&q, op_id, e);
	if (rc == 0 && str_format(q.runtime, sizeof q.runtime, "%s", id) < 0)
		rc = err_set(e, ERR_INVALID, "'%.64s' is no runtime", id);
	return rc < 0 ? rc : order(p, RPC_DENY_RUNTIME, &q, NULL, e);
}

static int drain(void *p, const char *op_id, bool on, struct err *e)
{
	struct rpc_request q = {.enabled = on};
	int rc = set_op(&q, op_id, e);
	return rc < 0 ? rc : order(p, RPC_DRAIN, &q, NULL, e);
}

static int info(void *p, struct host_info *ret, struct err *e)
{
	struct rpc_request q = {.omit_templates = true};
	struct rpc_host got;
	int rc = ask(p, RPC_GET_HOST, &q, &got, e);
	if (rc < 0)
		return rc;
	if (got.has)
		*ret = got.info;
	wire_done(rpc_methods[RPC_GET_HOST].out, &got);
	return got.has ? 0 : err_set(e, ERR_INTERNAL, "answer of the host to GetHost: empty");
}

static int metrics(void *p, struct strbuf *out, struct err *e)
{
	struct rpc_text got;
	int rc = ask(p, RPC_GET_METRICS, NULL, &got, e);
	if (rc == 0) {
		strbuf_add(out, got.data.data, got.data.len);
		strbuf_done(&got.data);
		rc = strbuf_check(out);
	}
	return rc;
}

// All files are looked at.
static int usage(
	void *p, const struct host_usage_ask *ask, struct host_usage_report *ret, struct err *e)
{
	struct client *c = p;
	struct rpc_request q = {0};
	struct rpc_usage got;
	if (str_format(q.of, sizeof q.of, "%s", ask->of ? ask->of : "") < 0)
		return err_set(e, ERR_NOT_FOUND, "the host has no '%.64s'", ask->of);
	int rc = call(c, RPC_GET_USAGE, &q, &got, c->read_timeout_ms * 6, e);
	if (rc < 0)
		return rc;
	if (!got.has) {
		host_usage_report_done(&got.report);
		return err_set(e, ERR_INTERNAL, "answer of the host to GetUsage: empty");
	}
	*ret = got.report;
	return 0;
}

static int remove_unknown(void *p, const char *op_id, size_t *ret_n, struct err *e)
{
	struct rpc_request q = {0};
	struct rpc_removed got;
	int rc = set_op(&q, op_id, e);
	if (rc == 0)
		rc = order(p, RPC_REMOVE_UNKNOWN, &q, &got, e);
	if (rc == 0)
		*ret_n = (size_t)got.n;
	return rc;
}

// --- streams

struct incoming {
	const struct rpc_method *method;
	struct strbuf raw;
	int (*take)(void *ctx, void *message, struct err *e);
	void *ctx;
	bool ended; // by the host: with success when rc is 0
	int rc;	    // why it is given up, or what the host said
	struct err e;
};

static int take_message(struct incoming *in, const struct strbuf *payload)
{
	_cleanup_json_ json_t *j = NULL;
	struct err why = {0};
	void *message = calloc(1, in->method->out->size);
	if (!message)
		return err_errno(&in->e, ENOMEM, "%s", in->method->name);
	int rc = json_parse_object(payload->data, payload->len, &j, &why);
	if (rc == 0)
		rc = wire_decode(in->method->out, j, true, message, &why);
	if (rc < 0) {
		rc = err_set(&in->e, ERR_INTERNAL, "answer of the host to %s: %s", in->method->name,
			why.text);
	} else {
		rc = in->take(in->ctx, message, &in->e);
		wire_done(in->method->out, message);
	}
	free(message);
	return rc;
}

static void take_end(struct incoming *in, const struct strbuf *payload)
{
	_cleanup_json_ json_t *j = NULL;
	in->ended = true;
	if (json_parse_object(payload->data, payload->len, &j, &in->e) < 0) {
		in->rc = err_set(&in->e, ERR_INTERNAL, "the end of %s is not a JSON object",
			in->method->name);
		return;
	}
	json_t *error = json_object_get(j, "error");
	if (error && !json_is_null(error))
		in->rc = rpc_error_read(error, 0, &in->e);
}

static int on_data(void *ctx, const char *data, size_t len)
{
	struct incoming *in = ctx;
	_cleanup_strbuf_ struct strbuf payload = {0};
	unsigned flags;
	int got = 0;
	strbuf_add(&in->raw, data, len);
	if (in->raw.failed)
		in->rc = err_errno(&in->e, ENOMEM, "%s", in->method->name);
	while (in->rc == 0 && !in->ended &&
		(got = connect_envelope_next(&in->raw, &flags, &payload)) == 1) {
		if (flags & CONNECT_FLAG_END)
			take_end(in, &payload);
		else
			in->rc = take_message(in, &payload);
	}
	if (in->rc == 0 && got < 0)
		in->rc = err_errno(&in->e, got, "answer of the host to %s", in->method->name);
	// The rest of an ended stream is read, so that the connection can be kept.
	return in->rc < 0 && !in->ended ? in->rc : 0;
}

static int call_stream(struct client *c, enum rpc rpc, const void *request, unsigned timeout_ms,
	int (*take)(void *ctx, void *message, struct err *e), void *ctx, struct err *e)
{
	const struct rpc_method *m = &rpc_methods[rpc];
	_cleanup_json_ json_t *j = wire_encode(m->in, request);
	_cleanup_strbuf_ struct strbuf body = {0};
	_cleanup_(http_response_done) struct http_response r = {0};
	struct incoming in = {.method = m, .take = take, .ctx = ctx};
	struct http_client *h = NULL;
	struct err why = {0};
	connect_envelope_add_json(&body, 0, j);
	if (strbuf_check(&body) < 0)
		return err_errno(e, ENOMEM, "%s", m->name);
	const struct http_call http = {.method = "POST",
		.path = m->path,
		.content_type = "application/connect+json",
		.body = body.data,
		.body_len = body.len,
		.write = on_data,
		.ctx = &in,
		.timeout_ms = (int)timeout_ms,
		.max_body = MAX_ANSWER};
	int rc = take_connection(c, &h, e);
	if (rc < 0)
		return rc;
	rc = http_client_call(h, &http, &r, &why);
	strbuf_done(&in.raw);
	if (rc == 0)
		put_connection(c, h);
	else
		http_client_free(h);
	if (in.ended || in.rc < 0) {
		if (in.rc < 0 && e)
			*e = in.e;
		return in.rc;
	}
	if (rc == 0 && r.status != 200) {
		_cleanup_json_ json_t *error = NULL;
		json_parse_object(r.body.data, r.body.len, &error, NULL);
		return rpc_error_read(error, r.status, e);
	}
	if (rc == 0)
		err_set(&why, ERR_INTERNAL, "the answer was cut off");
	return lost(c, m->name, &why, e);
}

static int take_child(void *ctx, void *message, struct err *e)
{
	struct host_fork *f = ctx;
	const struct rpc_forked *m = message;
	size_t i = 0;
	while (i < f->n && !str_eq(f->children[i].id, m->id))
		i++;
	if (i == f->n)
		return err_set(e, ERR_INTERNAL,
			"answer of the host to ForkSandbox: child '%.64s' was not asked for",
			m->id);
	struct host_fork_child *child = &f->children[i];
	child->rc = 0;
	child->e = (struct err){0};
	if (m->ok)
		*child->info = m->sandbox;
	else
		child->rc = err_set(&child->e, err_code_from_name(m->error.code), "%s",
			m->failed ? m->error.message : "the host did not say what became of it");
	if (f->done)
		f->done(f->ctx, i);
	return 0;
}

static int fork_(void *p, struct host_fork *req, struct err *e)
{
	struct client *c = p;
	struct rpc_fork q = {.children = req->children,
		.n = req->n,
		.ends_at_ns = req->ends_at_ns,
		.on_timeout = req->on_timeout};
	memcpy(q.op_id, req->op_id, sizeof q.op_id);
	memcpy(q.id, req->id, sizeof q.id);
	// Overwritten by what the host tells of each.
	for (size_t i = 0; i < req->n; i++) {
		req->children[i].rc = err_set(&req->children[i].e, ERR_UNAVAILABLE,
			"the host did not say what became of it");
		req->children[i].e.errnum = LOST_ERRNUM;
	}
	return call_stream(c, RPC_FORK_SANDBOX, &q, c->operation_timeout_ms, take_child, req, e);
}

struct log {
	int fd;
	uint64_t length;
};

static int take_log(void *ctx, void *message, struct err *e)
{
	struct log *l = ctx;
	const struct rpc_text *m = message;
	if (m->data.len > MAX_LOG - l->length)
		return err_set(
			e, ERR_TOO_LARGE, "the console log is larger than %u bytes", MAX_LOG);
	l->length += m->data.len;
	size_t done = 0;
	while (done < m->data.len) {
		ssize_t n = RETRY_EINTR(write(l->fd, m->data.data + done, m->data.len - done));
		if (n < 0)
			return err_errno(e, errno, "copy of the console log");
		done += (size_t)n;
	}
	return 0;
}

static int open_log(void *p, const char *id, int *ret_fd, struct err *e)
{
	struct client *c = p;
	struct rpc_request q = {0};
	int rc = set_id(&q, id, e);
	if (rc < 0)
		return rc;
	_cleanup_close_ int fd = memfd_create("console.log", MFD_CLOEXEC);
	if (fd < 0)
		return err_errno(e, errno, "copy of the console log");
	struct log l = {.fd = fd};
	rc = call_stream(c, RPC_READ_LOG, &q, c->read_timeout_ms * 6, take_log, &l, e);
	if (rc == 0 && lseek(fd, 0, SEEK_SET) < 0)
		rc = err_errno(e, errno, "copy of the console log");
	if (rc == 0)
		*ret_fd = TAKE_FD(fd);
	return rc;
}

static const struct hostagent_ops remote = {
	.create = create,
	.destroy = destroy,
	.expire = expire,
	.pause = pause_,
	.resume = resume,
	.fork = fork_,
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
	.drain = drain,
	.info = info,
	.metrics = metrics,
	.usage = usage,
	.runtimes = runtimes,
	.figures = figures,
	.runtime_deny = runtime_deny,
	.remove_unknown = remove_unknown,
};

int hostagent_connect(
	const struct hostagent_client_config *cfg, struct hostagent *ret, struct err *e)
{
	struct client *c = calloc(1, sizeof *c);
	if (!c || !(c->socket = strdup(cfg->socket))) {
		free(c);
		return err_errno(e, ENOMEM, "host %s", cfg->socket);
	}
	c->read_timeout_ms = cfg->read_timeout_ms ? cfg->read_timeout_ms : READ_TIMEOUT_MS;
	c->operation_timeout_ms =
		cfg->operation_timeout_ms ? cfg->operation_timeout_ms : OPERATION_TIMEOUT_MS;
	pthread_mutex_init(&c->lock, NULL);
	*ret = (struct hostagent){&remote, c};
	return 0;
}

void hostagent_disconnect(struct hostagent *h)
{
	struct client *c = h->host;
	if (!c)
		return;
	for (unsigned i = 0; i < c->n_idle; i++)
		http_client_free(c->idle[i]);
	pthread_mutex_destroy(&c->lock);
	free(c->socket);
	free(c);
	h->host = NULL;
}
