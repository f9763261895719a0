// SPDX-License-Identifier: Apache-2.0
#include "envd/api/rpc.h"
#include <string.h>
#include <strings.h>
#include "base/clock.h"
#include "envd/api/request.h"

static const struct {
	const char *name;
	int status;
} codes[] = {
	[RPC_ALREADY_EXISTS] = {"already_exists", 409},
	[RPC_FAILED_PRECONDITION] = {"failed_precondition", 400},
	[RPC_UNKNOWN] = {"unknown", 500},
};

static void reply_error(struct http_request *req, enum rpc_code code, const struct err *e)
{
	if (code == RPC_FROM_ERR) {
		http_reply_error(req, e); // routes_format_error writes it the protocol's way
		return;
	}
	_cleanup_strbuf_ struct strbuf text = {0};
	request_add_error(&text, codes[code].name, e);
	http_reply_data(req, codes[code].status, "application/json", text.data, text.len);
}

// "Basic bmFtZTo=" names the user; its password is ignored. *ret is owned by the caller, NULL
// without such a header.
static int basic_user(struct http_request *req, char **ret, struct err *e)
{
	const char *h = http_req_header(req, "Authorization");
	*ret = NULL;
	if (!h || strncasecmp(h, "Basic ", 6) != 0)
		return 0;
	h += 6 + strspn(h + 6, " ");
	_cleanup_strbuf_ struct strbuf text = {0};
	if (str_base64_decode(&text, h, strlen(h)) < 0 || !text.len ||
		memchr(text.data, '\0', text.len))
		return err_set(e, ERR_UNAUTHENTICATED,
			"Authorization: must be Basic with base64 of 'user:'");
	text.data[strcspn(text.data, ":")] = '\0';
	*ret = TAKE_PTR(text.data);
	return 0;
}

static int find_user(struct http_request *req, struct rpc_call *c, struct err *e)
{
	_cleanup_free_ char *name = NULL;
	int rc = basic_user(req, &name, e);
	if (rc == 0)
		rc = users_load(NULL, NULL, &c->users);
	return rc < 0 ? rc : request_find_user(c->agent, &c->users, name, &c->user, e);
}

static bool has_type(struct http_request *req, const char *type)
{
	const char *h = http_req_header(req, "Content-Type");
	size_t n = strlen(type);
	return h && strncasecmp(h, type, n) == 0 && (h[n] == '\0' || strchr("; \t", h[n]));
}

static void refuse_type(struct http_request *req, const char *type)
{
	struct err e = {0};
	err_set(&e, ERR_INVALID, "Content-Type: must be %s (the JSON codec)", type);
	http_reply_header(req, "Accept-Post", type);
	http_reply_error_status(req, 415, &e);
}

void rpc_call_done(struct rpc_call *c)
{
	json_decref(TAKE_PTR(c->in));
	json_decref(TAKE_PTR(c->out));
	strbuf_done(&c->text);
	user_done(&c->user);
	users_done(&c->users);
}

void rpc_serve_unary(
	struct http_request *req, struct agent *a, const struct rpc_method *methods, size_t n)
{
	struct err e = {0};
	_cleanup_(rpc_call_done) struct rpc_call c = {.agent = a};
	const char *name = http_req_param(req, "method");
	while (n > 0 && strcmp(methods->name, name) != 0) {
		methods++;
		n--;
	}
	if (n == 0) {
		err_set(&e, ERR_UNIMPLEMENTED, "%.100s is not implemented", name);
		if (has_type(req, RPC_STREAM_TYPE))
			rpc_reply_stream_error(req, &e);
		else
			http_reply_error(req, &e);
		return;
	}
	if (!has_type(req, "application/json")) {
		refuse_type(req, "application/json");
		return;
	}
	if (http_req_json(req, true, &c.in, &e) < 0 || find_user(req, &c, &e) < 0) {
		http_reply_error(req, &e);
		return;
	}
	enum rpc_code code = methods->fn(&c, &e);
	if (code == RPC_OK && c.text.failed) {
		err_errno(&e, ENOMEM, "%s", name);
		code = RPC_FROM_ERR;
	}
	if (code != RPC_OK)
		reply_error(req, code, &e);
	else if (c.text.len)
		http_reply_data(req, 200, "application/json", c.text.data, c.text.len);
	else
		http_reply_json(req, 200, c.out ? TAKE_PTR(c.out) : json_object());
}

void rpc_add_end(struct strbuf *out, const struct err *e)
{
	_cleanup_strbuf_ struct strbuf text = {0};
	if (!err_is_set(e)) {
		connect_envelope_add_end(out, NULL);
		return;
	}
	strbuf_adds(&text, "{\"error\":");
	request_add_error(&text, err_info(e->code)->connect, e);
	strbuf_addc(&text, '}');
	connect_envelope_add(out, CONNECT_FLAG_END, text.data, text.len);
}

void rpc_reply_stream_error(struct http_request *req, const struct err *e)
{
	_cleanup_strbuf_ struct strbuf out = {0};
	rpc_add_end(&out, e);
	http_reply_data(req, 200, RPC_STREAM_TYPE, out.data, out.len);
}

bool rpc_begin_stream(struct http_request *req, struct agent *a, struct rpc_call *c)
{
	struct err e = {0};
	_cleanup_strbuf_ struct strbuf body = {0}, message = {0};
	unsigned flags;
	size_t len;
	c->agent = a;
	if (!has_type(req, RPC_STREAM_TYPE)) {
		refuse_type(req, RPC_STREAM_TYPE);
		return false;
	}
	if (find_user(req, c, &e) < 0) {
		http_reply_error(req, &e); // as an HTTP status: clients map 401 to their own error
		return false;
	}
	const void *data = http_req_body(req, &len);
	strbuf_add(&body, data, len);
	int rc = connect_envelope_next(&body, &flags, &message);
	if (rc <= 0 || flags != 0)
		err_set(&e, ERR_INVALID, "the request must be one uncompressed message");
	else if (body.len > 0)
		err_set(&e, ERR_INVALID, "the request has bytes behind its message");
	else
		json_parse_object(message.data, message.len, &c->in, &e);
	if (err_is_set(&e)) {
		rpc_reply_stream_error(req, &e);
		return false;
	}
	return true;
}

int rpc_read_u32(json_t *object, const char *name, uint32_t *ret, struct err *e)
{
	json_t *v = json_object_get(object, name);
	uint64_t n = UINT64_MAX;
	if (!v || json_is_null(v))
		return 0;
	if (json_is_integer(v) && json_integer_value(v) >= 0)
		n = (uint64_t)json_integer_value(v);
	else if (json_is_string(v) && str_to_u64(json_string_value(v), UINT32_MAX, &n) < 0)
		n = UINT64_MAX;
	if (n > UINT32_MAX)
		return err_set(
			e, ERR_INVALID, "%s: must be a number from 0 to %u", name, UINT32_MAX);
	*ret = (uint32_t)n;
	return 0;
}

uint64_t rpc_header_time(struct http_request *req, const char *name, uint64_t unit_ns)
{
	const char *h = http_req_header(req, name);
	uint64_t n;
	// The protocol allows ten digits.
	return h && str_to_u64(h, 9999999999, &n) == 0 ? n * unit_ns : 0;
}
