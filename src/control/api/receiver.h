// SPDX-License-Identifier: Apache-2.0
// One call of a webhook's receiver, and where those may be.
#pragma once
#include <sys/socket.h>
#include "control/state/webhook_store.h"
#include "http/client.h"

#define RECEIVER_TIMEOUT_MS 10000

// Networks, "10.0.0.0/8,fd00::/8"; addresses are networks of one.
struct receiver_rules {
	const char *allow; // in spite of what follows; NULL: none
	const char *slots; // the guests' network
};
// -EINVAL: what is no network is named.
int receiver_check_list(const char *list, struct err *e);
// Refused are guests, link-local addresses (the metadata of clouds among them), multicast; also
// where they are written as IPv6.
bool receiver_may_be(const struct receiver_rules *rules, const struct sockaddr *a);
// http or https, a host, no credentials in it.
int receiver_check_url(const char *url, struct err *e);

struct receiver;
int receiver_new(
	const char *url, const struct receiver_rules *rules, struct receiver **ret, struct err *e);
struct receiver *receiver_free(struct receiver *r);
DEFINE_CLEANUP(struct receiver *, receiver_free)
// Sends a body, signed with w->secret, and fills in what became of it (outcome "delivered" or
// "failed"). tick as in struct http_call. Redirects are not followed, the answer's body is not
// kept.
void receiver_send(struct receiver *r, const struct webhook *w, const char *delivery,
	const char *body, int (*tick)(void *ctx), void *ctx, struct webhook_delivery *d);
