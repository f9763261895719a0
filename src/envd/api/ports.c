// SPDX-License-Identifier: Apache-2.0
#include "envd/api/ports.h"
#include <inttypes.h>
#include <netinet/tcp.h>
#include <string.h>
#include "base/str.h"

// An address as the tables have it: 32-bit words in the machine's order, which is little endian.
static bool is_loopback(const char *hex)
{
	static const char one[] = "00000000000000000000000001000000";
	static const char mapped[] = "0000000000000000FFFF0000";
	size_t n = strlen(hex);
	if (n == 32 && strncmp(hex, mapped, strlen(mapped)) == 0)
		hex += strlen(mapped);
	else if (n == 32)
		return strcmp(hex, one) == 0;
	return strlen(hex) == 8 && strcmp(hex + 6, "7F") == 0;
}

// "   0: 0100007F:1F90 00000000:0000 0A ..."
static void take_line(const char *line, uint16_t port, struct ports_found *ret)
{
	char address[33];
	unsigned local, state;
	if (sscanf(line, " %*u: %32[0-9A-F]:%x %*[0-9A-F]:%*x %x", address, &local, &state) != 3 ||
		state != TCP_LISTEN || local != port)
		return;
	if (is_loopback(address))
		ret->loopback = true;
	else
		ret->outside = true;
}

int ports_find(const char *tcp, const char *tcp6, uint16_t port, struct ports_found *ret)
{
	const char *const paths[] = {tcp, tcp6};
	*ret = (struct ports_found){0};
	for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
		FILE *f = fopen(paths[i], "re");
		char line[512];
		if (!f && errno == ENOENT)
			continue;
		if (!f)
			return -errno;
		while (fgets(line, sizeof line, f))
			take_line(line, port, ret);
		fclose(f);
	}
	return 0;
}

void ports_get(struct http_request *req, void *ctx)
{
	struct err e = {0};
	struct ports_found found;
	uint64_t port;
	if (str_to_u64(http_req_param(req, "port"), UINT16_MAX, &port) < 0) {
		err_set(&e, ERR_INVALID, "the port must be a number up to %d", UINT16_MAX);
		http_reply_error(req, &e);
		return;
	}
	int rc = ports_find("/proc/net/tcp", "/proc/net/tcp6", (uint16_t)port, &found);
	if (rc < 0) {
		err_errno(&e, rc, "the tables of sockets");
		http_reply_error(req, &e);
		return;
	}
	http_reply_json(req, 200,
		json_pack("{s:b, s:b}", "loopback", found.loopback, "outside", found.outside));
}
