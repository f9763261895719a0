// SPDX-License-Identifier: Apache-2.0
// bench: measures the running server through its API. All sandboxes have a label of this run, by
// which they are found at the end, also those of calls that were cut off; and a time-out, for the
// case that nothing of us is left to remove them.
#include <inttypes.h>
#include <string.h>
#include "base/clock.h"
#include "base/id.h"
#include "base/json.h"
#include "base/str.h"
#include "cli/base/api.h"
#include "cli/base/option.h"
#include "cli/base/output.h"
#include "cli/base/term.h"
#include "cli/command/all.h"
#include "cli/command/figures.h"

#define LIFE_SEC 1800
#define CLEAN_UP_NS (120 * NSEC_PER_SEC)
#define LABEL "stasis-bench"

struct bench {
	struct cli *c;
	struct figures figures;
	char tag[9], snapshot[32];
	bool counts; // not in the first round
	struct progress progress;
	char what[64];
	// of a fork under way
	struct strbuf line;
	uint64_t first_ns;
	char *child_error;
};

static int tick(void *ctx)
{
	struct bench *b = ctx;
	progress_tick(&b->progress);
	// The first one lets the call end: its sandbox could not be removed before that anyway.
	return term_interrupts(NULL) > 1;
}

static void note(struct bench *b, enum figure f, uint64_t ns, const json_t *phases)
{
	if (!b->counts || b->figures.n[f] == b->figures.runs)
		return;
	b->figures.samples[f][b->figures.n[f]++] = ns / 1000;
	if (phases)
		json_array_append(b->figures.phases[f], (json_t *)phases);
}

static int post_with(struct bench *b, const char *path, json_t *body, const char *const *headers,
	int (*write)(void *, const char *, size_t), json_t **ret, uint64_t *ret_ns, struct err *e)
{
	if (term_interrupts(NULL) > 0)
		return err_set(e, ERR_CANCELED, "interrupted");
	_cleanup_free_ char *text = json_compact(body);
	if (!text)
		return err_errno(e, ENOMEM, "%s", path);
	uint64_t begun = clock_monotonic_ns();
	int rc = api_call_with(b->c,
		&(struct http_call){
			.method = "POST",
			.path = path,
			.headers = headers,
			.body = text,
			.body_len = strlen(text),
			.write = write,
			.tick = tick,
			.ctx = b,
		},
		ret, e);
	*ret_ns = clock_monotonic_ns() - begun;
	return rc;
}

static int post(struct bench *b, const char *path, json_t *body, json_t **ret, uint64_t *ret_ns,
	struct err *e)
{
	return post_with(b, path, body, NULL, NULL, ret, ret_ns, e);
}

static int remove_path(struct bench *b, const char *path, struct err *e)
{
	return api_call(b->c, "DELETE", path, NULL, NULL, e);
}

static int create(struct bench *b, enum figure f, const char *template, char **ret_path,
	uint64_t *ret_ns, struct err *e)
{
	_cleanup_json_ json_t *answer = NULL;
	_cleanup_json_ json_t *body = json_pack("{s:i, s:{s:s}, s:s?}", "timeout_sec", LIFE_SEC,
		"metadata", LABEL, b->tag, "template", template);
	int rc = post(b, "/v1/sandboxes", body, &answer, ret_ns, e);
	if (rc < 0)
		return err_prefix(e, rc, "%s", figure_names[f]);
	const char *id = json_string_value(json_object_get(answer, "id"));
	note(b, f, *ret_ns, json_object_get(answer, "phases"));
	return id ? api_sandbox_path(id, "", ret_path, e)
		  : err_set(e, ERR_BAD_GATEWAY, "the server gave no id");
}

static int run(struct bench *b, const char *sandbox, json_t *body, uint64_t *ret_ns, struct err *e)
{
	_cleanup_json_ json_t *answer = NULL, *owned = body;
	_cleanup_free_ char *path = str_printf("%s/exec", sandbox);
	if (!path || !owned)
		return err_errno(e, ENOMEM, "exec");
	int rc = post(b, path, body, &answer, ret_ns, e);
	if (rc < 0)
		return err_prefix(e, rc, "exec");
	json_int_t code = json_integer_value(json_object_get(answer, "exit_code"));
	return code == 0
		       ? 0
		       : err_set(e, ERR_BAD_GATEWAY, "exec: the command ended with %d", (int)code);
}

static int run_true(struct bench *b, const char *sandbox, uint64_t *ret_ns, struct err *e)
{
	return run(b, sandbox, json_pack("{s:[s]}", "args", "/bin/true"), ret_ns, e);
}

static int dirty(struct bench *b, const char *sandbox, struct err *e)
{
	uint64_t ns;
	char command[100];
	if (!b->figures.dirty_mib)
		return 0;
	snprintf(command, sizeof command, "yes stasis | head -c %" PRIu64 "M > /dev/shm/" LABEL,
		b->figures.dirty_mib);
	return run(b, sandbox, json_pack("{s:s, s:i}", "cmd", command, "timeout_sec", 600), &ns, e);
}

