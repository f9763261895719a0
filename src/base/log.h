// SPDX-License-Identifier: Apache-2.0
// Structured log lines on stderr: "2026-11-24T03:00:00.123Z info server: text key=value ...", or an
// object of JSON a line: {"time", "level", "program", "message", and each field}. What a thread
// logs while it works for a request has the field request_id (base/request_id.h). Library code does
// not log above debug; the function that decides what to do logs once.
#pragma once
#include "base/macro.h"

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

// Program name shown in each line (kept, not copied) and the highest level shown.
void log_setup(const char *program, enum log_level max);
// "error", "warn", "info", "debug"; false when unknown.
bool log_level_parse(const char *name, enum log_level *ret);
enum log_format { LOG_FORMAT_TEXT, LOG_FORMAT_JSON };
// Of the whole process; text until then. Called before there are threads.
void log_set_format(enum log_format format);
bool log_format_parse(const char *name, enum log_format *ret); // "text", "json"
// Fields are part of the text, written key=value ("create failed sandbox=%s cause=%s"): a word of
// the format, its value up to a blank, or between double quotes.
void log_write(enum log_level level, const char *fmt, ...) _printf_(2, 3);

#define log_error(...) log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...) log_write(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...) log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_LEVEL_DEBUG, __VA_ARGS__)
