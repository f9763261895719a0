// SPDX-License-Identifier: Apache-2.0
// Errors on the wire. The protocol's codes are coarser than ours (too_large, limit and no_space are
// all resource_exhausted), so each error carries ours in a detail: ErrorInfo as protobuf in base64,
// as the protocol wants it, and again as readable JSON.
#include <string.h>
#include "base/json.h"
#include "hostagent/messages.h"
#include "http/connect.h"

#define TAG_CODE 0x0a // field 1, length-delimited

json_t *rpc_error_json(const struct err *e)
{
	struct err unknown = {0};
	if (!err_is_set(e)) {
		err_set(&unknown, ERR_INTERNAL, "the call failed without a reason");
		e = &unknown;
	}
	const struct err_info *info = err_info(e->code);
	unsigned char message[64] = {TAG_CODE, (unsigned char)strlen(info->name)};
	memcpy(message + 2, info->name, strlen(info->name));
	_cleanup_strbuf_ struct strbuf value = {0};
	str_base64_encode(&value, message, 2 + strlen(info->name));
	if (strbuf_check(&value) < 0)
		return NULL;
	return json_pack("{s:s, s:o, s:[{s:s, s:s, s:{s:s}}]}", "code", info->connect, "message",
		wire_text(e->text, strnlen(e->text, sizeof e->text)), "details", "type",
		RPC_ERROR_INFO, "value", value.data, "debug", "code", info->name);
}

int rpc_error_status(const struct err *e)
{
	switch (err_is_set(e) ? e->code : ERR_INTERNAL) {
	case ERR_TOO_LARGE:
	case ERR_NO_SPACE:
		return err_info(ERR_LIMIT)->http_status;
	case ERR_BAD_GATEWAY:
		return err_info(ERR_UNAVAILABLE)->http_status;
	default:
		return err_info(err_is_set(e) ? e->code : ERR_INTERNAL)->http_status;
	}
}

static const char *detail_code(json_t *error, char out[64])
{
	size_t i;
	json_t *d;
	json_array_foreach (json_object_get(error, "details"), i, d) {
		if (!str_eq(json_string_value(json_object_get(d, "type")), RPC_ERROR_INFO))
			continue;
		const char *value = json_string_value(json_object_get(d, "value"));
		_cleanup_strbuf_ struct strbuf b = {0};
		if (!value || str_base64_decode(&b, value, strlen(value)) < 0 || b.len < 2)
			continue;
		size_t len = (unsigned char)b.data[1];
		if (b.data[0] != TAG_CODE || len > b.len - 2 || len >= 64)
			continue;
		memcpy(out, b.data + 2, len);
		out[len] = '\0';
		return out;
	}
	return NULL;
}

int rpc_error_read(json_t *error, int http_status, struct err *e)
{
	struct err own = {0};
	char name[64];
	e = e ? e : &own;
	_cleanup_free_ char *text = error ? json_compact(error) : NULL;
	// An error object is that of a unary error, which needs a failed status to be read as one.
	connect_parse_error(text ? text : "", text ? strlen(text) : 0,
		http_status >= 400 ? http_status : 500, e);
	char message[sizeof e->text];
	snprintf(message, sizeof message, "%s", e->text);
	const char *code = detail_code(error, name);
	enum err_code finer = code ? err_code_from_name(code) : ERR_NONE;
	// A name that this version does not know is no better than the protocol's code.
	if (finer == ERR_NONE || !str_eq(err_info(finer)->name, code))
		finer = err_is_set(e) ? e->code : ERR_INTERNAL;
	return err_set(e, finer, "%s", message);
}
