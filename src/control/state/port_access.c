// SPDX-License-Identifier: Apache-2.0
#include "control/state/port_access.h"
#include <inttypes.h>
#include <string.h>
#include "base/str.h"
#include "control/state/rows.h"

void port_access_token(const struct sandbox_row *row, char out[SHA256_HEX_SIZE])
{
	char text[128];
	snprintf(text, sizeof text, "%s %" PRIu64, row->id, (uint64_t)row->port_epoch);
	rows_mac(row->table, "port-token", text, out);
}

bool port_access_is_token(const struct sandbox_row *row, const char *text)
{
	char token[SHA256_HEX_SIZE];
	if (!text || !*text)
		return false;
	port_access_token(row, token);
	return str_eq_secret(text, token);
}

void port_access_cookie(const struct sandbox_row *row, uint16_t port, uint64_t expires_sec,
	char out[PORT_COOKIE_SIZE])
{
	char text[160], mac[SHA256_HEX_SIZE];
	snprintf(text, sizeof text, "%s %" PRIu64 " %u %" PRIu64, row->id,
		(uint64_t)row->port_epoch, port, expires_sec);
	rows_mac(row->table, "port-cookie", text, mac);
	snprintf(out, PORT_COOKIE_SIZE, "%" PRIu64 ".%s", expires_sec, mac);
}

bool port_access_is_cookie(
	const struct sandbox_row *row, uint16_t port, uint64_t now_sec, const char *text)
{
	char digits[21], right[PORT_COOKIE_SIZE];
	uint64_t expires;
	size_t n = strcspn(text, ".");
	if (n == 0 || n >= sizeof digits)
		return false;
	memcpy(digits, text, n);
	digits[n] = '\0';
	if (str_to_u64(digits, now_sec + PORT_COOKIE_SEC, &expires) < 0 || expires <= now_sec)
		return false;
	port_access_cookie(row, port, expires, right);
	return str_eq_secret(text, right);
}
