// SPDX-License-Identifier: Apache-2.0
#include "fcqemu/report.h"
#include <fcntl.h>
#include <string.h>
#include <strings.h>
#include "base/clock.h"
#include "base/str.h"
#include "fcqemu/body.h"

void report_init(struct report *r, const char *id)
{
	*r = (struct report){.id = id, .log_fd = -1, .metrics_fd = -1, .level = REPORT_INFO};
}

void report_done(struct report *r)
{
	r->log_fd = safe_close(r->log_fd);
	r->metrics_fd = safe_close(r->metrics_fd);
}

// O_NONBLOCK: a FIFO that nobody reads must not stop us, neither here nor at a write.
static int open_output(const char *path, const char *what, struct err *e)
{
	int fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_NONBLOCK | O_CLOEXEC | O_NOCTTY, 0600);
	if (fd < 0)
		return err_set(e, ERR_INVALID, "%s: " OS_ERROR, what, OS_ERROR_OF(errno));
	return fd;
}

struct logger_body {
	char *path, *level;
	bool show_level;
};

static int check_level(const json_t *o, struct err *e);

static const struct body_field logger_fields[] = {
	{"log_path", BODY_PATH, .nullable = true, BODY_FIELD(struct logger_body, path)},
	{"level", BODY_STRING, .nullable = true, BODY_FIELD(struct logger_body, level)},
	{"show_level", BODY_BOOL, .nullable = true, BODY_FIELD(struct logger_body, show_level)},
	{"show_log_origin", BODY_BOOL, .nullable = true, .only = "false",
		.why = "log lines carry no source position"},
	{"module", BODY_STRING, .nullable = true, .why = "log lines carry no module"},
};

const struct body_shape report_logger_shape =
	BODY_SHAPE("struct LoggerConfig", logger_fields, .check = check_level);

struct metrics_body {
	char *path;
};

static const struct body_field metrics_fields[] = {
	{"metrics_path", BODY_PATH, .required = true, BODY_FIELD(struct metrics_body, path)},
};

const struct body_shape report_metrics_shape =
	BODY_SHAPE("struct MetricsConfig", metrics_fields, .open = true);

static bool parse_level(const char *text, enum report_level *ret)
{
	static const struct {
		const char *name;
		enum report_level level;
	} names[] = {{"Off", REPORT_OFF}, {"Error", REPORT_ERROR}, {"Warn", REPORT_WARN},
		{"Warning", REPORT_WARN}, {"Info", REPORT_INFO}, {"Debug", REPORT_DEBUG},
		{"Trace", REPORT_DEBUG}};
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (strcasecmp(text, names[i].name) == 0) {
			*ret = names[i].level;
			return true;
		}
	return false;
}

static int check_level(const json_t *o, struct err *e)
{
	enum report_level level;
	const char *text = json_string_value(json_object_get(o, "level"));
	if (!text || parse_level(text, &level))
		return 0;
	return err_set(e, ERR_INVALID,
		"An error occurred when deserializing the json body of a request: Invalid "
		"LevelFilter.");
}

int report_put_logger(struct report *r, const json_t *body, struct err *e)
{
	struct logger_body b = {.show_level = r->show_level};
	int fd = -1;
	int rc = body_take(body, &report_logger_shape, &b, NULL, e);
	if (rc == 0 && b.path &&
		(fd = open_output(b.path, "Logger error: Failed to open target file", e)) < 0)
		rc = fd;
	if (rc == 0) {
		if (fd >= 0) {
			safe_close(r->log_fd);
			r->log_fd = fd;
		}
		if (b.level)
			parse_level(b.level, &r->level);
		r->show_level = b.show_level;
	}
	body_done(&report_logger_shape, &b);
	return rc;
}

int report_put_metrics(struct report *r, const json_t *body, struct err *e)
{
#define BAD_INPUT "Metrics error: Cannot initialize the metrics system due to bad user input"
	struct metrics_body b = {0};
	int rc = body_take(body, &report_metrics_shape, &b, NULL, e);
	int fd = rc == 0 ? open_output(b.path, BAD_INPUT, e) : rc;
	body_done(&report_metrics_shape, &b);
	if (fd < 0)
		return fd;
	if (r->metrics_fd >= 0) {
		safe_close(fd);
		return err_set(
			e, ERR_CONFLICT, BAD_INPUT ": Reinitialization of metrics not allowed.");
	}
	r->metrics_fd = fd;
	return 0;
}

static void write_line(int fd, const struct strbuf *line)
{
	if (strbuf_check(line) == 0 && write(fd, line->data, line->len) < 0) {
		// dropped: see the header
	}
}

void report_log(struct report *r, enum report_level level, const char *fmt, ...)
{
	static const char *const names[] = {"OFF", "ERROR", "WARN", "INFO", "DEBUG"};
	if (r->log_fd < 0 || level > r->level)
		return;
	char now[32];
	_cleanup_strbuf_ struct strbuf line = {0};
	clock_format_rfc3339(clock_realtime_ns(), now);
	strbuf_addf(&line, "%s [%s%s%s] ", now, r->id, r->show_level ? ":" : "",
		r->show_level ? names[level] : "");
	va_list ap;
	va_start(ap, fmt);
	strbuf_addv(&line, fmt, ap);
	va_end(ap);
	strbuf_addc(&line, '\n');
	write_line(r->log_fd, &line);
}

void report_flush_metrics(struct report *r)
{
	static const char *const names[REPORT_LATENCIES] = {[REPORT_PAUSE] = "pause_vm",
		[REPORT_RESUME] = "resume_vm",
		[REPORT_FULL_CREATE] = "full_create_snapshot",
		[REPORT_DIFF_CREATE] = "diff_create_snapshot",
		[REPORT_LOAD] = "load_snapshot"};
	if (r->metrics_fd < 0)
		return;
	_cleanup_strbuf_ struct strbuf line = {0};
	strbuf_addf(&line,
		"{\"utc_timestamp_ms\":%llu,\"api_server\":{\"requests\":%llu,\"failed\":%llu},"
		"\"latencies_us\":{",
		(unsigned long long)(clock_realtime_ns() / NSEC_PER_MSEC),
		(unsigned long long)r->requests, (unsigned long long)r->failed);
	for (size_t i = 0; i < REPORT_LATENCIES; i++)
		strbuf_addf(&line, "%s\"%s\":%llu", i ? "," : "", names[i],
			(unsigned long long)r->latency_us[i]);
	strbuf_adds(&line, "}}\n");
	write_line(r->metrics_fd, &line);
}
