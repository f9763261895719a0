// SPDX-License-Identifier: Apache-2.0
#include "archive/tar_field.h"
#include <ctype.h>
#include <string.h>
#include "archive/tar_write.h"

int tar_read_number(const char *field, size_t size, uint64_t *ret)
{
	uint64_t v = 0;
	size_t i = 0;
	if ((unsigned char)field[0] == 0x80) {
		for (i = 1; i < size; i++) {
			if (v >> 56)
				return -ERANGE;
			v = v << 8 | (unsigned char)field[i];
		}
		*ret = v;
		return 0;
	}
	while (i < size && field[i] == ' ')
		i++;
	for (; i < size && field[i] && field[i] != ' '; i++) {
		if (field[i] < '0' || field[i] > '7' || v >> 61)
			return -EINVAL;
		v = v << 3 | (uint64_t)(field[i] - '0');
	}
	*ret = v;
	return 0;
}

int tar_read_time(const char *text, struct timespec *ret)
{
	bool negative = *text == '-';
	char whole[24];
	text += negative;
	size_t n = strcspn(text, ".");
	uint64_t s;
	long ns = 0, unit = 100000000;
	if (n >= sizeof whole)
		return -ERANGE;
	memcpy(whole, text, n);
	whole[n] = '\0';
	if (str_to_u64(whole, INT64_MAX / 2, &s) < 0)
		return -EINVAL;
	for (const char *p = text + n + (text[n] == '.'); *p; p++, unit /= 10) {
		if (!isdigit((unsigned char)*p))
			return -EINVAL;
		ns += (*p - '0') * unit;
	}
	*ret = (struct timespec){negative ? -(time_t)s : (time_t)s, ns};
	if (negative && ns)
		*ret = (struct timespec){-(time_t)s - 1, 1000000000 - ns};
	return 0;
}

bool tar_is_header(const char *h)
{
	uint64_t told, sum = 0;
	for (size_t i = 0; i < TAR_BLOCK; i++)
		sum += i >= TAR_AT_SUM && i < TAR_AT_SUM + 8 ? ' ' : (unsigned char)h[i];
	return tar_read_number(h + TAR_AT_SUM, 8, &told) == 0 && told == sum &&
	       memcmp(h + TAR_AT_MAGIC, "ustar", 5) == 0;
}

void tar_read_name(const char *h, struct strbuf *to)
{
	// The prefix is of POSIX's magic alone; GNU has other fields there.
	size_t n = strnlen(h + TAR_AT_PREFIX, 155);
	if (n && memcmp(h + TAR_AT_MAGIC, "ustar\0", 6) == 0) {
		strbuf_add(to, h + TAR_AT_PREFIX, n);
		strbuf_addc(to, '/');
	}
	strbuf_add(to, h + TAR_AT_NAME, strnlen(h + TAR_AT_NAME, 100));
}
