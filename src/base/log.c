// SPDX-License-Identifier: Apache-2.0
// How this works. A line is formatted once. What its fields are is read in the format and not in
// the text: an error or a guest's words with "sandbox=x" in them make no field. Where the value of
// a field begins and ends in the text is how long the text is of the format up to there.
#include "base/log.h"
#include <stdarg.h>
#include <string.h>
#include "base/clock.h"
#include "base/printable.h"
#include "base/request_id.h"

#define LINE_MAX_BYTES 2048
#define FIELDS_MAX 12
#define KEY_MAX 32

static enum log_level log_max = LOG_LEVEL_INFO;
static enum log_format log_form = LOG_FORMAT_TEXT;
static const char *log_program = "stasis";
static const char *const names[] = {"error", "warn", "info", "debug"};
// A line has them already; a field of that name gets an underscore.
static const char *const own_keys[] = {"time", "level", "program", "message", "request_id"};

void log_setup(const char *program, enum log_level max)
{
	log_program = program;
	log_max = max;
}

void log_set_format(enum log_format format)
{
	log_form = format;
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

bool log_format_parse(const char *name, enum log_format *ret)
{
	if (strcmp(name, "text") != 0 && strcmp(name, "json") != 0)
		return false;
	*ret = name[0] == 'j' ? LOG_FORMAT_JSON : LOG_FORMAT_TEXT;
	return true;
}

static void put(const char *line, size_t len)
{
	if (write(STDERR_FILENO, line, len) < 0) {
		// nowhere left to say it
	}
}

// --- text

static void write_text(enum log_level level, const char *text, size_t len)
{
	char line[LINE_MAX_BYTES + REQUEST_ID_SIZE + 128], when[32];
	clock_format_rfc3339(clock_realtime_ns(), when);
	size_t n = (size_t)snprintf(
		line, sizeof line, "%s %s %.40s: ", when, names[level], log_program);
	memcpy(line + n, text, len);
	// One line is one write; a guest's text must not be able to forge a second line.
	for (size_t i = n; i < n + len; i++)
		if ((unsigned char)line[i] < ' ')
			line[i] = ' ';
	n += len;
	if (request_id_current()[0])
		n += (size_t)snprintf(
			line + n, sizeof line - n, " request_id=%s", request_id_current());
	line[n++] = '\n';
	put(line, n);
}

// --- JSON

// All offsets are of the text; the field's name is in the format.
struct field {
	const char *key;
	size_t key_len, from, to;    // from: of the name, to: behind the value
	size_t value_from, value_to; // without quotes
	bool is_number;
};

static size_t length_until(const char *fmt, const char *end, va_list ap)
{
	char part[1024];
	va_list copy;
	if ((size_t)(end - fmt) >= sizeof part)
		return 0;
	memcpy(part, fmt, (size_t)(end - fmt));
	part[end - fmt] = '\0';
	va_copy(copy, ap);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	int n = vsnprintf(NULL, 0, part, copy);
#pragma GCC diagnostic pop
	va_end(copy);
	return (size_t)MAX(n, 0);
}

// Behind the value in the format, which begins at p.
static const char *value_end(const char *p)
{
	if (*p == '"') {
		const char *quote = strchr(p + 1, '"');
		return quote ? quote + 1 : p + strlen(p);
	}
	while (*p && !strchr(" ,;()", *p) && !(*p == ':' && (p[1] == ' ' || !p[1])))
		p++;
	return p;
}

// The field whose name begins at p in the format; false: there is none.
static bool read_field(const char *fmt, const char *p, va_list ap, struct field *ret)
{
	size_t n = strspn(p, "abcdefghijklmnopqrstuvwxyz_0123456789");
	if (n == 0 || n >= KEY_MAX || p[n] != '=' || (p != fmt && p[-1] != ' '))
		return false;
	const char *value = p + n + 1, *end = value_end(value);
	bool quoted = *value == '"' && end[-1] == '"' && end > value + 1;
	bool is_number = *value == '%' && strchr("du", end[-1]) &&
			 !memchr(value + 1, '%', (size_t)(end - value - 1));
	*ret = (struct field){.key = p, .key_len = n, .is_number = is_number};
	ret->from = length_until(fmt, p, ap);
	ret->value_from = length_until(fmt, value, ap) + quoted;
	ret->to = length_until(fmt, end, ap);
	ret->value_to = ret->to - quoted;
	return true;
}

static size_t read_fields(const char *fmt, va_list ap, struct field out[FIELDS_MAX])
{
	size_t n = 0;
	for (const char *p = fmt; *p && n < FIELDS_MAX; p++)
		n += read_field(fmt, p, ap, &out[n]);
	return n;
}

static void add_string(struct strbuf *out, const char *s, size_t len)
{
	_cleanup_strbuf_ struct strbuf clean = {0};
	printable_add(&clean, s, len, false);
	strbuf_addc(out, '"');
	for (size_t i = 0; i < clean.len; i++) {
		if (clean.data[i] == '"' || clean.data[i] == '\\')
			strbuf_addc(out, '\\');
		strbuf_addc(out, clean.data[i]);
	}
	strbuf_addc(out, '"');
}

static void add_field(struct strbuf *out, const struct field *f, const char *text, size_t len)
{
	const char *value = text + MIN(f->value_from, len);
	size_t n = MIN(f->value_to, len) - MIN(f->value_from, len);
	const char *own = "";
	for (size_t i = 0; i < ARRAY_SIZE(own_keys); i++)
		if (strlen(own_keys[i]) == f->key_len &&
			memcmp(own_keys[i], f->key, f->key_len) == 0)
			own = "_";
	strbuf_addf(out, ",\"%.*s%s\":", (int)f->key_len, f->key, own);
	// What is larger than 2^53 is no number to many who read JSON.
	if (f->is_number && n >= 1 && n <= 15 && f->value_to <= len)
		strbuf_add(out, value, n);
	else
		add_string(out, value, n);
}

// The text without its fields.
static void add_message(
	struct strbuf *out, const struct field *fields, size_t n, const char *text, size_t len)
{
	_cleanup_strbuf_ struct strbuf message = {0};
	size_t at = 0;
	for (size_t i = 0; i < n; i++) {
		size_t from = MIN(fields[i].from, len);
		strbuf_add(&message, text + at, from - at);
		while (message.len && message.data[message.len - 1] == ' ')
			message.data[--message.len] = '\0';
		at = MIN(fields[i].to, len);
	}
	strbuf_add(&message, text + at, len - at);
	add_string(out, message.data ? message.data : "", message.len);
}

static void write_json(
	enum log_level level, const char *fmt, va_list ap, const char *text, size_t len)
{
	_cleanup_strbuf_ struct strbuf line = {0};
	struct field fields[FIELDS_MAX];
	char when[32];
	size_t n = read_fields(fmt, ap, fields);
	clock_format_rfc3339(clock_realtime_ns(), when);
	strbuf_addf(&line,
		"{\"time\":\"%s\",\"level\":\"%s\",\"program\":\"%s\",\"message\":", when,
		names[level], log_program);
	add_message(&line, fields, n, text, len);
	if (request_id_current()[0])
		strbuf_addf(&line, ",\"request_id\":\"%s\"", request_id_current());
	for (size_t i = 0; i < n; i++)
		add_field(&line, &fields[i], text, len);
	strbuf_adds(&line, "}\n");
	if (!line.failed)
		put(line.data, line.len);
}

void log_write(enum log_level level, const char *fmt, ...)
{
	if (level > log_max)
		return;
	int saved = errno;
	char text[LINE_MAX_BYTES];
	va_list ap, copy;
	va_start(ap, fmt);
	va_copy(copy, ap);
	int n = vsnprintf(text, sizeof text, fmt, copy);
	va_end(copy);
	size_t len = MIN((size_t)MAX(n, 0), sizeof text - 1);
	if (log_form == LOG_FORMAT_JSON)
		write_json(level, fmt, ap, text, len);
	else
		write_text(level, text, len);
	va_end(ap);
	errno = saved;
}
