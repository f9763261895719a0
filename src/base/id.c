// SPDX-License-Identifier: Apache-2.0
#include "base/id.h"
#include <string.h>
#include <sys/random.h>

void id_random_bytes(void *out, size_t len)
{
	char *p = out;
	while (len) {
		ssize_t n = RETRY_EINTR(getrandom(p, MIN(len, (size_t)256), 0));
		if (n < 0)
			abort(); // an id that is not random must not leave this function
		p += n;
		len -= (size_t)n;
	}
}

void id_new_sandbox(char out[SANDBOX_ID_SIZE])
{
	static const char set[] = "abcdefghijklmnopqrstuvwxyz0123456789";
	out[0] = 'i';
	for (int i = 1; i < SANDBOX_ID_LEN;) {
		unsigned char r[32];
		id_random_bytes(r, sizeof r);
		for (size_t j = 0; j < sizeof r && i < SANDBOX_ID_LEN; j++)
			if (r[j] < 252) // 7 * 36: no letter more likely than another
				out[i++] = set[r[j] % 36];
	}
	out[SANDBOX_ID_LEN] = '\0';
}

bool id_is_sandbox(const char *s)
{
	size_t n = s ? strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789") : 0;
	return n >= 1 && n <= 40 && s[n] == '\0';
}

bool id_is_made(const char *s)
{
	return id_is_sandbox(s) && strlen(s) == SANDBOX_ID_LEN && s[0] == 'i';
}

void id_hex(const void *data, size_t len, char *out)
{
	const unsigned char *p = data;
	for (size_t i = 0; i < len; i++) {
		*out++ = "0123456789abcdef"[p[i] >> 4];
		*out++ = "0123456789abcdef"[p[i] & 15];
	}
	*out = '\0';
}

void id_new_uuid(char out[UUID_SIZE])
{
	unsigned char r[16];
	char h[33];
	id_random_bytes(r, sizeof r);
	r[6] = (unsigned char)((r[6] & 0x0f) | 0x40);
	r[8] = (unsigned char)((r[8] & 0x3f) | 0x80);
	id_hex(r, sizeof r, h);
	snprintf(out, UUID_SIZE, "%.8s-%.4s-%.4s-%.4s-%.12s", h, h + 8, h + 12, h + 16, h + 20);
}

bool id_is_uuid(const char *s)
{
	if (!s || strlen(s) != 36)
		return false;
	for (int i = 0; i < 36; i++) {
		bool dash = i == 8 || i == 13 || i == 18 || i == 23;
		if (dash ? s[i] != '-' : !strchr("0123456789abcdef", s[i]))
			return false;
	}
	return true;
}

bool id_is_name(const char *s)
{
	size_t n = s ? strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789._-") : 0;
	return n >= 1 && n <= 63 && s[n] == '\0' && s[0] != '.' && s[0] != '-' && s[0] != '_';
}