// pause and resume
static int change(
	struct bench *b, enum figure f, const char *sandbox, uint64_t *ret_ns, struct err *e)
{
	_cleanup_json_ json_t *answer = NULL, *body = json_object();
	_cleanup_free_ char *path = str_printf("%s/%s", sandbox, figure_names[f]);
	if (!path)
		return err_errno(e, ENOMEM, "%s", figure_names[f]);
	int rc = post(b, path, body, &answer, ret_ns, e);
	if (rc < 0)
		return err_prefix(e, rc, "%s", figure_names[f]);
	note(b, f, *ret_ns, json_object_get(answer, "phases"));
	return 0;
}

static int on_child(void *ctx, const char *data, size_t len)
{
	struct bench *b = ctx;
	strbuf_add(&b->line, data, len);
	for (char *nl; b->line.len && (nl = memchr(b->line.data, '\n', b->line.len));) {
		size_t n = (size_t)(nl - b->line.data);
		_cleanup_json_ json_t *child = json_loadb(b->line.data, n, 0, NULL);
		const char *error = json_string_value(
			json_object_get(json_object_get(child, "error"), "message"));
		if (error && !b->child_error)
			b->child_error = strdup(error);
		if (!error && !b->first_ns)
			b->first_ns = clock_monotonic_ns();
		strbuf_consume(&b->line, n + 1);
	}
	return b->line.failed;
}

static int fork_children(struct bench *b, const char *sandbox, struct err *e)
{
	static const char *const headers[] = {"Accept: application/x-ndjson", NULL};
	_cleanup_json_ json_t *body = json_pack(
		"{s:I, s:i}", "count", (json_int_t)b->figures.children, "timeout_sec", LIFE_SEC);
	_cleanup_free_ char *path = str_printf("%s/fork", sandbox);
	if (!path || !body)
		return err_errno(e, ENOMEM, "fork");
	b->first_ns = 0;
	uint64_t begun = clock_monotonic_ns(), ns;
	int rc = post_with(b, path, body, headers, on_child, NULL, &ns, e);
	if (rc < 0)
		return err_prefix(e, rc, "fork");
	if (b->child_error || !b->first_ns)
		return err_set(e, ERR_BAD_GATEWAY, "fork: a child did not come up: %s",
			b->child_error ? b->child_error : "no reason was given");
	// Its steps are the source's; a child's are those of its load.
	_cleanup_json_ json_t *source = NULL;
	rc = api_call(b->c, "GET", sandbox, NULL, &source, e);
	if (rc < 0)
		return rc;
	note(b, F_FORK_FIRST, b->first_ns - begun, NULL);
	note(b, F_FORK, ns, json_object_get(source, "phases"));
	return 0;
}

static int snapshot_path(struct bench *b, char **ret, struct err *e)
{
	*ret = str_printf("/v1/snapshots/%s", b->snapshot);
	return *ret ? 0 : err_errno(e, ENOMEM, "snapshot");
}

static int snapshot(struct bench *b, const char *sandbox, struct err *e)
{
	_cleanup_json_ json_t *answer = NULL;
	_cleanup_free_ char *spawned = NULL, *path = NULL;
	_cleanup_json_ json_t *body = json_pack(
		"{s:s, s:s}", "sandbox_id", strrchr(sandbox, '/') + 1, "name", b->snapshot);
	uint64_t ns;
	int rc = post(b, "/v1/snapshots", body, &answer, &ns, e);
	if (rc < 0)
		return err_prefix(e, rc, "snapshot");
	note(b, F_SNAPSHOT, ns, json_object_get(answer, "phases"));
	rc = create(b, F_SPAWN, b->snapshot, &spawned, &ns, e);
	if (rc == 0)
		rc = remove_path(b, spawned, e);
	if (rc == 0)
		rc = snapshot_path(b, &path, e);
	return rc == 0 ? remove_path(b, path, e) : rc;
}

// All that has our label. Creates that still run cannot be removed yet: they are asked for again.
static int remove_sandboxes(struct bench *b, struct err *e)
{
	uint64_t until = clock_monotonic_ns() + CLEAN_UP_NS;
	_cleanup_free_ char *list_path =
		str_printf("/v1/sandboxes?metadata=" LABEL "%%3D%s", b->tag);
	if (!list_path)
		return err_errno(e, ENOMEM, "clean-up");
	for (;;) {
		_cleanup_json_ json_t *page = NULL;
		const json_t *s;
		size_t i;
		int rc = api_call(b->c, "GET", list_path, NULL, &page, e);
		bool wait = false;
		json_array_foreach (json_object_get(page, "sandboxes"), i, s) {
			struct err one = {0};
			_cleanup_free_ char *path = NULL;
			const char *id = json_string_value(json_object_get(s, "id"));
			rc = api_sandbox_path(id ? id : "", "", &path, &one);
			if (rc == 0)
				rc = remove_path(b, path, &one);
			wait |= one.code == ERR_CONFLICT;
			if (rc < 0 && one.code != ERR_CONFLICT && one.code != ERR_NOT_FOUND) {
				if (e)
					*e = one;
				return rc;
			}
			rc = 0;
		}
		if (rc < 0 || json_array_size(json_object_get(page, "sandboxes")) == 0)
			return rc;
		if (clock_monotonic_ns() > until)
			return err_set(e, ERR_TIMEOUT,
				"sandboxes with the label " LABEL "=%s are left", b->tag);
		if (wait)
			clock_sleep_ns(200 * NSEC_PER_MSEC);
	}
}

