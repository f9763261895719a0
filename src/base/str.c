// SPDX-License-Identifier: Apache-2.0
#include "base/str.h"
#include <string.h>

void strbuf_done(struct strbuf *b)
{
	free(b->data);
	*b = (struct strbuf){0};
}

static bool reserve(struct strbuf *b, size_t more)
{
	size_t need;
	if (b->failed || __builtin_add_overflow(b->len, more, &need) ||
		__builtin_add_overflow(need, 1, &need)) {
		b->failed = true;
		return false;
	}
	if (need <= b->cap)
		return true;
	size_t cap = MAX(need, MAX(b->cap + b->cap / 2, (size_t)64));
	char *p = realloc(b->data, cap);
	if (!p) {
		b->failed = true;
		return false;
	}
	b->data = p;
	b->cap = cap;
	return true;
}

void strbuf_add(struct strbuf *b, const void *data, size_t len)
{
	if (!reserve(b, len))
		return;
	if (len)
		memcpy(b->data + b->len, data, len);
	b->len += len;
	b->data[b->len] = '\0';
}

void strbuf_adds(struct strbuf *b, const char *s)
{
	strbuf_add(b, s, strlen(s));
}

void strbuf_addc(struct strbuf *b, char c)
{
	strbuf_add(b, &c, 1);
}

void strbuf_addv(struct strbuf *b, const char *fmt, va_list ap)
{
	va_list again;
	va_copy(again, ap);
	int n = vsnprintf(NULL, 0, fmt, ap);
	if (n < 0)
		b->failed = true;
	else if (reserve(b, (size_t)n)) {
		vsnprintf(b->data + b->len, (size_t)n + 1, fmt, again);
		b->len += (size_t)n;
	}
	va_end(again);
}

void strbuf_addf(struct strbuf *b, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	strbuf_addv(b, fmt, ap);
	va_end(ap);
}

void strbuf_consume(struct strbuf *b, size_t n)
{
	if (n >= b->len) {
		b->len = 0;
	} else if (n) {
		memmove(b->data, b->data + n, b->len - n);
		b->len -= n;
	}
	if (b->data)
		b->data[b->len] = '\0';
}

int strbuf_check(const struct strbuf *b)
{
	return b->failed ? -ENOMEM : 0;
}

char *strbuf_steal(struct strbuf *b)
{
	if (!b->failed && !b->data)
		strbuf_add(b, "", 0);
	char *r = b->failed ? NULL : TAKE_PTR(b->data);
	strbuf_done(b);
	return r;
}

char *str_printf(const char *fmt, ...)
{
	char *r = NULL;
	va_list ap;
	va_start(ap, fmt);
	int n = vasprintf(&r, fmt, ap);
	va_end(ap);
	return n < 0 ? NULL : r;
}

bool str_starts(const char *s, const char *prefix)
{
	return strncmp(s, prefix, strlen(prefix)) == 0;
}

bool str_ends(const char *s, const char *suffix)
{
	size_t n = strlen(s), m = strlen(suffix);
	return n >= m && strcmp(s + n - m, suffix) == 0;
}

int str_to_u64(const char *s, uint64_t max, uint64_t *ret)
{
	uint64_t v = 0;
	if (!s || !*s)
		return -EINVAL;
	for (; *s; s++) {
		if (*s < '0' || *s > '9')
			return -EINVAL;
		if (__builtin_mul_overflow(v, 10, &v) ||
			__builtin_add_overflow(v, (uint64_t)(*s - '0'), &v) || v > max)
			return -ERANGE;
	}
	*ret = v;
	return 0;
}

int str_format(char *out, size_t size, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(out, size, fmt, ap);
	va_end(ap);
	return n < 0 || (size_t)n >= size ? -ENAMETOOLONG : 0;
}

