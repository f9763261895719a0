// SPDX-License-Identifier: Apache-2.0
// bench: measures the running server through its API. All sandboxes have a label of this run, by
// which they are found at the end, also those of calls that were cut off; and a time-out, for the
// case that nothing of us is left to remove them.
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/utsname.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/id.h"
#include "base/json.h"
#include "base/str.h"
#include "cli/base/api.h"
#include "cli/base/option.h"
#include "cli/base/output.h"
#include "cli/base/term.h"
#include "cli/command/all.h"

#define LIFE_SEC 1800
#define CLEAN_UP_NS (120 * NSEC_PER_SEC)
#define LABEL "stasis-bench"

enum figure {
	F_CREATE,
	F_CREATE_EXEC,
	F_EXEC,
	F_PAUSE,
	F_RESUME,
	F_RESUME_EXEC,
	F_FORK_FIRST,
	F_FORK,
	F_SNAPSHOT,
	F_SPAWN,
	F_MAX,
};
static const char *const names[F_MAX] = {
	[F_CREATE] = "create",
	[F_CREATE_EXEC] = "create to exec",
	[F_EXEC] = "exec",
	[F_PAUSE] = "pause",
	[F_RESUME] = "resume",
	[F_RESUME_EXEC] = "resume to exec",
	[F_FORK_FIRST] = "fork, first child",
	[F_FORK] = "fork",
	[F_SNAPSHOT] = "snapshot",
	[F_SPAWN] = "spawn",
};

struct bench {
	struct cli *c;
	const char *template; // NULL: the server's default
	uint64_t runs, children, dirty_mib;
	char tag[9], snapshot[32];
	bool counts;		  // not in the first round
	uint64_t *samples[F_MAX]; // microseconds, runs of each
	size_t n[F_MAX];
	json_t *phases[F_MAX]; // one array a sample where the API has phases
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
	if (!b->counts || b->n[f] == b->runs)
		return;
	b->samples[f][b->n[f]++] = ns / 1000;
	if (phases)
		json_array_append(b->phases[f], (json_t *)phases);
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
		return err_prefix(e, rc, "%s", names[f]);
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
	if (!b->dirty_mib)
		return 0;
	snprintf(command, sizeof command, "yes stasis | head -c %" PRIu64 "M > /dev/shm/" LABEL,
		b->dirty_mib);
	return run(b, sandbox, json_pack("{s:s, s:i}", "cmd", command, "timeout_sec", 600), &ns, e);
}

// pause and resume
static int change(
	struct bench *b, enum figure f, const char *sandbox, uint64_t *ret_ns, struct err *e)
{
	_cleanup_json_ json_t *answer = NULL, *body = json_object();
	_cleanup_free_ char *path = str_printf("%s/%s", sandbox, names[f]);
	if (!path)
		return err_errno(e, ENOMEM, "%s", names[f]);
	int rc = post(b, path, body, &answer, ret_ns, e);
	if (rc < 0)
		return err_prefix(e, rc, "%s", names[f]);
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
	_cleanup_json_ json_t *body =
		json_pack("{s:I, s:i}", "count", (json_int_t)b->children, "timeout_sec", LIFE_SEC);
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
	int rc = create(b, F_CREATE, b->template, &sandbox, &ns, e);
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

// --- what is printed

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return (x > y) - (x < y);
}

static json_t *figure_json(struct bench *b, enum figure f)
{
	json_t *samples = json_array();
	size_t n = b->n[f];
	for (size_t i = 0; i < n; i++)
		json_array_append_new(samples, json_integer((json_int_t)b->samples[f][i]));
	qsort(b->samples[f], n, sizeof *b->samples[f], by_value);
	const uint64_t *s = b->samples[f];
	uint64_t median = n % 2 ? s[n / 2] : (s[n / 2 - 1] + s[n / 2]) / 2;
	return json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:o, s:O}", "name", names[f], "unit", "us",
		"median", (json_int_t)median, "p90", (json_int_t)s[(n * 9 + 9) / 10 - 1], "min",
		(json_int_t)s[0], "max", (json_int_t)s[n - 1], "samples", samples, "phases",
		b->phases[f]);
}

static void cpu_model(char out[128])
{
	_cleanup_strbuf_ struct strbuf text = {0};
	snprintf(out, 128, "unknown");
	if (file_read(AT_FDCWD, "/proc/cpuinfo", 1u << 20, &text) < 0 || !text.len)
		return;
	const char *name = strstr(text.data, "model name");
	const char *colon = name ? strchr(name, ':') : NULL;
	if (colon)
		snprintf(out, 128, "%.*s", (int)strcspn(colon + 2, "\n"), colon + 2);
}

