// SPDX-License-Identifier: Apache-2.0
// What happened, as the host told it (feed.h): as pages, or followed line by line.
#pragma once
#include "control/state/event_log.h"
#include "http/server.h"

#define EVENT_CURSOR_SIZE (EVENT_LOG_EPOCH_SIZE + 24)

// An event as it is told, and its cursor.
json_t *events_json(const char *epoch, const struct host_event *ev);
void events_format_cursor(const char *epoch, uint64_t seq, char out[EVENT_CURSOR_SIZE]);

void events_list(struct http_request *r, void *ctx);
