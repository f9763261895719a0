// SPDX-License-Identifier: Apache-2.0
// What handlers of requests share: whose request it is, the path that it means, how it failed.
#pragma once
#include "base/str.h"
#include "envd/process/path.h"
#include "envd/process/users.h"
#include "envd/wake/agent.h"
#include "http/server.h"

// The user of that name, the default one for NULL or "". ERR_UNAUTHENTICATED when unknown.
int request_find_user(
	struct agent *a, const struct users *u, const char *name, struct user *ret, struct err *e);
// The user that the query names ("username"), else the default one.
int request_query_user(struct http_request *req, struct agent *a, struct user *ret, struct err *e);
// path as path_resolve has it, with the default directory of /init.
int request_resolve_path(struct agent *a, const char *path, const struct user *user,
	char out[PATH_SIZE], struct err *e);
// ERR_INVALID: what is at path, of that mode, is no regular file.
int request_refuse_kind(const char *path, mode_t mode, struct err *e);
// 0755, owned by user.
int request_make_dir(struct agent *a, const char *path, const struct user *user, struct err *e);
// Missing directories of an absolute path up to the last component (not included), likewise.
int request_make_parents(struct agent *a, const char *path, const struct user *user, struct err *e);
// {"code": code, "message": e->text}, whatever bytes that has, and the reason where there is one.
void request_add_error(struct strbuf *out, const char *code, const struct err *e);
