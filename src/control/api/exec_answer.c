// SPDX-License-Identifier: Apache-2.0
#include "control/api/exec_answer.h"
#include "base/clock.h"
#include "base/str.h"
#include "control/api/reply.h"

static const char *const fates[] = {[EXEC_UNKNOWN] = "unknown",
	[EXEC_RUNNING] = "running",
	[EXEC_KILLED] = "killed",
	[EXEC_GONE] = "gone"};

int exec_result_add(struct exec_result *x, int stream, const void *data, size_t len)
{
	struct exec_output *o = stream == 2 ? &x->err : &x->out;
	size_t room = EXEC_OUTPUT_MAX - o->text.len;
	o->truncated |= len > room;
	strbuf_add(&o->text, data, MIN(len, room));
	return strbuf_check(&o->text);
}

void exec_result_done(struct exec_result *x)
{
	strbuf_done(&x->out.text);
	strbuf_done(&x->err.text);
}

// What is left of a text that was cut between two bytes of a character: without its beginning.
static size_t whole_characters(const char *data, size_t len)
{
	for (size_t n = 1; n <= 3 && n <= len; n++) {
		unsigned char c = (unsigned char)data[len - n];
		if (c < 0x80)
			break;
		if (c >= 0xc0) {
			size_t needs = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;
			return needs > n ? len - n : len;
		}
	}
	return len;
}

static int add_output(json_t *reply, const char *name, const char *encoding_name,
	const struct exec_output *o, bool cut, bool always_base64)
{
	const char *data = o->text.data ? o->text.data : "";
	size_t len = cut || o->truncated ? whole_characters(data, o->text.len) : o->text.len;
	if (!always_base64 && str_is_utf8(data, len))
		return json_object_set_new(reply, name, json_stringn(data, len)) |
		       json_object_set_new(reply, encoding_name, json_string("utf8"));
	_cleanup_strbuf_ struct strbuf b64 = {0};
	str_base64_encode(&b64, data, o->text.len);
	if (strbuf_check(&b64) < 0)
		return -ENOMEM;
	return json_object_set_new(reply, name, json_stringn(b64.data ? b64.data : "", b64.len)) |
	       json_object_set_new(reply, encoding_name, json_string("base64"));
}

// NULL when out of memory.
static json_t *render(struct http_request *r, const struct exec_result *x)
{
	static const char prefix[] = "signal: ";
	const char *signal = x->ended && str_starts(x->exit.status, prefix)
				     ? x->exit.status + sizeof prefix - 1
				     : NULL;
	json_t *j = json_pack("{s:I, s:o, s:s?, s:b, s:I}", "pid", (json_int_t)x->pid, "exit_code",
		x->ended ? json_integer(x->exit.exit_code) : json_null(), "signal", signal,
		"truncated", x->out.truncated || x->err.truncated, "duration_ms",
		(json_int_t)((clock_monotonic_ns() - http_req_started_ns(r)) / NSEC_PER_MSEC));
	if (!j)
		return NULL;
	bool cut = !x->ended || x->exit.output_open;
	int bad = x->ended ? json_object_set_new(j, "output_open", json_boolean(cut))
			   : json_object_set_new(j, "process", json_string(fates[x->fate]));
	if (x->ended)
		bad |= json_object_set_new(j, "oom_killed",
			x->exit.oom.count ? envd_oom_json(&x->exit.oom) : json_null());
	bad |= add_output(j, "stdout", "stdout_encoding", &x->out, cut, x->base64);
	bad |= add_output(j, "stderr", "stderr_encoding", &x->err, cut, x->base64);
	if (bad) {
		json_decref(j);
		return NULL;
	}
	return j;
}

void exec_answer(struct http_request *r, const struct exec_result *x)
{
	json_t *j = render(r, x);
	if (j) {
		http_reply_json(r, 200, j);
		return;
	}
	struct err e = {0};
	err_set(&e, ERR_INTERNAL, "out of memory");
	reply_error(r, &e);
}

void exec_answer_error(struct http_request *r, const struct exec_result *x, const struct err *e)
{
	json_t *body = x->pid ? http_error_json(e) : NULL, *details = body ? render(r, x) : NULL;
	if (!details) {
		json_decref(body);
		reply_error(r, e);
		return;
	}
	json_object_set_new(json_object_get(body, "error"), "details", details);
	int status = err_info(e->code)->http_status;
	reply_retry_after(r, status);
	http_reply_json(r, status, body);
}
