// SPDX-License-Identifier: Apache-2.0
// why: what the server knows of an end, or of the last failure.
#include <string.h>
#include "base/json.h"
#include "base/str.h"
#include "cli/base/api.h"
#include "cli/base/option.h"
#include "cli/base/output.h"
#include "cli/command/all.h"

// Guests have their words in all of it.
static void say(const char *label, const char *fmt, ...) _printf_(2, 3);
static void say(const char *label, const char *fmt, ...)
{
	va_list ap;
	char *text = NULL;
	va_start(ap, fmt);
	if (vasprintf(&text, fmt, ap) < 0)
		text = NULL;
	va_end(ap);
	_cleanup_json_ json_t *j = json_string(text ? text : "");
	_cleanup_free_ char *clean = j ? output_value(j) : NULL;
	printf("%-12s %s\n", label, clean ? clean : "?");
	free(text);
}

static const char *text_of(const json_t *object, const char *name)
{
	const char *s = json_string_value(json_object_get(object, name));
	return s ? s : "";
}

static uint64_t number_of(const json_t *object, const char *name)
{
	json_int_t v = json_integer_value(json_object_get(object, name));
	return v > 0 ? (uint64_t)v : 0;
}

// "slot 1.50 ms, load 2.00 s"; their sum in microseconds.
static uint64_t add_phases(struct strbuf *b, const json_t *phases)
{
	size_t i;
	json_t *phase = NULL;
	uint64_t us = 0;
	json_array_foreach (phases, i, phase) {
		char ms[24];
		human_ms(number_of(phase, "us"), ms);
		us += number_of(phase, "us");
		strbuf_addf(b, "%s%s %s", i ? ", " : "", text_of(phase, "name"), ms);
	}
	return us;
}

static void say_failure(const json_t *failure)
{
	char when[32];
	_cleanup_strbuf_ struct strbuf phases = {0};
	if (!json_is_object(failure))
		return;
	human_when(json_object_get(failure, "at"), when);
	say("failure", "%s, %s (%s): %s", text_of(failure, "kind"), when, text_of(failure, "at"),
		text_of(json_object_get(failure, "error"), "message"));
	add_phases(&phases, json_object_get(failure, "phases"));
	if (phases.len)
		say("", "steps: %s", phases.data);
	say("", "%s", text_of(failure, "advice"));
}

static void say_kills(const json_t *oom)
{
	size_t i, k;
	json_t *event = NULL, *kill = NULL;
	if (number_of(oom, "kills") == 0)
		return;
	say("memory", "the guest's kernel has killed %llu process%s for lack of it",
		(unsigned long long)number_of(oom, "kills"),
		number_of(oom, "kills") == 1 ? "" : "es");
	json_array_foreach (json_object_get(oom, "last"), i, event) {
		json_array_foreach (json_object_get(event, "kills"), k, kill) {
			char had[24], has[24];
			human_size(number_of(kill, "rss_bytes"), had);
			human_size(number_of(event, "memory_mb") << 20, has);
			bool limited = *text_of(kill, "cgroup");
			say("", "%s  %s (%llu) had %s of %s%s", text_of(kill, "at"),
				text_of(kill, "process"),
				(unsigned long long)number_of(kill, "pid"), had,
				limited ? "what the cgroup may have: " : has,
				limited ? text_of(kill, "cgroup") : "");
		}
	}
}

static void say_operations(const json_t *operations)
{
	size_t i;
	json_t *op;
	json_array_foreach (operations, i, op) {
		char sum[24] = "";
		_cleanup_strbuf_ struct strbuf phases = {0};
		uint64_t us = add_phases(&phases, json_object_get(op, "phases"));
		if (us)
			human_ms(us, sum);
		say(i ? "" : "operations", "%s  %s %s%s%s%s%s", text_of(op, "created_at"),
			text_of(op, "kind"), text_of(op, "state"), us ? ", " : "", sum,
			us ? ": " : "", phases.data ? phases.data : "");
	}
}

static int print(const json_t *j)
{
	size_t i;
	json_t *line;
	const char *name = text_of(j, "name");
	say("sandbox", "%s%s%s%s  %s", text_of(j, "id"), *name ? " (" : "", name, *name ? ")" : "",
		text_of(j, "state"));
	say("why", "%s", text_of(j, "summary"));
	if (*text_of(j, "cause"))
		say("cause", "%s%s%s", text_of(j, "cause"), *text_of(j, "by") ? ", by the " : "",
			str_eq(text_of(j, "by"), "api")	      ? "API"
			: str_eq(text_of(j, "by"), "timeout") ? "time-out"
							      : text_of(j, "by"));
	if (*text_of(j, "detail"))
		say("detail", "%s", text_of(j, "detail"));
	if (*text_of(j, "advice"))
		say("what to do", "%s", text_of(j, "advice"));
	say_failure(json_object_get(j, "failure"));
	say_kills(json_object_get(j, "oom"));
	say_operations(json_object_get(j, "operations"));
	json_array_foreach (json_object_get(j, "console"), i, line)
		say(i ? "" : "console", "%s",
			json_string_value(line) ? json_string_value(line) : "");
	return output_flush();
}

int cmd_why(struct cli *c, struct err *e)
{
	_cleanup_free_ char *path = NULL;
	_cleanup_json_ json_t *j = NULL;
	int rc = cli_parse(c, NULL, 1, 1, e);
	if (rc != 0)
		return rc;
	rc = api_sandbox_path(c->argv[0], "/why", &path, e);
	if (rc == 0)
		rc = api_call(c, "GET", path, NULL, &j, e);
	if (rc < 0)
		return rc;
	return c->json ? output_json(j) : print(j);
}
