// SPDX-License-Identifier: Apache-2.0
// A connection belongs to a sandbox and an address: after a pause the next resume may have the same
// address, but the guest has ended its side, and what is sent there is refused before it is read.
#include "control/api/agents.h"
#include <pthread.h>
#include "base/clock.h"
#include "base/id.h"

#define KEPT 64u
#define KEEP_NS (5 * NSEC_PER_SEC)

struct kept {
	char sandbox[SANDBOX_ID_SIZE], base_url[80];
	struct http_client *client; // NULL: free
	uint64_t until_ns;
};

struct agents {
	pthread_mutex_t lock;
	struct kept kept[KEPT];
};

struct agents *agents_new(void)
{
	struct agents *a = calloc(1, sizeof *a);
	if (a)
		pthread_mutex_init(&a->lock, NULL);
	return a;
}

struct agents *agents_free(struct agents *a)
{
	if (!a)
		return NULL;
	for (size_t i = 0; i < KEPT; i++)
		http_client_free(a->kept[i].client);
	pthread_mutex_destroy(&a->lock);
	free(a);
	return NULL;
}

// With the lock held.
static void drop_old(struct agents *a)
{
	uint64_t now = clock_monotonic_ns();
	for (size_t i = 0; i < KEPT; i++)
		if (a->kept[i].client && a->kept[i].until_ns <= now)
			a->kept[i].client = http_client_free(a->kept[i].client);
}

int agents_take(struct agents *a, const char *sandbox, const char *base_url,
	struct http_client **ret, struct err *e)
{
	struct http_client *found = NULL;
	pthread_mutex_lock(&a->lock);
	drop_old(a);
	for (size_t i = 0; i < KEPT && !found; i++) {
		struct kept *k = &a->kept[i];
		if (k->client && str_eq(k->sandbox, sandbox) && str_eq(k->base_url, base_url))
			found = TAKE_PTR(k->client);
	}
	pthread_mutex_unlock(&a->lock);
	*ret = found;
	return found ? 0
		     : http_client_new(&(struct http_client_config){.base_url = base_url,
					       .passes_request_id = true},
			       ret, e);
}

void agents_give(
	struct agents *a, const char *sandbox, const char *base_url, struct http_client *client)
{
	pthread_mutex_lock(&a->lock);
	drop_old(a);
	for (size_t i = 0; i < KEPT && client; i++) {
		struct kept *k = &a->kept[i];
		if (k->client || str_format(k->sandbox, sizeof k->sandbox, "%s", sandbox) < 0 ||
			str_format(k->base_url, sizeof k->base_url, "%s", base_url) < 0)
			continue;
		k->client = TAKE_PTR(client);
		k->until_ns = clock_monotonic_ns() + KEEP_NS;
	}
	pthread_mutex_unlock(&a->lock);
	http_client_free(client); // no room
}
