// SPDX-License-Identifier: Apache-2.0
// How this works. A guest chooses what its command writes, so what is kept of it costs out of a
// budget of all answers under way, beyond a little that each one has for nothing. A large answer is
// not made as a whole: its text is written piece by piece out of the bytes that were kept, as the
// client takes it.
#include "control/api/exec_answer.h"
#include <string.h>
#include "base/clock.h"
#include "base/json.h"
#include "base/str.h"
#include "control/api/reply.h"

#define PIECE 12288u	    // of output, encoded at once: a multiple of three
#define ESCAPES_COUNT 4096u // below this base64 saves nothing that counts
#define GROWTH (256u << 10) // that the budget is asked for at once

static const char *const fates[] = {[EXEC_UNKNOWN] = "unknown",
	[EXEC_RUNNING] = "running",
	[EXEC_KILLED] = "killed",
	[EXEC_GONE] = "gone"};

// --- the budget

static int charge(struct exec_result *x, size_t needs)
{
	if (needs <= EXEC_FREE_BYTES || needs <= x->charged || !x->budget)
		return 0;
	size_t more = MIN(needs - x->charged + GROWTH, 2 * (size_t)EXEC_OUTPUT_MAX);
	uint64_t used = x->budget->used;
	do {
		if (used + more > x->budget->limit)
			return -EAGAIN;
	} while (!atomic_compare_exchange_weak(&x->budget->used, &used, used + more));
	x->charged += more;
	return 0;
}

// A buffer that grows by doubling has up to twice what is in it.
static size_t held(const struct exec_result *x, size_t more)
{
	return 2 * (x->out.text.len + x->err.text.len + more);
}

int exec_result_add(struct exec_result *x, int stream, const void *data, size_t len)
{
	struct exec_output *o = stream == 2 ? &x->err : &x->out;
	size_t room = EXEC_OUTPUT_MAX - o->text.len;
	o->truncated |= len > room;
	len = MIN(len, room);
	if (charge(x, held(x, len)) < 0)
		return -EAGAIN;
	strbuf_add(&o->text, data, len);
	return strbuf_check(&o->text);
}

void exec_result_done(struct exec_result *x)
{
	strbuf_done(&x->out.text);
	strbuf_done(&x->err.text);
	if (x->charged)
		atomic_fetch_sub(&x->budget->used, x->charged);
	x->charged = 0;
}

// --- how output is shown

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

// Of a byte within a JSON string, as the library writes it (RFC 8259, section 7).
static size_t escaped_len(unsigned char c)
{
	if (c == '"' || c == '\\' || c == '\b' || c == '\f' || c == '\n' || c == '\r' || c == '\t')
		return 2;
	return c < 0x20 ? 6 : 1;
}

static bool escapes_are_longer(const char *data, size_t len)
{
	size_t escaped = 0;
	for (size_t i = 0; i < len; i++)
		escaped += escaped_len((unsigned char)data[i]);
	return len >= ESCAPES_COUNT && escaped > (len + 2) / 3 * 4;
}

struct shown {
	const char *data;
	size_t len;
	bool base64;
};

static struct shown how(const struct exec_result *x, const struct exec_output *o, bool cut)
{
	struct shown s = {.data = o->text.data ? o->text.data : "", .len = o->text.len};
	size_t whole = cut || o->truncated ? whole_characters(s.data, s.len) : s.len;
	s.base64 = x->base64 || !str_is_utf8(s.data, whole) || escapes_are_longer(s.data, whole);
	if (!s.base64)
		s.len = whole;
	return s;
}

// Up to PIECE bytes of it from at on, as text within a JSON string; returns how many.
static size_t add_piece(struct strbuf *out, const struct shown *s, size_t at)
{
	static const char hex[] = "0123456789abcdef";
	size_t n = MIN(s->len - at, PIECE);
	if (s->base64) {
		str_base64_encode(out, s->data + at, n);
		return n;
	}
	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)s->data[at + i];
		const char *two = strchr("\"\"\\\\\bb\ff\nn\rr\tt", c);
		size_t len = escaped_len(c);
		if (len == 1)
			strbuf_addc(out, (char)c);
		else if (len == 2)
			strbuf_addf(out, "\\%c", c == '"' || c == '\\' ? c : two[1]);
		else
			strbuf_addf(out, "\\u00%c%c", hex[c >> 4], hex[c & 15]);
	}
	return n;
}

// All but the output itself. NULL when out of memory.
static json_t *render(struct http_request *r, const struct exec_result *x, const struct shown *out,
	const struct shown *err)
{
	static const char prefix[] = "signal: ";
	const char *signal = x->ended && str_starts(x->exit.status, prefix)
				     ? x->exit.status + sizeof prefix - 1
				     : NULL;
	json_t *j = json_pack("{s:I, s:o, s:s?, s:b, s:I, s:s, s:s}", "pid", (json_int_t)x->pid,
		"exit_code", x->ended ? json_integer(x->exit.exit_code) : json_null(), "signal",
		signal, "truncated", x->out.truncated || x->err.truncated, "duration_ms",
		(json_int_t)((clock_monotonic_ns() - http_req_started_ns(r)) / NSEC_PER_MSEC),
		"stdout_encoding", out->base64 ? "base64" : "utf8", "stderr_encoding",
		err->base64 ? "base64" : "utf8");
	if (!j)
		return NULL;
	bool cut = !x->ended || x->exit.output_open;
	int bad = x->ended ? json_object_set_new(j, "output_open", json_boolean(cut))
			   : json_object_set_new(j, "process", json_string(fates[x->fate]));
	if (x->ended)
		bad |= json_object_set_new(j, "oom_killed",
			x->exit.oom.count ? envd_oom_json(&x->exit.oom) : json_null());
	if (bad) {
		json_decref(j);
		return NULL;
	}
	return j;
}

