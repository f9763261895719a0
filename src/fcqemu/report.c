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
static int open_output(const char *path, struct err *e)
{
	int fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_NONBLOCK | O_CLOEXEC | O_NOCTTY, 0600);
	return fd < 0 ? err_errno(e, errno, "Cannot open %.500s", path) : fd;
}

struct logger_body {
	char *path, *level;
	bool show_level;
};

static const struct body_field logger_fields[] = {
	BODY_TEXT(struct logger_body, path, "log_path", false),
	BODY_TEXT(struct logger_body, level, "level", false),
	BODY_FLAG(struct logger_body, show_level, "show_level", false),
	BODY_REFUSED("show_log_origin", "false", "log lines carry no source position"),
	BODY_REFUSED("module", NULL, "log lines carry no module"),
};

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

int report_put_logger(struct report *r, const char *body, size_t len, struct err *e)
{
	struct logger_body b = {.show_level = r->show_level};
	enum report_level level = r->level;
	int fd = -1;
	int rc = body_read(body, len, logger_fields, ARRAY_SIZE(logger_fields), &b, NULL, e);
	if (rc == 0 && b.level && !parse_level(b.level, &level))
		rc = err_set(e, ERR_INVALID,
			"unknown variant `%.40s`, expected one of Off, Trace, Debug, Info, Warn, "
			"Error.",
			b.level);
	if (rc == 0 && b.path && (fd = open_output(b.path, e)) < 0)
		rc = fd;
	if (rc == 0) {
		if (fd >= 0) {
			safe_close(r->log_fd);
			r->log_fd = fd;
		}
		r->level = level;
		r->show_level = b.show_level;
	}
	body_done(logger_fields, ARRAY_SIZE(logger_fields), &b);
	return rc;
}

int report_put_metrics(struct report *r, const char *body, size_t len, struct err *e)
{
	struct {
		char *path;
	} b = {0};
	const struct body_field fields[] = {
		{.name = "metrics_path", .type = BODY_STRING, .required = true}};
	int rc = body_read(body, len, fields, ARRAY_SIZE(fields), &b, NULL, e);
	if (rc == 0 && r->metrics_fd >= 0)
		rc = err_set(e, ERR_CONFLICT, "Reinitialization of metrics not allowed.");
	if (rc == 0 && (rc = open_output(b.path, e)) >= 0) {
		r->metrics_fd = rc;
		rc = 0;
	}
	free(b.path);
	return rc;
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
