// SPDX-License-Identifier: Apache-2.0
#include "envd/api/process_stream.h"
#include <string.h>
#include "base/clock.h"
#include "envd/api/oom.h"
#include "envd/api/rpc.h"

#define KEEPALIVE_DEFAULT_NS (90 * NSEC_PER_SEC)
#define COALESCE (24u << 10) // stop collecting further messages for one write beyond this

struct stream {
	struct http_request *req;
	struct process_sub *sub;
	bool is_start; // its time-out is the process's own
	uint64_t deadline_ns, keepalive_ns;
	bool started, finished;
	struct strbuf out; // encoded, from sent on not yet handed out
	size_t sent;
};

static void stream_free(void *p)
{
	struct stream *s = p;
	process_sub_free(s->sub);
	strbuf_done(&s->out);
	free(s);
}

static void add_text(struct stream *s, const char *json)
{
	connect_envelope_add(&s->out, 0, json, strlen(json));
}

// {"event":{"data":{"stdout":"<base64>"}}}, written by hand: it carries all output.
static void add_data(struct stream *s, const struct process_chunk *c)
{
	static const char *const names[] = {
		[PROCESS_STDOUT] = "stdout", [PROCESS_STDERR] = "stderr", [PROCESS_PTY] = "pty"};
	size_t start = s->out.len;
	connect_envelope_add(&s->out, 0, "", 0);
	size_t payload = s->out.len;
	strbuf_addf(&s->out, "{\"event\":{\"data\":{\"%s\":\"", names[c->stream]);
	str_base64_encode(&s->out, c->data, c->len);
	strbuf_adds(&s->out, "\"}}}");
	if (s->out.failed)
		return;
	size_t len = s->out.len - payload;
	unsigned char *head = (unsigned char *)s->out.data + start;
	for (int i = 0; i < 4; i++)
		head[1 + i] = (unsigned char)(len >> (24 - 8 * i));
}

// "error" has text alone in E2B's protocol; the object beside it is ours.
static void add_kill(json_t *end, const struct process_end *e)
{
	_cleanup_free_ char *text = str_printf("%s: out of memory: the kernel killed %s (%llu MiB)",
		e->status, e->oom.comm, (unsigned long long)(e->oom.rss_bytes >> 20));
	if (!e->exited || e->exit_code != 0)
		json_object_set_new(end, "error", json_string(text ? text : e->status));
	json_object_set_new(end, "oomKilled", oom_json(&e->oom, e->oom_kills));
}

static void add_end(struct stream *s)
{
	const struct process_end *end = process_sub_end(s->sub);
	if (s->is_start && end->timed_out) {
		struct err e = {0};
		if (!end->killed)
			err_set(&e, ERR_TIMEOUT,
				"the process has ended (%s), but others still hold its output: "
				"they go on",
				end->status);
		else
			err_set(&e, ERR_TIMEOUT,
				"the process did not end in time and was killed, with its process "
				"group");
		rpc_add_end(&s->out, &e);
	} else {
		bool ok = end->exited && end->exit_code == 0;
		json_t *o = json_pack("{s:{s:{s:i, s:b, s:s}}}", "event", "end", "exitCode",
			end->exit_code, "exited", end->exited, "status", end->status);
		if (!ok)
			json_object_set_new(json_object_get(json_object_get(o, "event"), "end"),
				"error", json_string(end->status));
		if (end->output_open) // beyond E2B's protocol
			json_object_set_new(json_object_get(json_object_get(o, "event"), "end"),
				"outputOpen", json_true());
		if (end->oom_kills > 0)
			add_kill(json_object_get(json_object_get(o, "event"), "end"), end);
		connect_envelope_add_json(&s->out, 0, o);
		json_decref(o);
		rpc_add_end(&s->out, NULL);
	}
	s->finished = true;
}

static void add_timeout(struct stream *s)
{
	struct err e = {0};
	err_set(&e, ERR_TIMEOUT,
		"the time given for the stream is over; the process is left as it is");
	rpc_add_end(&s->out, &e);
	s->finished = true;
}

static void add_moved(struct stream *s)
{
	struct err e = {0};
	err_set(&e, ERR_UNAVAILABLE, "the agent is being replaced: connect to the process again");
	rpc_add_end(&s->out, &e);
	s->finished = true;
}

// Waits for one event and encodes it. -errno: the client is gone.
static int take_event(struct stream *s)
{
	uint64_t idle = clock_monotonic_ns() + s->keepalive_ns;
	struct process_chunk *c;
	switch (process_sub_next(s->sub, MIN(idle, s->deadline_ns), http_req_socket(s->req), &c)) {
	case PROCESS_DATA:
		add_data(s, c);
		process_chunk_release(s->sub, c);
		break;
	case PROCESS_END:
		add_end(s);
		break;
	case PROCESS_IDLE:
		if (deadline_over(s->deadline_ns))
			add_timeout(s);
		else
			add_text(s, "{\"event\":{\"keepalive\":{}}}");
		break;
	case PROCESS_MOVED:
		add_moved(s);
		break;
	case PROCESS_GONE:
		return -ECONNRESET;
	}
	return strbuf_check(&s->out);
}

static ssize_t stream_next(void *p, char *buf, size_t max)
{
	struct stream *s = p;
	if (s->sent == s->out.len) {
		strbuf_consume(&s->out, s->out.len);
		s->sent = 0;
		if (s->finished)
			return 0;
		if (!s->started) {
			char text[64];
			snprintf(text, sizeof text, "{\"event\":{\"start\":{\"pid\":%d}}}",
				(int)process_sub_pid(s->sub));
			add_text(s, text);
			s->started = true;
		} else {
			do {
				int rc = take_event(s);
				if (rc < 0)
					return rc;
			} while (
				!s->finished && s->out.len < COALESCE && process_sub_ready(s->sub));
		}
	}
	size_t n = MIN(max, s->out.len - s->sent);
	memcpy(buf, s->out.data + s->sent, n);
	s->sent += n;
	return (ssize_t)n;
}

void process_stream_reply(struct http_request *req, struct process_sub *sub, bool is_start)
{
	struct stream *s = calloc(1, sizeof *s);
	if (!s) {
		struct err e = {0};
		err_errno(&e, ENOMEM, "stream");
		process_sub_free(sub);
		rpc_reply_stream_error(req, &e);
		return;
	}
	uint64_t timeout = rpc_header_time(req, "Connect-Timeout-Ms", NSEC_PER_MSEC);
	uint64_t keepalive = rpc_header_time(req, "Keepalive-Ping-Interval", NSEC_PER_SEC);
	s->req = req;
	s->sub = sub;
	s->is_start = is_start;
	s->keepalive_ns = keepalive ? keepalive : KEEPALIVE_DEFAULT_NS;
	s->deadline_ns = timeout && !is_start ? clock_monotonic_ns() + timeout : TIME_NEVER;
	http_reply_stream(req, 200, RPC_STREAM_TYPE, stream_next, s, stream_free);
}
