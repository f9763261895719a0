// SPDX-License-Identifier: Apache-2.0
#include "control/api/webhooks.h"
#include <string.h>
#include "base/clock.h"
#include "base/id.h"
#include "base/json.h"
#include "base/str.h"
#include "control/api/context.h"
#include "control/api/hooks.h"
#include "control/api/page.h"
#include "control/api/reply.h"
#include "control/api/work.h"
#include "control/state/render.h"

#define KINDS_MAX 64
#define SECRET_BYTES 24

static json_t *webhook_json(const struct webhook *w)
{
	return json_pack("{s:s, s:s, s:O, s:b, s:o, s:I, s:I, s:o}", "id", w->id, "url", w->url,
		"kinds", w->kinds, "enabled", w->enabled, "created_at", render_time(w->created_ns),
		"last_event", (json_int_t)w->cursor, "attempts", (json_int_t)w->attempts,
		"next_attempt_at", render_time(w->attempts ? w->next_ns : 0));
}

static json_t *delivery_json(const struct webhook_delivery *d)
{
	return json_pack("{s:I, s:s, s:I, s:o, s:I, s:I, s:s, s:o}", "event", (json_int_t)d->event,
		"kind", d->kind, "attempt", (json_int_t)d->attempt, "at", render_time(d->at_ns),
		"duration_ms", (json_int_t)(d->duration_us / 1000), "status", (json_int_t)d->status,
		"outcome", d->outcome, "error", render_text(d->error));
}

// --- what a body says

static int check_kinds(json_t *kinds, struct err *e)
{
	size_t i;
	json_t *v;
	if (json_array_size(kinds) > KINDS_MAX)
		return err_set(e, ERR_INVALID, "kinds: at most %d", KINDS_MAX);
	json_array_foreach (kinds, i, v) {
		const char *s = json_string_value(v);
		size_t n = s ? strspn(s, "abcdefghijklmnopqrstuvwxyz_") : 0;
		if (n == 0 || n > 40 || s[n])
			return err_set(e, ERR_INVALID,
				"kinds: must be kinds of events, as GET /v1/events has them");
	}
	return 0;
}

static int check_secret(const char *s, struct err *e)
{
	size_t n = strlen(s);
	for (const char *p = s; *p; p++)
		if (*p <= ' ' || *p > '~')
			n = 0;
	return n < WEBHOOK_SECRET_MIN || n > WEBHOOK_SECRET_MAX
		       ? err_set(e, ERR_INVALID,
				 "secret: must be %d to %d printable ASCII characters without "
				 "blanks",
				 WEBHOOK_SECRET_MIN, WEBHOOK_SECRET_MAX)
		       : 0;
}

// Over what *w has.
static int read_body(struct http_request *r, bool is_new, struct webhook *w, struct err *e)
{
	const char *url = NULL, *secret = NULL;
	json_t *kinds = NULL;
	const struct json_field fields[] = {
		{"url", JF_STRING, &url, .required = is_new, .max = WEBHOOK_URL_MAX},
		{"secret", JF_STRING, &secret, .max = WEBHOOK_SECRET_MAX},
		{"kinds", JF_ARRAY, &kinds},
		{"enabled", JF_BOOL, &w->enabled},
	};
	_cleanup_json_ json_t *body = NULL;
	int rc = http_req_json(r, false, &body, e);
	if (rc == 0)
		rc = json_read_fields(body, fields, ARRAY_SIZE(fields), false, e);
	if (rc == 0 && url)
		rc = receiver_check_url(url, e);
	if (rc == 0 && secret)
		rc = check_secret(secret, e);
	if (rc == 0 && kinds)
		rc = check_kinds(kinds, e);
	if (rc < 0)
		return rc;
	if (url)
		snprintf(w->url, sizeof w->url, "%s", url);
	if (secret)
		snprintf(w->secret, sizeof w->secret, "%s", secret);
	if (kinds) {
		json_decref(w->kinds);
		w->kinds = json_incref(kinds);
	}
	return 0;
}

// --- calls

