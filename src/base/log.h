// SPDX-License-Identifier: Apache-2.0
// Structured log lines on stderr: "2026-11-24T03:00:00.123Z info server: text key=value ...".
// Library code does not log above debug; the function that decides what to do logs once.
#pragma once
#include "base/macro.h"

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

// Program name shown in each line (kept, not copied) and the highest level shown.
void log_setup(const char *program, enum log_level max);
// "error", "warn", "info", "debug"; false when unknown.
bool log_level_parse(const char *name, enum log_level *ret);
// Fields are part of the text, written key=value ("create failed sandbox=%s cause=%s").
void log_write(enum log_level level, const char *fmt, ...) _printf_(2, 3);

#define log_error(...) log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...) log_write(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...) log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_LEVEL_DEBUG, __VA_ARGS__)
