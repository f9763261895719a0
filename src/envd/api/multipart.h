// SPDX-License-Identifier: Apache-2.0
// Incremental parser of multipart/form-data (RFC 7578): fed with pieces of any size, it holds no
// more than one piece and one part's header.
#pragma once
#include "base/err.h"

struct multipart;

struct multipart_events {
	// A part begins. name is "" when absent, filename NULL. All return 0, or a negative errno
	// that ends the parsing and is handed to the feeder.
	int (*part)(void *ctx, const char *name, const char *filename, struct err *e);
	int (*data)(void *ctx, const void *data, size_t len, struct err *e);
	int (*part_end)(void *ctx, struct err *e);
};

// ERR_INVALID for a content type that is not multipart/form-data or has no proper boundary.
int multipart_new(const char *content_type, const struct multipart_events *ev, void *ctx,
	struct multipart **ret, struct err *e);
struct multipart *multipart_free(struct multipart *m);
DEFINE_CLEANUP(struct multipart *, multipart_free)
int multipart_feed(struct multipart *m, const void *data, size_t len, struct err *e);
// The body is over: ERR_INVALID when the last delimiter was not seen.
int multipart_finish(struct multipart *m, struct err *e);
