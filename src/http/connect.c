// SPDX-License-Identifier: Apache-2.0
#include "http/connect.h"
#include <string.h>
#include "base/json.h"

#define HEADER_SIZE 5

static void put_header(unsigned char out[HEADER_SIZE], unsigned flags, uint32_t len)
{
	out[0] = (unsigned char)flags;
	out[1] = (unsigned char)(len >> 24);
	out[2] = (unsigned char)(len >> 16);
	out[3] = (unsigned char)(len >> 8);
	out[4] = (unsigned char)len;
}

void connect_envelope_add(struct strbuf *out, unsigned flags, const void *payload, size_t len)
{
	if (len > CONNECT_MAX_MESSAGE) {
		out->failed = true;
		return;
	}
	unsigned char head[HEADER_SIZE];
	put_header(head, flags, (uint32_t)len);
	strbuf_add(out, head, sizeof head);
	strbuf_add(out, payload, len);
}

void connect_envelope_add_json(struct strbuf *out, unsigned flags, json_t *message)
{
	_cleanup_free_ char *text = json_compact(message);
	if (!text) {
		out->failed = true;
		return;
	}
	connect_envelope_add(out, flags, text, strlen(text));
}

void connect_envelope_add_end(struct strbuf *out, const struct err *e)
{
	if (!err_is_set(e)) {
		connect_envelope_add(out, CONNECT_FLAG_END, "{}", 2);
		return;
	}
	_cleanup_json_ json_t *message = json_pack("{s:o}", "error", connect_error_json(e));
	connect_envelope_add_json(out, CONNECT_FLAG_END, message);
}

int connect_envelope_next(struct strbuf *in, unsigned *ret_flags, struct strbuf *ret_payload)
{
	if (in->len < HEADER_SIZE)
		return 0;
	const unsigned char *p = (const unsigned char *)in->data;
	// Nothing here negotiates compression; other bits are not defined by the protocol.
	if (p[0] & ~CONNECT_FLAG_END)
		return -EBADMSG;
	uint32_t len = (uint32_t)p[1] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 8 | p[4];
	if (len > CONNECT_MAX_MESSAGE)
		return -EMSGSIZE;
	if (in->len - HEADER_SIZE < len)
		return 0;
	unsigned flags = p[0];
	strbuf_done(ret_payload);
	strbuf_add(ret_payload, in->data + HEADER_SIZE, len);
	if (ret_payload->failed)
		return -ENOMEM;
	strbuf_consume(in, HEADER_SIZE + (size_t)len);
	*ret_flags = flags;
	return 1;
}

static enum err_code code_from_connect(const char *name)
{
	// Several of our codes share a Connect name; the first in this order is the best guess.
	static const enum err_code order[] = {ERR_INVALID, ERR_UNAUTHENTICATED, ERR_FORBIDDEN,
		ERR_NOT_FOUND, ERR_CONFLICT, ERR_LIMIT, ERR_CANCELED, ERR_INTERNAL,
		ERR_UNIMPLEMENTED, ERR_UNAVAILABLE, ERR_TIMEOUT};
	for (size_t i = 0; i < ARRAY_SIZE(order); i++)
		if (strcmp(err_info(order[i])->connect, name) == 0)
			return order[i];
	if (strcmp(name, "already_exists") == 0)
		return ERR_CONFLICT;
	if (strcmp(name, "failed_precondition") == 0 || strcmp(name, "out_of_range") == 0)
		return ERR_INVALID;
	return ERR_INTERNAL;
}

static enum err_code code_from_status(int status)
{
	for (int c = ERR_INVALID; c < ERR_CODE_MAX; c++)
		if (err_info((enum err_code)c)->http_status == status)
			return (enum err_code)c;
	return status >= 400 && status < 500 ? ERR_INVALID : ERR_INTERNAL;
}

int connect_parse_error(const char *payload, size_t len, int http_status, struct err *e)
{
	bool http_failed = http_status != 0 && (http_status < 200 || http_status > 299);
	_cleanup_json_ json_t *root = NULL;
	if (json_parse_object(payload, len, &root, NULL) < 0) {
		if (http_failed)
			return err_set(e, code_from_status(http_status), "status %d: %.*s",
				http_status, (int)MIN(len, 200), payload ? payload : "");
		return err_set(e, ERR_INTERNAL, "the end of the stream is not a JSON object");
	}
	// A unary error is the object itself, the end of a stream carries it as "error".
	json_t *error = http_failed ? root : json_object_get(root, "error");
	if (!error || json_is_null(error))
		return 0;
	const char *code = json_string_value(json_object_get(error, "code"));
	const char *message = json_string_value(json_object_get(error, "message"));
	enum err_code c = code ? code_from_connect(code)
			       : (http_failed ? code_from_status(http_status) : ERR_INTERNAL);
	int rc = err_set(e, c, "%s", message ? message : (code ? code : "unknown error"));
	if (e)
		e->reason =
			err_reason_from_name(json_string_value(json_object_get(error, "reason")));
	return rc;
}

json_t *connect_error_json(const struct err *e)
{
	return json_pack("{s:s, s:s}", "code", err_info(e->code)->connect, "message", e->text);
}
