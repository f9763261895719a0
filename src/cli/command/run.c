// SPDX-License-Identifier: Apache-2.0
// run: create, exec and, with --rm, rm. How this works: signals are caught before the sandbox is
// created, so that from then on every way out leads through the end of cmd_run. A create that is
// under way is waited for, also after Ctrl-C: its sandbox could not be removed before that anyway.
// It carries an Idempotency-Key; when its answer is lost (the connection broke, the server was
// restarted, the user would not wait), the same call is made again and gets the same answer, and
// with it the id that is to be removed.
#include <string.h>
#include "base/clock.h"
#include "base/id.h"
#include "base/json.h"
#include "base/str.h"
#include "cli/base/api.h"
#include "cli/base/output.h"
#include "cli/base/term.h"
#include "cli/command/all.h"
#include "cli/command/create.h"
#include "cli/command/exec.h"

#define AGAIN_FOR_NS (10 * NSEC_PER_SEC)
#define AGAIN_EVERY_NS (100 * NSEC_PER_MSEC)
#define CLEAN_UP_CALL_MS 60000

struct run {
	struct cli *c;
	char *body, *key;
	unsigned patience; // the call under way is given up at so many signals
	struct progress progress;
	char *id, ends[32]; // of the sandbox, once it is known
};

static int tick(void *ctx)
{
	struct run *r = ctx;
	progress_tick(&r->progress);
	return term_interrupts(NULL) >= r->patience ? -1 : 0;
}

// No answer, or one that does not say what became of the call. A refused connection carried none.
static bool is_lost(const struct err *e)
{
	switch (e->code) {
	case ERR_CANCELED:
	case ERR_INTERNAL:
	case ERR_BAD_GATEWAY:
	case ERR_UNAVAILABLE:
	case ERR_TIMEOUT:
		return true;
	default:
		return false;
	}
}

static int post(struct run *r, int timeout_ms, json_t **ret, struct err *e)
{
	return api_call_with(r->c,
		&(struct http_call){
			.method = "POST",
			.path = "/v1/sandboxes",
			.headers = (const char *const[]){r->key, NULL},
			.body = r->body,
			.body_len = strlen(r->body),
			.tick = tick,
			.ctx = r,
			.timeout_ms = timeout_ms,
		},
		ret, e);
}

static bool again(uint64_t until)
{
	if (clock_monotonic_ns() > until)
		return false;
	clock_sleep_ns(AGAIN_EVERY_NS);
	return true;
}

static int take_id(struct run *r, const json_t *sandbox, struct err *e)
{
	const char *id = json_string_value(json_object_get(sandbox, "id"));
	r->id = id ? strdup(id) : NULL;
	human_when(json_object_get(sandbox, "ends_at"), r->ends);
	return r->id ? 0 : err_set(e, ERR_BAD_GATEWAY, "the server gave no id");
}

// Sets r->id, also for a failed call whose sandbox may be there: with rm it is asked for, to be
// removed.
static int create(struct run *r, bool rm, bool verbose, struct err *e)
{
	_cleanup_json_ json_t *sandbox = NULL;
	progress_start(&r->progress, "creating the sandbox");
	r->patience = 2;
	int rc = post(r, 0, &sandbox, e);
	progress_clear(&r->progress);
	if (rc == 0 && verbose && !r->c->json)
		output_phases(json_object_get(sandbox, "phases"), stderr);
	if (rc == 0)
		return take_id(r, sandbox, e);
	if (!is_lost(e) || e->errnum == ECONNREFUSED)
		return rc;
	struct err lost = {0};
	int found = -EAGAIN;
	r->patience = term_interrupts(NULL) + 2;
	if (rm) {
		uint64_t until = clock_monotonic_ns() + AGAIN_FOR_NS;
		do
			found = post(r, CLEAN_UP_CALL_MS, &sandbox, &lost);
		while (found < 0 && is_lost(&lost) && lost.code != ERR_CANCELED && again(until));
	}
	if (found == 0)
		take_id(r, sandbox, &lost);
	else if (!rm || is_lost(&lost))
		fputs("stasis: a sandbox may have been made all the same: 'stasis ls' shows it\n",
			stderr);
	return rc;
}

// Tries for a while: the server may be in its restart, or busy with the sandbox (on_timeout).
static void discard(struct run *r)
{
	_cleanup_free_ char *path = NULL;
	struct err e = {0};
	uint64_t until = clock_monotonic_ns() + AGAIN_FOR_NS;
	int rc = api_sandbox_path(r->id, "", &path, &e);
	r->patience = term_interrupts(NULL) + 2;
	do
		if (path)
			rc = api_call_with(r->c,
				&(struct http_call){
					.method = "DELETE",
					.path = path,
					.tick = tick,
					.ctx = r,
					.timeout_ms = CLEAN_UP_CALL_MS,
				},
				NULL, &e);
	while (rc < 0 && path && e.code != ERR_CANCELED &&
		(is_lost(&e) || e.code == ERR_CONFLICT) && again(until));
	if (rc < 0 && e.code != ERR_NOT_FOUND)
		output_complain(
			"%s is not removed: %s; try: stasis rm %s", r->id, err_text(&e, rc), r->id);
}

static int run_command(
	struct run *r, bool rm, bool verbose, struct exec_options *exec, struct err *e)
{
	struct cli *c = r->c;
	int sig, rc = create(r, rm, verbose, e);
	if (r->id && !rm)
		fprintf(stderr, "stasis: sandbox %s stays: it ends %s%swith: stasis rm %s\n", r->id,
			r->ends[0] == '-' ? "" : r->ends, r->ends[0] == '-' ? "" : ", or ", r->id);
	if (rc == 0 && !term_interrupts(NULL))
		rc = exec_command(c, r->id, c->argv, exec, e);
	// What a signal ended failed because of it.
	if (term_interrupts(&sig)) {
		c->exit_code = 128 + sig;
		rc = 0;
	}
	if (r->id && rm)
		discard(r);
	return rc;
}

int cmd_run(struct cli *c, struct err *e)
{
	_cleanup_create_ struct create_options o = {0};
	struct exec_options exec = {0};
	struct run r = {.c = c};
	char uuid[UUID_SIZE];
	bool rm = false;
	const struct cli_option options[] = {
		{0, "rm", NULL, "remove the sandbox afterwards, whatever happens", OPT_FLAG, &rm},
		EXEC_OPTIONS(exec),
		CREATE_OPTIONS(o),
		{0},
	};
	int rc = cli_parse(c, options, 1, -1, e);
	if (rc == 0)
		rc = exec_check(c, &exec, e);
	if (rc != 0)
		return rc;
	_cleanup_json_ json_t *body = create_body(&o, e);
	if (!body)
		return -EINVAL;
	id_new_uuid(uuid);
	r.body = json_compact(body);
	r.key = str_printf("Idempotency-Key: run-%s", uuid);
	term_catch_signals(exec.tty);
	rc = r.body && r.key ? run_command(&r, rm, o.verbose, &exec, e)
			     : err_errno(e, ENOMEM, "run");
	json_decref(exec.env);
	free(r.body);
	free(r.key);
	free(r.id);
	return rc;
}