static void reply_changed(struct control *c, struct http_request *r, const struct webhook *w,
	int rc, int status, bool shows_secret, struct err *e)
{
	if (rc == 0) {
		rc = hooks_changed(c->hooks, w->id, e);
		if (rc < 0 && shows_secret)
			webhooks_remove(c->db, w->id, NULL);
	}
	if (rc < 0) {
		reply_error(r, e);
		return;
	}
	json_t *j = webhook_json(w);
	if (shows_secret)
		json_object_set_new(j, "secret", json_string(w->secret));
	http_reply_json(r, status, j);
}

void webhooks_create(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	unsigned char raw[SECRET_BYTES];
	struct event_log_range range;
	struct err e = {0};
	_cleanup_webhook_ struct webhook w = {
		.enabled = true, .created_ns = clock_realtime_ns(), .kinds = json_array()};
	if (work_refuse_key(r, "a secret is told once and not kept for an answer"))
		return;
	id_new_uuid(w.id);
	id_random_bytes(raw, sizeof raw);
	id_hex(raw, sizeof raw, w.secret);
	int rc = read_body(r, true, &w, &e);
	// From now on: what has happened by now it has in GET /v1/events.
	if (rc == 0)
		feed_catch_up(c->feed, NULL);
	if (rc == 0)
		rc = event_log_range(c->db, &range, &e);
	if (rc == 0) {
		memcpy(w.epoch, range.epoch, sizeof w.epoch);
		w.cursor = range.last;
		rc = webhooks_add(c->db, &w, &e);
	}
	reply_changed(c, r, &w, rc, 201, true, &e);
}

void webhooks_list_get(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	_cleanup_free_ struct webhook *list = NULL;
	size_t n = 0;
	struct err e = {0};
	if (webhooks_list(c->db, &list, &n, &e) < 0) {
		reply_error(r, &e);
		return;
	}
	json_t *out = json_array();
	for (size_t i = 0; i < n; i++) {
		json_array_append_new(out, webhook_json(&list[i]));
		webhook_done(&list[i]);
	}
	http_reply_json(r, 200, json_pack("{s:o}", "webhooks", out));
}

void webhooks_get_one(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	_cleanup_webhook_ struct webhook w = {0};
	struct err e = {0};
	if (webhooks_get(c->db, http_req_param(r, "id"), &w, &e) < 0)
		reply_error(r, &e);
	else
		http_reply_json(r, 200, webhook_json(&w));
}

void webhooks_update(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	_cleanup_webhook_ struct webhook w = {0};
	struct err e = {0};
	int rc = webhooks_get(c->db, http_req_param(r, "id"), &w, &e);
	if (rc == 0)
		rc = read_body(r, false, &w, &e);
	if (rc == 0)
		rc = webhooks_change(c->db, &w, &e);
	reply_changed(c, r, &w, rc, 200, false, &e);
}

void webhooks_delete(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	const char *id = http_req_param(r, "id");
	struct err e = {0};
	int rc = webhooks_remove(c->db, id, &e);
	if (rc == 0)
		rc = hooks_changed(c->hooks, id, &e);
	if (rc < 0)
		reply_error(r, &e);
	else
		http_reply_empty(r, 204);
}

static int add_delivery(void *ctx, const struct webhook_delivery *d)
{
	return json_array_append_new(ctx, delivery_json(d)) < 0 ? -ENOMEM : 0;
}

void webhooks_list_deliveries(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	_cleanup_webhook_ struct webhook w = {0};
	_cleanup_json_ json_t *out = json_array();
	uint64_t limit = PAGE_MAX;
	struct err e = {0};
	int rc = page_read_limit(r, &limit, &e);
	if (rc == 0)
		rc = webhooks_get(c->db, http_req_param(r, "id"), &w, &e);
	if (rc == 0)
		rc = webhooks_deliveries(c->db, w.id, limit, add_delivery, out, &e);
	if (rc < 0)
		reply_error(r, &e);
	else
		http_reply_json(r, 200, json_pack("{s:O}", "deliveries", out));
}

void webhooks_send_test(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	struct webhook_delivery d = {0};
	struct err e = {0};
	if (hooks_test(c->hooks, http_req_param(r, "id"), &d, &e) < 0)
		reply_error(r, &e);
	else
		http_reply_json(r, 200, delivery_json(&d));
}
