// SPDX-License-Identifier: Apache-2.0
#include "base/err.h"
#include <stdarg.h>
#include <string.h>

// HTTP status for Connect codes: Connect protocol specification, "Error codes".
static const struct err_info infos[ERR_CODE_MAX] = {
	[ERR_NONE] = {"ok", 200, "ok", 0},
	[ERR_INVALID] = {"invalid", 400, "invalid_argument", 2},
	[ERR_UNAUTHENTICATED] = {"unauthenticated", 401, "unauthenticated", 3},
	[ERR_FORBIDDEN] = {"forbidden", 403, "permission_denied", 3},
	[ERR_NOT_FOUND] = {"not_found", 404, "not_found", 4},
	[ERR_CONFLICT] = {"conflict", 409, "aborted", 5},
	[ERR_GONE] = {"gone", 410, "out_of_range", 4},
	[ERR_TOO_LARGE] = {"too_large", 413, "resource_exhausted", 2},
	[ERR_LIMIT] = {"limit", 429, "resource_exhausted", 6},
	[ERR_CANCELED] = {"canceled", 499, "canceled", 130},
	[ERR_INTERNAL] = {"internal", 500, "internal", 1},
	[ERR_UNIMPLEMENTED] = {"unimplemented", 501, "unimplemented", 2},
	[ERR_BAD_GATEWAY] = {"bad_gateway", 502, "unavailable", 7},
	[ERR_UNAVAILABLE] = {"unavailable", 503, "unavailable", 7},
	[ERR_TIMEOUT] = {"timeout", 504, "deadline_exceeded", 8},
	[ERR_NO_SPACE] = {"no_space", 507, "resource_exhausted", 6},
	[ERR_NOT_QUIESCED] = {"not_quiesced", 409, "aborted", 9},
};

const struct err_info *err_info(enum err_code code)
{
	if ((unsigned)code >= ERR_CODE_MAX)
		code = ERR_INTERNAL;
	return &infos[code];
}

enum err_code err_code_from_name(const char *name)
{
	for (int i = 0; name && i < ERR_CODE_MAX; i++)
		if (strcmp(infos[i].name, name) == 0)
			return (enum err_code)i;
	return ERR_INTERNAL;
}

static const struct {
	const char *name;
	int exit_code;
} reasons[ERR_REASON_MAX] = {
	[ERR_REASON_NO_PROGRAM] = {"no_program", 127},
	[ERR_REASON_CANNOT_RUN] = {"cannot_run", 126},
};

const char *err_reason_name(enum err_reason reason)
{
	return (unsigned)reason < ERR_REASON_MAX ? reasons[reason].name : NULL;
}

enum err_reason err_reason_from_name(const char *name)
{
	for (int i = ERR_REASON_NONE + 1; name && i < ERR_REASON_MAX; i++)
		if (strcmp(reasons[i].name, name) == 0)
			return (enum err_reason)i;
	return ERR_REASON_NONE;
}

int err_exit_code(const struct err *e)
{
	return err_reason_name(e->reason) ? reasons[e->reason].exit_code
					  : err_info(e->code)->exit_code;
}

enum err_code err_code_from_errno(int errnum)
{
	switch (errnum < 0 ? -errnum : errnum) {
	case 0:
		return ERR_NONE;
	case EINVAL:
	case ENAMETOOLONG:
	case EISDIR:
	case ENOTDIR:
	case ELOOP:
	case E2BIG:
		return ERR_INVALID;
	case ENOENT:
	case ESRCH:
		return ERR_NOT_FOUND;
	case EEXIST:
	case EBUSY:
	case ENOTEMPTY:
	case EALREADY:
		return ERR_CONFLICT;
	case EACCES:
	case EPERM:
		return ERR_FORBIDDEN;
	case ENOSPC:
	case EDQUOT:
		return ERR_NO_SPACE;
	case ETIMEDOUT:
		return ERR_TIMEOUT;
	case EMFILE:
	case ENFILE:
	case EAGAIN:
		return ERR_LIMIT;
	case ECONNREFUSED:
	case ECONNRESET:
	case EHOSTUNREACH:
		return ERR_BAD_GATEWAY;
	case ECANCELED:
		return ERR_CANCELED;
	case ENOSYS:
	case EOPNOTSUPP:
		return ERR_UNIMPLEMENTED;
	case EMSGSIZE:
		return ERR_TOO_LARGE;
	default:
		return ERR_INTERNAL;
	}
}

static int errno_of(enum err_code code)
{
	static const int map[ERR_CODE_MAX] = {
		[ERR_NONE] = 0,
		[ERR_INVALID] = EINVAL,
		[ERR_UNAUTHENTICATED] = EACCES,
		[ERR_FORBIDDEN] = EPERM,
		[ERR_NOT_FOUND] = ENOENT,
		[ERR_CONFLICT] = EBUSY,
		[ERR_GONE] = ESTALE,
		[ERR_TOO_LARGE] = EMSGSIZE,
		[ERR_LIMIT] = EAGAIN,
		[ERR_CANCELED] = ECANCELED,
		[ERR_INTERNAL] = EIO,
		[ERR_UNIMPLEMENTED] = EOPNOTSUPP,
		[ERR_BAD_GATEWAY] = ECONNREFUSED,
		[ERR_UNAVAILABLE] = EHOSTDOWN,
		[ERR_TIMEOUT] = ETIMEDOUT,
		[ERR_NO_SPACE] = ENOSPC,
		[ERR_NOT_QUIESCED] = EBUSY,
	};
	return (unsigned)code < ERR_CODE_MAX ? map[code] : EIO;
}

int err_set(struct err *e, enum err_code code, const char *fmt, ...)
{
	if (e) {
		va_list ap;
		va_start(ap, fmt);
		e->code = code;
		e->reason = ERR_REASON_NONE;
		e->errnum = 0;
		e->cause[0] = '\0';
		e->ended_ns = 0;
		vsnprintf(e->text, sizeof e->text, fmt, ap);
		va_end(ap);
	}
	return -errno_of(code);
}

int err_errno(struct err *e, int errnum, const char *fmt, ...)
{
	if (errnum < 0)
		errnum = -errnum;
	if (errnum == 0)
		errnum = EIO;
	if (e) {
		va_list ap;
		va_start(ap, fmt);
		e->code = err_code_from_errno(errnum);
		e->reason = ERR_REASON_NONE;
		e->errnum = errnum;
		e->cause[0] = '\0';
		e->ended_ns = 0;
		int n = vsnprintf(e->text, sizeof e->text, fmt, ap);
		va_end(ap);
		if (n >= 0 && (size_t)n < sizeof e->text)
			snprintf(e->text + n, sizeof e->text - (size_t)n, ": %s", strerror(errnum));
	}
	return -errnum;
}

int err_prefix(struct err *e, int rc, const char *fmt, ...)
{
	if (!e)
		return rc;
	char head[256], old[sizeof e->text];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(head, sizeof head, fmt, ap);
	va_end(ap);
	snprintf(old, sizeof old, "%s", err_text(e, rc));
	if (e->code == ERR_NONE) {
		e->code = err_code_from_errno(rc);
		e->errnum = -rc;
	}
	size_t n = (size_t)snprintf(e->text, sizeof e->text, "%s: ", head);
	snprintf(e->text + n, sizeof e->text - n, "%s", old);
	return rc;
}

const char *err_text(const struct err *e, int rc)
{
	if (e && e->code != ERR_NONE && e->text[0])
		return e->text;
	return strerror(rc < 0 ? -rc : rc);
}
