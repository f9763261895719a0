// SPDX-License-Identifier: Apache-2.0
#include "guestinit/cmdline.h"
#include <arpa/inet.h>
#include <string.h>
#include "base/str.h"

static int read_address(const char *text, uint32_t *ret)
{
	struct in_addr a;
	if (inet_pton(AF_INET, text, &a) != 1)
		return -EINVAL;
	*ret = a.s_addr;
	return 0;
}

// "169.254.0.21/30"
static int read_network(char *text, struct cmdline *c)
{
	char *slash = strchr(text, '/');
	uint64_t prefix = 32;
	if (slash) {
		*slash = '\0';
		if (str_to_u64(slash + 1, 32, &prefix) < 0)
			return -EINVAL;
	}
	c->prefix = (unsigned)prefix;
	return read_address(text, &c->ip);
}

// "1.1.1.1,8.8.8.8"
static int read_dns(char *text, struct cmdline *c)
{
	c->n_dns = 0;
	while (text) {
		char *comma = strchr(text, ',');
		if (comma)
			*comma++ = '\0';
		if (c->n_dns == CMDLINE_MAX_DNS || read_address(text, &c->dns[c->n_dns]) < 0)
			return -EINVAL;
		c->n_dns++;
		text = comma;
	}
	return 0;
}

static int read_word(char *word, struct cmdline *c)
{
	char *value = strchr(word, '=');
	if (!value) {
		c->ro = strcmp(word, "ro") == 0 || (c->ro && strcmp(word, "rw") != 0);
		return 0;
	}
	*value++ = '\0';
	if (strcmp(word, "root") == 0)
		return str_format(c->root, sizeof c->root, "%s", value);
	if (strcmp(word, "rootfstype") == 0)
		return str_format(c->rootfstype, sizeof c->rootfstype, "%s", value);
	if (strcmp(word, "stasis.ip") == 0)
		return read_network(value, c);
	if (strcmp(word, "stasis.gw") == 0)
		return read_address(value, &c->gateway);
	if (strcmp(word, "stasis.dns") == 0)
		return read_dns(value, c);
	return 0;
}

int cmdline_parse(const char *text, struct cmdline *ret, char *bad, size_t bad_size)
{
	struct cmdline c = {.root = "/dev/vda",
		.rootfstype = "ext4",
		.ip = htonl(0xa9fe0015),
		.prefix = 30,
		.gateway = htonl(0xa9fe0016),
		.dns = {htonl(0x01010101), htonl(0x08080808)},
		.n_dns = 2};
	while (*(text += strspn(text, " \t\n"))) {
		char word[256];
		size_t n = strcspn(text, " \t\n");
		// Longer words are none of ours.
		if (n < sizeof word) {
			memcpy(word, text, n);
			word[n] = '\0';
			if (read_word(word, &c) < 0) {
				snprintf(bad, bad_size, "%.*s", (int)n, text);
				return -EINVAL;
			}
		}
		text += n;
	}
	*ret = c;
	return 0;
}
