// SPDX-License-Identifier: Apache-2.0
// How this works. Where a connection goes is judged by the address, when the socket is made: a name
// that leads elsewhere the second time gains nothing.
#include "control/api/receiver.h"
#include <arpa/inet.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <string.h>
#include "base/clock.h"
#include "base/hash.h"
#include "base/str.h"

#define CONNECT_MS 5000
#define ANSWER_MAX (64u << 10)

struct receiver {
	struct http_client *client;
	const struct receiver_rules *rules;
	bool refused;
};

// 16 bytes, IPv4 as ::ffff:a.b.c.d; prefix counts from the first of them.
struct network {
	unsigned char at[16];
	unsigned prefix;
};

static void map_v4(const void *v4, unsigned char out[16])
{
	static const unsigned char mapped[12] = {[10] = 0xff, [11] = 0xff};
	memcpy(out, mapped, sizeof mapped);
	memcpy(out + 12, v4, 4);
}

static bool read_network(const char *text, size_t len, struct network *ret)
{
	char address[64];
	uint64_t prefix = 0;
	struct in_addr v4;
	if (len >= sizeof address)
		return false;
	snprintf(address, sizeof address, "%.*s", (int)len, text);
	char *slash = strchr(address, '/');
	if (slash)
		*slash++ = '\0';
	bool is_v4 = inet_pton(AF_INET, address, &v4) == 1;
	if (is_v4)
		map_v4(&v4, ret->at);
	else if (inet_pton(AF_INET6, address, ret->at) != 1)
		return false;
	if (slash && str_to_u64(slash, is_v4 ? 32 : 128, &prefix) < 0)
		return false;
	ret->prefix = !slash ? 128 : (unsigned)prefix + (is_v4 ? 96 : 0);
	return true;
}

static bool is_in(const struct network *n, const unsigned char at[16])
{
	unsigned whole = n->prefix / 8, bits = n->prefix % 8;
	if (memcmp(n->at, at, whole) != 0)
		return false;
	return bits == 0 || (n->at[whole] ^ at[whole]) >> (8 - bits) == 0;
}

static bool is_in_list(const char *list, const unsigned char at[16])
{
	struct network n;
	for (const char *p = list ? list : ""; *p;) {
		p += strspn(p, ", ");
		size_t len = strcspn(p, ", ");
		if (len && read_network(p, len, &n) && is_in(&n, at))
			return true;
		p += len;
	}
	return false;
}

int receiver_check_list(const char *list, struct err *e)
{
	struct network n;
	for (const char *p = list ? list : ""; *p;) {
		p += strspn(p, ", ");
		size_t len = strcspn(p, ", ");
		if (len && !read_network(p, len, &n))
			return err_set(e, ERR_INVALID,
				"webhook_allow: '%.*s' is no address or network",
				(int)MIN(len, 60u), p);
		p += len;
	}
	return 0;
}

bool receiver_may_be(const struct receiver_rules *rules, const struct sockaddr *a)
{
	// The last is the metadata service of a cloud in unique local addresses; 169.254.0.0/16 has
	// those of the others.
	static const char always[] =
		"169.254.0.0/16,224.0.0.0/4,255.255.255.255,fe80::/10,ff00::/8,"
		"fd00:ec2::254,100.100.100.200";
	unsigned char at[16];
	if (a->sa_family == AF_INET)
		map_v4(&((const struct sockaddr_in *)a)->sin_addr, at);
	else if (a->sa_family == AF_INET6)
		memcpy(at, &((const struct sockaddr_in6 *)a)->sin6_addr, sizeof at);
	else
		return false;
	// IPv4 inside of IPv6: ::a.b.c.d, 64:ff9b::a.b.c.d (RFC 6052), 2002:aabb:ccdd:: (RFC 3056).
	static const unsigned char zero[12], nat64[12] = {0, 0x64, 0xff, 0x9b};
	unsigned char v4[4];
	if ((memcmp(at, zero, 12) == 0 && (at[12] || at[13])) || memcmp(at, nat64, 12) == 0) {
		memcpy(v4, at + 12, 4);
		map_v4(v4, at);
	} else if (at[0] == 0x20 && at[1] == 0x02) {
		memcpy(v4, at + 2, 4);
		map_v4(v4, at);
	}
	if (is_in_list(rules->allow, at))
		return true;
	return !is_in_list(always, at) && !is_in_list(rules->slots, at);
}

