// SPDX-License-Identifier: Apache-2.0
// What the binary formats of this room share: little-endian fields, identifiers as 16 bytes, XXH3.
// docs/snapshot-format.md describes each format byte by byte.
#pragma once
#include <endian.h>
#include <string.h>
#if defined(__x86_64__) && !defined(FORMAT_PLAIN_XXH)
#include <xxh_x86dispatch.h> // XXH3_64bits picks AVX2 or AVX-512 at run time
#else
#include <xxhash.h>
#endif
#include "base/id.h"
#include "base/str.h"

static inline uint32_t get_le32(const uint8_t *p)
{
	uint32_t v;
	memcpy(&v, p, sizeof v);
	return le32toh(v);
}

static inline uint64_t get_le64(const uint8_t *p)
{
	uint64_t v;
	memcpy(&v, p, sizeof v);
	return le64toh(v);
}

static inline void put_le32(uint8_t *p, uint32_t v)
{
	v = htole32(v);
	memcpy(p, &v, sizeof v);
}

static inline void put_le64(uint8_t *p, uint64_t v)
{
	v = htole64(v);
	memcpy(p, &v, sizeof v);
}

static inline uint64_t format_xxh3(const void *data, size_t len)
{
	return XXH3_64bits(data, len);
}

// text must be a UUID (id_is_uuid).
static inline void format_put_uuid(uint8_t out[16], const char *text)
{
	for (int i = 0; i < 16; i++) {
		unsigned v = 0;
		for (int digit = 0; digit < 2; text++) {
			if (*text == '-')
				continue;
			v = v << 4 | (unsigned)(*text <= '9' ? *text - '0' : *text - 'a' + 10);
			digit++;
		}
		out[i] = (uint8_t)v;
	}
}

static inline void format_get_uuid(const uint8_t in[16], char out[UUID_SIZE])
{
	char h[33];
	id_hex(in, 16, h);
	snprintf(out, UUID_SIZE, "%.8s-%.4s-%.4s-%.4s-%.12s", h, h + 8, h + 12, h + 16, h + 20);
}
