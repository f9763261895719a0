// SPDX-License-Identifier: Apache-2.0
// What goes into the audit log of a call, and the log itself for admins.
#pragma once
#include "control/api/context.h"

// After a call was answered with this status: a line of each change that was asked for, and of a
// call that was refused for its key's sake.
void audit_note(struct control *c, struct http_request *r, int status);
void audit_list(struct http_request *r, void *ctx);
