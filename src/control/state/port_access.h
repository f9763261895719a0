// SPDX-License-Identifier: Apache-2.0
// What opens the ports of a private sandbox: its port token, and cookies, which are of one port and
// for a time. Both follow from the server's secret and the row, so they are not kept and outlive a
// restart; rows_next_port_epoch makes all of them worthless.
#pragma once
#include "control/state/row.h"

#define PORT_COOKIE_SEC (12u * 3600)
#define PORT_COOKIE_SIZE 96 // 20 digits, a dot, 64 hex digits, NUL

// 64 hex digits, another text than the agent's token.
void port_access_token(const struct sandbox_row *row, char out[SHA256_HEX_SIZE]);
// In constant time. text may be NULL or empty: false.
bool port_access_is_token(const struct sandbox_row *row, const char *text);
// "<expires>.<64 hex digits>"; seconds since 1970.
void port_access_cookie(const struct sandbox_row *row, uint16_t port, uint64_t expires_sec,
	char out[PORT_COOKIE_SIZE]);
// Of this port, and not expired at now_sec. In constant time but for the form.
bool port_access_is_cookie(
	const struct sandbox_row *row, uint16_t port, uint64_t now_sec, const char *text);
