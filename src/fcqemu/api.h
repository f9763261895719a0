// SPDX-License-Identifier: Apache-2.0
// The routes of Firecracker's API: which call is legal in which state, and what it does. The guest
// itself is reached through struct machine_ops, so that the rules are tested without QEMU.
#pragma once
#include "fcqemu/config.h"
#include "fcqemu/http1.h"
#include "fcqemu/report.h"
#include "fcqemu/snapshot.h"

enum api_state { API_NOT_STARTED = 1, API_RUNNING = 2, API_PAUSED = 4 };

// Each returns 0 or -errno with the client's text. A failed start leaves nothing behind.
struct machine_ops {
	int (*start)(void *ctx, const struct config *c, struct err *e);
	int (*pause)(void *ctx, struct err *e);
	int (*resume)(void *ctx, struct err *e);
	// index: of the drive in the configuration
	int (*set_drive)(
		void *ctx, size_t index, const struct drive *d, const char *path, struct err *e);
	int (*create)(
		void *ctx, const struct config *c, const struct snapshot_create *s, struct err *e);
	// The machine is there, stopped; *ret is what it is made of, owned by the caller.
	int (*load)(void *ctx, const struct snapshot_load *l, struct config *ret, struct err *e);
	config_open_tap_fn open_tap;
};

struct api {
	const char *id;
	const struct machine_ops *ops;
	void *ctx;
	struct config config;
	struct report report;
	enum api_state state;
	bool boot_path; // something was configured that closes the way to snapshot/load
	bool ended;	// a load failed: once that is answered the process must end
};

void api_init(struct api *a, const char *id, const struct machine_ops *ops, void *ctx);
void api_done(struct api *a);
// Appends the answer to one request.
void api_handle(struct api *a, const struct http1_request *r, struct strbuf *out);
