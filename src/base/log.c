// SPDX-License-Identifier: Apache-2.0
#include "base/log.h"
#include <stdarg.h>
#include <string.h>
#include "base/clock.h"

static enum log_level log_max = LOG_LEVEL_INFO;
static const char *log_program = "stasis";
static const char *const names[] = {"error", "warn", "info", "debug"};

void log_setup(const char *program, enum log_level max)
{
	log_program = program;
	log_max = max;
}

bool log_level_parse(const char *name, enum log_level *ret)
{
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (strcmp(name, names[i]) == 0) {
			*ret = (enum log_level)i;
			return true;
		}
	return false;
}

void log_write(enum log_level level, const char *fmt, ...)
{
	if (level > log_max)
		return;
	int saved = errno;
	char line[2048], when[32];
	clock_format_rfc3339(clock_realtime_ns(), when);
	int n = snprintf(line, sizeof line, "%s %s %s: ", when, names[level], log_program);
	va_list ap;
	va_start(ap, fmt);
	int m = vsnprintf(line + n, sizeof line - (size_t)n - 1, fmt, ap);
	va_end(ap);
	size_t len = MIN((size_t)n + (size_t)MAX(m, 0), sizeof line - 2);
	// One line is one write; a guest's text must not be able to forge a second line.
	for (size_t i = (size_t)n; i < len; i++)
		if ((unsigned char)line[i] < ' ')
			line[i] = ' ';
	line[len++] = '\n';
	if (write(STDERR_FILENO, line, len) < 0) {
		// nowhere left to say it
	}
	errno = saved;
}
