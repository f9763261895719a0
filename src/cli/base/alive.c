// SPDX-License-Identifier: Apache-2.0
#include "cli/base/alive.h"
#include <string.h>
#include "base/str.h"
#include "cli/base/term.h"
#include "cli/base/value.h"

#define SILENCE_MAX_MS 10000

static int seconds_of(const struct cli *c, uint64_t *ret, struct err *e)
{
	const char *env = getenv("STASIS_CLIENT_TIMEOUT");
	*ret = c->has_timeout ? c->timeout : CLI_TIMEOUT_SEC;
	if (c->has_timeout || !env || !*env)
		return 0;
	if (cli_parse_seconds(env, ret) < 0 || *ret > 86400)
		return err_set(e, ERR_INVALID,
			"STASIS_CLIENT_TIMEOUT: '%s' is not a time such as 90s, 5m or 'none'", env);
	return 0;
}

int alive_init(struct alive *a, const struct cli *c, const char *id, struct err *e)
{
	uint64_t seconds;
	int rc = seconds_of(c, &seconds, e);
	if (rc < 0)
		return rc;
	*a = (struct alive){.base_url = strdup(c->base_url), .id = id ? strdup(id) : NULL};
	if (!a->base_url || (id && !a->id))
		return err_errno(e, ENOMEM, "start");
	int ms = (int)seconds * 1000;
	a->silence_ms = MIN(ms / 3, SILENCE_MAX_MS);
	a->ask_ms = ms - a->silence_ms;
	return 0;
}

void alive_done(struct alive *a)
{
	free(a->base_url);
	free(a->id);
	*a = (struct alive){0};
}

// The call itself has to see that.
static int is_interrupted(void *ctx)
{
	return term_interrupts(NULL) != 0;
}

static int refuse(const struct alive *a, struct err *e)
{
	int seconds = (a->silence_ms + a->ask_ms) / 1000;
	if (a->id)
		err_set(e, ERR_TIMEOUT,
			"the agent of sandbox %s has shown no sign of life for %d s: 'stasis why "
			"%s' and 'stasis logs %s' may say more; pause, resume and rm work without "
			"it, and --client-timeout waits longer",
			a->id, seconds, a->id, a->id);
	else
		err_set(e, ERR_TIMEOUT,
			"the server on %s has shown no sign of life for %d s: it is stopped or has "
			"too "
			"much to do ('systemctl status stasis' there). What was asked for may be "
			"done all "
			"the same: look with 'stasis ls' and 'stasis operations'; --client-timeout "
			"waits "
			"longer",
			a->base_url, seconds);
	e->errnum = ETIMEDOUT; // unlike a 504 that the server gave
	return -ETIMEDOUT;
}

int alive_ask(void *ctx, struct err *e)
{
	const struct alive *a = ctx;
	_cleanup_(http_client_freep) struct http_client *http = NULL;
	_cleanup_(http_response_done) struct http_response r = {0};
	_cleanup_free_ char *header = str_printf("E2b-Sandbox-Id: %s", a->id ? a->id : "");
	const struct http_client_config cfg = {.base_url = a->base_url, .ca_file = cli_ca_file()};
	if (!header || http_client_new(&cfg, &http, NULL) < 0)
		return 0; // nothing is known
	const struct http_call call = {.method = "GET",
		.path = a->id ? "/health" : "/v1/health",
		.headers = (const char *const[]){a->id ? header : NULL, NULL},
		.tick = is_interrupted,
		.connect_timeout_ms = a->ask_ms,
		.timeout_ms = a->ask_ms};
	int rc = http_client_call(http, &call, &r, NULL);
	// nginx has words of its own for those that do not answer it.
	bool answers = rc == 0 && r.status != 502 && r.status != 504;
	return answers || is_interrupted(NULL) ? 0 : refuse(a, e);
}
