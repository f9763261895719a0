// SPDX-License-Identifier: Apache-2.0
#include "base/printable.h"
#include <string.h>

// Length of the escape sequence that s begins with (ECMA-48, 5.3 to 5.6): one that is cut off ends
// with the text.
static size_t escape_len(const char *s, size_t len)
{
	size_t i = 2;
	if (len < 2)
		return len;
	if (s[1] == '[') {
		while (i < len && s[i] >= 0x20 && s[i] <= 0x3f)
			i++;
		return i < len && s[i] >= 0x40 && s[i] <= 0x7e ? i + 1 : i;
	}
	if (s[1] && strchr("]PX^_", s[1])) { // to BEL or ESC \, but not past a line
		while (i < len && s[i] != '\a' && s[i] != '\033' && s[i] != '\n')
			i++;
		if (i < len && s[i] == '\a')
			return i + 1;
		return i + 1 < len && s[i] == '\033' && s[i + 1] == '\\' ? i + 2 : i;
	}
	i = 1;
	while (i < len && s[i] >= 0x20 && s[i] <= 0x2f)
		i++;
	return i < len && s[i] >= 0x30 && s[i] <= 0x7e ? i + 1 : i;
}

// Of the character that s begins with; 0: it is none.
static size_t utf8_len(const char *s, size_t len)
{
	unsigned char c = (unsigned char)s[0];
	size_t n = c < 0x80 ? 1 : c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;
	return n <= len && str_is_utf8(s, n) ? n : 0;
}

static bool is_harmful(const char *s, size_t n)
{
	const unsigned char *p = (const unsigned char *)s;
	if (n == 1)
		return p[0] < ' ' || p[0] == 127;
	if (n == 2)
		return p[0] == 0xc2 && p[1] < 0xa0;
	if (n != 3 || p[0] != 0xe2)
		return false;
	return (p[1] == 0x80 && (p[2] == 0x8e || p[2] == 0x8f || (p[2] >= 0xaa && p[2] <= 0xae))) ||
	       (p[1] == 0x81 && p[2] >= 0xa6 && p[2] <= 0xa9);
}

void printable_add(struct strbuf *b, const char *s, size_t len, bool lines)
{
	for (size_t i = 0; i < len;) {
		size_t n = utf8_len(s + i, len - i);
		if (s[i] == '\033') {
			i += escape_len(s + i, len - i);
			continue;
		}
		if (s[i] == '\t')
			strbuf_addc(b, ' ');
		else if (lines && s[i] == '\n')
			strbuf_addc(b, '\n');
		else if (n == 0 || (s[i] != '\r' && is_harmful(s + i, n)))
			strbuf_addc(b, '?');
		else if (s[i] != '\r')
			strbuf_add(b, s + i, n);
		i += MAX(n, (size_t)1);
	}
}

void printable_copy(char *out, size_t size, const char *s, size_t len)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	printable_add(&b, s, len, false);
	size_t n = b.failed ? 0 : MIN(b.len, size - 1);
	while (n > 0 && n < b.len && ((unsigned char)b.data[n] & 0xc0) == 0x80)
		n--;
	if (n)
		memcpy(out, b.data, n);
	out[n] = '\0';
}

// Where the last lines of a text begin that fit. Each line is ended, none is empty.
static const char *find_tail(const char *text, size_t len)
{
	const char *end = text + len, *from = end;
	for (unsigned lines = 0; lines < PRINTABLE_TAIL_LINES && from > text; lines++) {
		const char *before = memrchr(text, '\n', (size_t)(from - text) - 1);
		const char *begin = before ? before + 1 : text;
		if ((size_t)(end - begin) > PRINTABLE_TAIL_BYTES)
			break;
		from = begin;
	}
	return from;
}

void printable_tail(struct strbuf *b, const char *text, size_t len)
{
	_cleanup_strbuf_ struct strbuf clean = {0}, lines = {0};
	printable_add(&clean, text, len, true);
	for (const char *p = clean.data, *end; p && *p; p = end + (*end == '\n')) {
		end = strchrnul(p, '\n');
		if (p + strspn(p, " ") < end)
			strbuf_addf(&lines, "%.*s\n", (int)(end - p), p);
	}
	if (!lines.len || lines.failed)
		return;
	const char *from = find_tail(lines.data, lines.len);
	if (!*from) {
		from = lines.data + lines.len - PRINTABLE_TAIL_BYTES;
		while (((unsigned char)*from & 0xc0) == 0x80)
			from++;
	}
	strbuf_adds(b, from);
}