int receiver_check_url(const char *url, struct err *e)
{
	const char *host = str_starts(url, "https://")	? url + 8
			   : str_starts(url, "http://") ? url + 7
							: NULL;
	if (!host)
		return err_set(e, ERR_INVALID, "url: must begin with https:// or http://");
	size_t len = strcspn(host, "/?#");
	if (len == 0 || host[0] == ':')
		return err_set(e, ERR_INVALID, "url: has no host");
	if (memchr(host, '@', len) || memchr(host, '\\', len))
		return err_set(e, ERR_INVALID,
			"url: must have no user or password in it: the signature says who sends");
	for (const char *p = url; *p; p++)
		if ((unsigned char)*p <= ' ' || (unsigned char)*p >= 127 || *p == '#')
			return err_set(e, ERR_INVALID,
				"url: blanks, control characters, '#' and letters beyond ASCII "
				"must "
				"be percent-encoded");
	return 0;
}

static bool may_connect(void *ctx, const struct sockaddr *a)
{
	struct receiver *r = ctx;
	bool ok = receiver_may_be(r->rules, a);
	r->refused |= !ok;
	return ok;
}

int receiver_new(
	const char *url, const struct receiver_rules *rules, struct receiver **ret, struct err *e)
{
	_cleanup_(receiver_freep) struct receiver *r = calloc(1, sizeof *r);
	if (!r)
		return err_errno(e, ENOMEM, "webhook");
	r->rules = rules;
	static const char *const headers[] = {"User-Agent: stasis/" STASIS_VERSION, NULL};
	int rc = http_client_new(&(struct http_client_config){.base_url = url,
					 .headers = headers,
					 .may_connect = may_connect,
					 .may_connect_ctx = r},
		&r->client, e);
	if (rc == 0)
		*ret = TAKE_PTR(r);
	return rc;
}

struct receiver *receiver_free(struct receiver *r)
{
	if (!r)
		return NULL;
	http_client_free(r->client);
	free(r);
	return NULL;
}

// "t=<seconds since 1970>,v1=<hex of HMAC-SHA256(secret, "<t>.<body>")>"
static char *signature(const struct webhook *w, uint64_t seconds, const char *body)
{
	char hex[SHA256_HEX_SIZE];
	_cleanup_free_ char *text = str_printf("%" PRIu64 ".%s", seconds, body);
	if (!text)
		return NULL;
	hash_hmac_sha256_hex(w->secret, strlen(w->secret), text, strlen(text), hex);
	return str_printf("Stasis-Signature: t=%" PRIu64 ",v1=%s", seconds, hex);
}

static int keep_nothing(void *ctx, const char *data, size_t len)
{
	return 0;
}

void receiver_send(struct receiver *r, const struct webhook *w, const char *delivery,
	const char *body, int (*tick)(void *ctx), void *ctx, struct webhook_delivery *d)
{
	_cleanup_(http_response_done) struct http_response answer = {0};
	struct err e = {0};
	uint64_t began = clock_monotonic_ns();
	d->at_ns = clock_realtime_ns();
	d->outcome = "failed";
	_cleanup_free_ char *sign = signature(w, d->at_ns / NSEC_PER_SEC, body);
	_cleanup_free_ char *id = str_printf("Stasis-Webhook: %s", w->id);
	_cleanup_free_ char *which = str_printf("Stasis-Delivery: %s", delivery);
	_cleanup_free_ char *attempt = str_printf("Stasis-Attempt: %u", d->attempt);
	const char *const headers[] = {sign, id, which, attempt, NULL};
	int rc = -ENOMEM;
	r->refused = false;
	if (sign && id && which && attempt)
		rc = http_client_call(r->client,
			&(struct http_call){.method = "POST",
				.path = "",
				.headers = headers,
				.body = body,
				.body_len = strlen(body),
				.write = keep_nothing,
				.tick = tick,
				.ctx = ctx,
				.connect_timeout_ms = CONNECT_MS,
				.timeout_ms = RECEIVER_TIMEOUT_MS,
				.max_body = ANSWER_MAX},
			&answer, &e);
	d->duration_us = (clock_monotonic_ns() - began) / 1000;
	d->status = answer.status;
	// An answer of 2xx whose body does not end is as good: it is not looked at.
	if (answer.status >= 200 && answer.status < 300)
		d->outcome = "delivered";
	else if (r->refused)
		snprintf(d->error, sizeof d->error,
			"no webhook may go to that address (setting webhook_allow)");
	else if (rc < 0 && !answer.status)
		snprintf(d->error, sizeof d->error, "%s",
			err_text(&e, rc) + (str_starts(err_text(&e, rc), "POST : ") ? 7 : 0));
	else
		snprintf(d->error, sizeof d->error, "answered %d", answer.status);
}
