// SPDX-License-Identifier: Apache-2.0
#include "control/api/ports.h"
#include <string.h>
#include "agentclient/client.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/str.h"
#include "control/api/find.h"
#include "control/api/reply.h"
#include "control/api/work.h"
#include "control/state/port_access.h"
#include "control/state/port_links.h"
#include "control/state/render.h"

#define LINK_TTL_SEC 300

void ports_new_token(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	_cleanup_json_ json_t *body = NULL;
	_cleanup_(row_unrefp) struct sandbox_row *row = NULL;
	struct err e = {0};
	char id[64], token[SHA256_HEX_SIZE];
	if (work_refuse_key(r, "each call makes another token; GET of the sandbox shows the one "
			       "that counts"))
		return;
	find_path_id(c, r, id);
	int rc = http_req_json(r, true, &body, &e);
	if (rc == 0)
		rc = json_read_fields(body, NULL, 0, false, &e);
	if (rc == 0)
		rc = find_live(c, id, &row, &e);
	if (rc == 0)
		rc = rows_next_port_epoch(c->rows, row, &e);
	if (rc < 0) {
		reply_error(r, &e);
		return;
	}
	port_access_token(row, token);
	http_reply_json(r, 200, json_pack("{s:s}", "port_token", token));
}

struct link_body {
	uint64_t port, ttl_sec;
	const char *path;
};

// It becomes part of a URL and of a Location: visible ASCII, and of this host, whatever a browser
// makes of "//" and "/\".
static int check_path(const char *path, struct err *e)
{
	bool good = path[0] == '/' && path[1] != '/' && path[1] != '\\';
	for (const char *p = path; *p; p++)
		good &= *p > ' ' && *p < 0x7f && *p != '#';
	if (!good || strstr(path, "stasis_link="))
		return err_set(e, ERR_INVALID,
			"path: must begin with one '/' and be visible ASCII without '#' and "
			"'stasis_link=': percent-encode what is not");
	return 0;
}

static int read_link(json_t *body, struct link_body *b, struct err *e)
{
	*b = (struct link_body){.ttl_sec = LINK_TTL_SEC, .path = "/"};
	const struct json_field fields[] = {
		{.name = "port",
			.type = JF_U64,
			.out = &b->port,
			.min = 1,
			.max = UINT16_MAX,
			.required = true},
		{.name = "ttl_sec",
			.type = JF_U64,
			.out = &b->ttl_sec,
			.min = 1,
			.max = PORT_LINK_MAX_TTL_SEC},
		{.name = "path", .type = JF_STRING, .out = &b->path, .max = PORT_LINK_MAX_PATH},
	};
	int rc = json_read_fields(body, fields, ARRAY_SIZE(fields), false, e);
	if (rc == 0 && b->port == ENVD_PORT)
		return err_set(e, ERR_INVALID,
			"port: %d is the agent's, which has a token of its own (envd_token)",
			ENVD_PORT);
	return rc < 0 ? rc : check_path(b->path, e);
}

// The text that ports are named in is replaced by this one.
static char *link_url(const struct sandbox_row *row, const struct link_body *b, const char *code)
{
	static const char place[] = "{port}";
	char url[ROW_URL_SIZE];
	row_url(row, url);
	const char *at = strstr(url, place);
	return at ? str_printf("%.*s%u%s%s%cstasis_link=%s", (int)(at - url), url,
			    (unsigned)b->port, at + strlen(place), b->path,
			    strchr(b->path, '?') ? '&' : '?', code)
		  : NULL;
}

static int make_link(struct control *c, const struct sandbox_row *row, const struct link_body *b,
	json_t **ret, struct err *e)
{
	uint64_t now_ns = clock_realtime_ns();
	const struct port_link link = {.id = row->id,
		.port = (uint16_t)b->port,
		.epoch = row->port_epoch,
		.path = b->path,
		.expires_ns = now_ns + b->ttl_sec * NSEC_PER_SEC};
	char code[PORT_LINK_CODE_SIZE];
	int rc = port_links_add(c->port_links, &link, now_ns, code, e);
	if (rc < 0)
		return rc;
	_cleanup_free_ char *url = link_url(row, b, code);
	explicit_bzero(code, sizeof code);
	if (!url)
		return err_errno(e, ENOMEM, "link");
	*ret = json_pack("{s:s, s:o}", "url", url, "expires_at", render_time(link.expires_ns));
	return 0;
}

void ports_new_link(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	_cleanup_json_ json_t *body = NULL;
	_cleanup_(row_unrefp) struct sandbox_row *row = NULL;
	json_t *answer = NULL;
	struct link_body b;
	struct err e = {0};
	char id[64];
	if (work_refuse_key(r, "a new link is told once and not kept, so not again either"))
		return;
	find_path_id(c, r, id);
	int rc = http_req_json(r, false, &body, &e);
	if (rc == 0)
		rc = read_link(body, &b, &e);
	if (rc == 0)
		rc = find_live(c, id, &row, &e);
	if (rc == 0)
		rc = make_link(c, row, &b, &answer, &e);
	if (rc < 0)
		reply_error(r, &e);
	else
		http_reply_json(r, 201, answer);
}
