// SPDX-License-Identifier: Apache-2.0
// A growing text or byte buffer, and checked conversions. A strbuf is embedded: {0} is empty and
// valid; data is always NUL-terminated once something was added.
#pragma once
#include <stdarg.h>
#include "base/macro.h"

struct strbuf {
	char *data; // NULL while empty
	size_t len, cap;
	bool failed; // an allocation failed: the content is incomplete
};

void strbuf_done(struct strbuf *b); // frees; the buffer is empty again
void strbuf_add(struct strbuf *b, const void *data, size_t len);
void strbuf_adds(struct strbuf *b, const char *s);
void strbuf_addc(struct strbuf *b, char c);
void strbuf_addf(struct strbuf *b, const char *fmt, ...) _printf_(2, 3);
void strbuf_addv(struct strbuf *b, const char *fmt, va_list ap);
// Drops the first n bytes.
void strbuf_consume(struct strbuf *b, size_t n);
// 0, or -ENOMEM when an addition failed.
int strbuf_check(const struct strbuf *b);
// The text, owned by the caller; "" for an empty buffer, NULL when an addition failed.
char *strbuf_steal(struct strbuf *b);
#define _cleanup_strbuf_ _cleanup_(strbuf_done)

char *str_printf(const char *fmt, ...) _printf_(1, 2); // NULL when out of memory
static inline bool str_eq(const char *a, const char *b)
{
	return a && b && __builtin_strcmp(a, b) == 0;
}
bool str_starts(const char *s, const char *prefix);
bool str_ends(const char *s, const char *suffix);
// Whole string, decimal, no sign, no blanks. 0, -EINVAL or -ERANGE (above max).
int str_to_u64(const char *s, uint64_t max, uint64_t *ret);
// snprintf that fails (-ENAMETOOLONG) where the text would be cut.
int str_format(char *out, size_t size, const char *fmt, ...) _printf_(3, 4);
// Percent-decoding in place of one path segment or query value; plus_is_space for queries.
// Returns the new length (the text may hold NUL bytes then), or -EINVAL for a bad escape.
ssize_t str_percent_decode(char *s, bool plus_is_space);
// Appends s with everything but unreserved characters (RFC 3986) escaped.
void str_percent_encode(struct strbuf *b, const char *s);
// Standard base64 with padding.
void str_base64_encode(struct strbuf *b, const void *data, size_t len);
// Appends the decoded bytes; padding optional. 0 or -EINVAL.
int str_base64_decode(struct strbuf *b, const char *s, size_t len);
bool str_is_utf8(const char *s, size_t len);
// Edits (insert, delete, replace, swap of neighbours) from a to b; exact up to 32 letters, which no
// option, command or field has more of.
unsigned str_distance(const char *a, const char *b);
// Compares without telling by its duration where they differ (lengths may be told).
bool str_eq_secret(const char *a, const char *b);