// --- the answer

struct answer {
	struct exec_result x; // taken over
	struct shown out, err;
	struct strbuf head, tail, text; // before and behind the output; what is not sent yet
	int part;			// head, stdout, between, stderr, tail
	size_t at;			// of that part of the output
};

static void answer_free(void *p)
{
	struct answer *a = p;
	exec_result_done(&a->x);
	strbuf_done(&a->head);
	strbuf_done(&a->tail);
	strbuf_done(&a->text);
	free(a);
}
static void answer_freep(struct answer **a)
{
	if (*a)
		answer_free(*a);
}

// The next piece of text; false: there is no more.
static bool next_text(struct answer *a)
{
	const struct shown *s = a->part == 1 ? &a->out : &a->err;
	switch (a->part) {
	case 0:
		strbuf_add(&a->text, a->head.data, a->head.len);
		a->part++;
		return true;
	case 1:
	case 3:
		if (a->at < s->len) {
			a->at += add_piece(&a->text, s, a->at);
			return true;
		}
		a->at = 0;
		strbuf_adds(&a->text, a->part++ == 1 ? "\",\"stderr\":\"" : "\"");
		a->part += a->part == 2;
		return true;
	case 4:
		strbuf_add(&a->text, a->tail.data, a->tail.len);
		a->part++;
		return true;
	default:
		return false;
	}
}

static ssize_t next(void *stream, char *buf, size_t max)
{
	struct answer *a = stream;
	while (a->text.len == 0)
		if (!next_text(a))
			return 0;
	if (strbuf_check(&a->text) < 0)
		return -ENOMEM;
	size_t n = MIN(max, a->text.len);
	memcpy(buf, a->text.data, n);
	strbuf_consume(&a->text, n);
	return (ssize_t)n;
}

// The object's text is left open for the output, which comes last in it; e: it stands in its error.
static int frame(struct answer *a, struct http_request *r, const struct err *e)
{
	_cleanup_json_ json_t *j = render(r, &a->x, &a->out, &a->err);
	_cleanup_json_ json_t *error = e ? http_error_json(e) : NULL;
	_cleanup_free_ char *text = j ? json_compact(j) : NULL;
	_cleanup_free_ char *around = error ? json_compact(json_object_get(error, "error")) : NULL;
	if (!text || (e && !around))
		return -ENOMEM;
	if (around)
		strbuf_addf(
			&a->head, "{\"error\":%.*s,\"details\":", (int)strlen(around) - 1, around);
	strbuf_addf(&a->head, "%.*s,\"stdout\":\"", (int)strlen(text) - 1, text);
	strbuf_adds(&a->tail, e ? "}}}" : "}");
	return strbuf_check(&a->head) < 0 ? -ENOMEM : strbuf_check(&a->tail);
}

static int reply_whole(struct http_request *r, int status, struct answer *a)
{
	while (next_text(a))
		;
	if (strbuf_check(&a->text) < 0)
		return -ENOMEM;
	http_reply_data(r, status, "application/json", a->text.data, a->text.len);
	return 0;
}

static int reply(struct http_request *r, struct exec_result *x, int status, const struct err *e)
{
	_cleanup_(answer_freep) struct answer *a = calloc(1, sizeof *a);
	if (!a)
		return -ENOMEM;
	bool cut = !x->ended || x->exit.output_open;
	a->x = *x;
	*x = (struct exec_result){0}; // the answer's from now on
	a->out = how(&a->x, &a->x.out, cut);
	a->err = how(&a->x, &a->x.err, cut);
	int rc = frame(a, r, e);
	if (rc < 0)
		return rc;
	if (a->out.len + a->err.len <= EXEC_FREE_BYTES)
		return reply_whole(r, status, a);
	http_reply_stream(r, status, "application/json", next, TAKE_PTR(a), answer_free);
	return 0;
}

void exec_answer(struct http_request *r, struct exec_result *x)
{
	struct err e = {0};
	if (reply(r, x, 200, NULL) == 0)
		return;
	err_set(&e, ERR_INTERNAL, "out of memory");
	reply_error(r, &e);
}

void exec_answer_error(struct http_request *r, struct exec_result *x, const struct err *e)
{
	int status = err_info(e->code)->http_status;
	if (!x->pid) {
		reply_error(r, e);
		return;
	}
	reply_retry_after(r, status);
	if (reply(r, x, status, e) < 0)
		reply_error(r, e);
}