// The server's own account of its machine; kernel and processor are of the machine we run on.
static int machine_json(struct bench *b, json_t **ret, struct err *e)
{
	struct utsname u;
	char cpu[128];
	int rc = api_call(b->c, "GET", "/v1/host", NULL, ret, e);
	if (rc < 0)
		return rc;
	uname(&u);
	cpu_model(cpu);
	json_object_set_new(*ret, "client_kernel", json_string(u.release));
	json_object_set_new(*ret, "client_cpu", json_string(cpu));
	json_object_set_new(*ret, "url", json_string(b->c->base_url));
	return 0;
}

static const char *text_of(const json_t *object, const char *name)
{
	const char *s = json_string_value(json_object_get(object, name));
	return s ? s : "-";
}

static int print_table(struct bench *b, const json_t *report)
{
	static const char *const columns[] = {"median", "p90", "min", "max"};
	const json_t *machine = json_object_get(report, "machine"), *figure;
	size_t i;
	printf("stasis %s, %s, isolation %s\n%lld CPUs, %lld MiB; %s, Linux %s\n"
	       "template %s, %" PRIu64 " children a fork, %" PRIu64
	       " MiB written before a pause\n\n",
		text_of(machine, "version"), text_of(machine, "vmm"), text_of(machine, "isolation"),
		(long long)json_integer_value(json_object_get(machine, "cpus")),
		(long long)json_integer_value(json_object_get(machine, "memory_mb")),
		text_of(machine, "client_cpu"), text_of(machine, "client_kernel"),
		b->template ? b->template : "base", b->children, b->dirty_mib);
	_cleanup_table_ struct table t;
	table_init(
		&t, (const char *const[]){"FIGURE", "RUNS", "MEDIAN", "P90", "MIN", "MAX", NULL});
	json_array_foreach (json_object_get(report, "figures"), i, figure) {
		table_cell(&t, "%s", text_of(figure, "name"));
		table_cell(&t, "%zu", json_array_size(json_object_get(figure, "samples")));
		for (size_t k = 0; k < ARRAY_SIZE(columns); k++) {
			char ms[24];
			human_ms((uint64_t)json_integer_value(json_object_get(figure, columns[k])),
				ms);
			table_cell(&t, "%s", ms);
		}
	}
	return table_print(&t, stdout);
}

static int print_report(struct bench *b, json_t *machine)
{
	_cleanup_json_ json_t *figures = json_array();
	for (int f = 0; f < F_MAX; f++)
		if (b->n[f])
			json_array_append_new(figures, figure_json(b, (enum figure)f));
	_cleanup_json_ json_t *report = json_pack("{s:O, s:I, s:I, s:I, s:s, s:O}", "machine",
		machine, "runs", (json_int_t)b->runs, "children", (json_int_t)b->children,
		"dirty_mib", (json_int_t)b->dirty_mib, "template",
		b->template ? b->template : "base", "figures", figures);
	if (!report)
		return -ENOMEM;
	return b->c->json ? output_json(report) : print_table(b, report);
}

static int run_rounds(struct bench *b, struct err *e)
{
	int rc = 0;
	for (uint64_t i = 0; i <= b->runs && rc == 0; i++) {
		b->counts = i > 0;
		if (i == 0)
			snprintf(b->what, sizeof b->what, "warming up");
		else
			snprintf(b->what, sizeof b->what, "round %" PRIu64 " of %" PRIu64, i,
				b->runs);
		rc = one_round(b, e);
	}
	return rc;
}

int cmd_bench(struct cli *c, struct err *e)
{
	struct bench b = {.c = c, .runs = 10, .children = 4};
	_cleanup_json_ json_t *machine = NULL;
	const struct cli_option options[] = {
		{'n', "runs", "N", "so many rounds (default: 10)", OPT_U64, &b.runs, 1, 1000},
		{0, "template", "TEMPLATE", "what to create from (default: base)", OPT_STRING,
			&b.template},
		{0, "children", "N", "children of a fork (default: 4)", OPT_U64, &b.children, 1,
			100},
		{0, "dirty", "MIB", "memory the guest writes before its pause (default: 0)",
			OPT_MIB, &b.dirty_mib, 0, 1u << 20},
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
		b.samples[f] = calloc(b.runs, sizeof *b.samples[f]);
		b.phases[f] = json_array();
		if (!b.samples[f] || !b.phases[f])
			rc = err_errno(e, ENOMEM, "bench");
	}
	if (rc == 0)
		rc = machine_json(&b, &machine, e);
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
		rc = print_report(&b, machine);
	for (int f = 0; f < F_MAX; f++) {
		free(b.samples[f]);
		json_decref(b.phases[f]);
	}
	free(b.child_error);
	strbuf_done(&b.line);
	return rc;
}