static int clean_up(struct bench *b, struct err *e)
{
	struct err why = {0};
	_cleanup_free_ char *path = NULL;
	int rc = remove_sandboxes(b, e);
	int rc2 = snapshot_path(b, &path, &why);
	if (rc2 == 0)
		rc2 = remove_path(b, path, &why);
	if (rc2 < 0 && why.code != ERR_NOT_FOUND && rc == 0) {
		if (e)
			*e = why;
		return rc2;
	}
	return rc;
}

static int one_round(struct bench *b, struct err *e)
{
	_cleanup_free_ char *sandbox = NULL;
	uint64_t ns, more;
	int rc = create(b, F_CREATE, b->figures.template, &sandbox, &ns, e);
	if (rc == 0 && (rc = run_true(b, sandbox, &more, e)) == 0)
		note(b, F_CREATE_EXEC, ns + more, NULL);
	if (rc == 0 && (rc = run_true(b, sandbox, &ns, e)) == 0)
		note(b, F_EXEC, ns, NULL);
	if (rc == 0)
		rc = dirty(b, sandbox, e);
	if (rc == 0)
		rc = change(b, F_PAUSE, sandbox, &ns, e);
	if (rc == 0)
		rc = change(b, F_RESUME, sandbox, &ns, e);
	if (rc == 0 && (rc = run_true(b, sandbox, &more, e)) == 0)
		note(b, F_RESUME_EXEC, ns + more, NULL);
	if (rc == 0)
		rc = fork_children(b, sandbox, e);
	if (rc == 0)
		rc = snapshot(b, sandbox, e);
	// The source and the children, which have its label.
	return rc == 0 ? remove_sandboxes(b, e) : rc;
}

static int run_rounds(struct bench *b, struct err *e)
{
	int rc = 0;
	for (uint64_t i = 0; i <= b->figures.runs && rc == 0; i++) {
		b->counts = i > 0;
		if (i == 0)
			snprintf(b->what, sizeof b->what, "warming up");
		else
			snprintf(b->what, sizeof b->what, "round %" PRIu64 " of %" PRIu64, i,
				b->figures.runs);
		rc = one_round(b, e);
	}
	return rc;
}

int cmd_bench(struct cli *c, struct err *e)
{
	struct bench b = {.c = c, .figures = {.runs = 10, .children = 4}};
	_cleanup_json_ json_t *machine = NULL;
	const struct cli_option options[] = {
		{'n', "runs", "N", "so many rounds (default: 10)", OPT_U64, &b.figures.runs, 1,
			1000},
		{0, "template", "TEMPLATE", "what to create from (default: base)", OPT_STRING,
			&b.figures.template},
		{0, "children", "N", "children of a fork (default: 4)", OPT_U64,
			&b.figures.children, 1, 100},
		{0, "dirty", "MIB", "memory the guest writes before its pause (default: 0)",
			OPT_MIB, &b.figures.dirty_mib, 0, 1u << 20},
		{0},
	};
	int rc = cli_parse(c, options, 0, 0, e);
	if (rc != 0)
		return rc;
	unsigned char raw[4];
	id_random_bytes(raw, sizeof raw);
	id_hex(raw, sizeof raw, b.tag);
	snprintf(b.snapshot, sizeof b.snapshot, "bench-%s", b.tag);
	for (int f = 0; f < F_MAX; f++) {
		b.figures.samples[f] = calloc(b.figures.runs, sizeof *b.figures.samples[f]);
		b.figures.phases[f] = json_array();
		if (!b.figures.samples[f] || !b.figures.phases[f])
			rc = err_errno(e, ENOMEM, "bench");
	}
	if (rc == 0)
		rc = figures_machine(c, &machine, e);
	if (rc == 0) {
		struct err why = {0};
		term_catch_signals(false);
		progress_start(&b.progress, b.what);
		rc = run_rounds(&b, e);
		if (term_interrupts(NULL) > 0 && rc < 0)
			err_set(e, ERR_CANCELED, "interrupted");
		snprintf(b.what, sizeof b.what, "removing what was made");
		int rc2 = clean_up(&b, &why);
		progress_clear(&b.progress);
		if (rc2 < 0 && rc == 0) {
			rc = rc2;
			*e = why;
		} else if (rc2 < 0) {
			output_complain("clean-up: %s", why.text);
		}
	}
	if (rc == 0)
		rc = figures_print(c, &b.figures, machine);
	for (int f = 0; f < F_MAX; f++) {
		free(b.figures.samples[f]);
		json_decref(b.figures.phases[f]);
	}
	free(b.child_error);
	strbuf_done(&b.line);
	return rc;
}