static int hex(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c = (char)(c | 32);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

ssize_t str_percent_decode(char *s, bool plus_is_space)
{
	char *out = s, *start = s;
	for (; *s; s++) {
		if (*s == '%') {
			int hi = hex(s[1]), lo = hi < 0 ? -1 : hex(s[2]);
			if (lo < 0)
				return -EINVAL;
			*out++ = (char)(hi << 4 | lo);
			s += 2;
		} else {
			*out++ = plus_is_space && *s == '+' ? ' ' : *s;
		}
	}
	*out = '\0';
	return out - start;
}

void str_percent_encode(struct strbuf *b, const char *s)
{
	for (; *s; s++) {
		unsigned char c = (unsigned char)*s;
		bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
			     (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.' || c == '~';
		if (plain)
			strbuf_addc(b, *s);
		else
			strbuf_addf(b, "%%%02X", c);
	}
}

static const char b64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void str_base64_encode(struct strbuf *b, const void *data, size_t len)
{
	const unsigned char *p = data;
	if (!reserve(b, len / 3 * 4 + 4))
		return;
	char *o = b->data + b->len;
	for (; len >= 3; p += 3, len -= 3) {
		*o++ = b64[p[0] >> 2];
		*o++ = b64[(p[0] & 3) << 4 | p[1] >> 4];
		*o++ = b64[(p[1] & 15) << 2 | p[2] >> 6];
		*o++ = b64[p[2] & 63];
	}
	if (len) {
		unsigned second = len == 2 ? p[1] : 0u;
		*o++ = b64[p[0] >> 2];
		*o++ = b64[((unsigned)p[0] & 3) << 4 | second >> 4];
		*o++ = len == 2 ? b64[(second & 15) << 2] : '=';
		*o++ = '=';
	}
	*o = '\0';
	b->len = (size_t)(o - b->data);
}

static int b64_value(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '+' ? 62 : c == '/' ? 63 : -1;
}

int str_base64_decode(struct strbuf *b, const char *s, size_t len)
{
	size_t pad = 0;
	while (len && s[len - 1] == '=' && pad < 2) {
		len--;
		pad++;
	}
	if (len % 4 == 1 || (pad && (len + pad) % 4))
		return -EINVAL;
	if (!reserve(b, len / 4 * 3 + 3))
		return -ENOMEM;
	unsigned char *o = (unsigned char *)b->data + b->len;
	uint32_t acc = 0;
	unsigned bits = 0;
	for (size_t i = 0; i < len; i++) {
		int v = b64_value(s[i]);
		if (v < 0) {
			b->data[b->len] = '\0';
			return -EINVAL;
		}
		acc = acc << 6 | (uint32_t)v;
		bits += 6;
		if (bits >= 8) {
			bits -= 8;
			*o++ = (unsigned char)(acc >> bits);
		}
	}
	*o = '\0';
	b->len = (size_t)((char *)o - b->data);
	return 0;
}

bool str_is_utf8(const char *s, size_t len)
{
	const unsigned char *p = (const unsigned char *)s, *end = p + len;
	while (p < end) {
		unsigned c = *p++;
		if (c < 0x80)
			continue;
		int more = c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : 1;
		if (c < 0xc2 || c > 0xf4 || end - p < more)
			return false;
		uint32_t v = c & (0x3fu >> more);
		for (int i = 0; i < more; i++, p++) {
			if ((*p & 0xc0) != 0x80)
				return false;
			v = v << 6 | (*p & 0x3f);
		}
		if ((more == 2 && v < 0x800) || (more == 3 && (v < 0x10000 || v > 0x10ffff)) ||
			(v >= 0xd800 && v <= 0xdfff))
			return false;
	}
	return true;
}

bool str_eq_secret(const char *a, const char *b)
{
	size_t n = strlen(a), m = strlen(b);
	unsigned diff = n != m;
	for (size_t i = 0; i < n && i < m; i++)
		diff |= (unsigned)(a[i] ^ b[i]);
	return diff == 0;
}

unsigned str_distance(const char *a, const char *b)
{
	enum { MAX_LEN = 32 };
	unsigned d[MAX_LEN + 1][MAX_LEN + 1];
	size_t n = MIN(strlen(a), (size_t)MAX_LEN), m = MIN(strlen(b), (size_t)MAX_LEN);
	for (size_t i = 0; i <= n; i++)
		d[i][0] = (unsigned)i;
	for (size_t j = 0; j <= m; j++)
		d[0][j] = (unsigned)j;
	for (size_t i = 1; i <= n; i++)
		for (size_t j = 1; j <= m; j++) {
			unsigned v = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
			v = MIN(v, d[i - 1][j] + 1);
			v = MIN(v, d[i][j - 1] + 1);
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
				v = MIN(v, d[i - 2][j - 2] + 1);
			d[i][j] = v;
		}
	return d[n][m];
}
