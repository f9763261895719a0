// SPDX-License-Identifier: Apache-2.0
#include "control/state/port_links.h"
#include <pthread.h>
#include <string.h>
#include "base/id.h"
#include "base/str.h"

struct kept {
	char code_hash[SHA256_HEX_SIZE];
	char id[64];
	char *path; // NULL: the place is free
	uint16_t port;
	uint64_t epoch, expires_ns;
};

struct port_links {
	pthread_mutex_t lock;
	struct kept link[PORT_LINK_MAX];
};

struct port_links *port_links_new(void)
{
	struct port_links *l = calloc(1, sizeof *l);
	if (l)
		pthread_mutex_init(&l->lock, NULL);
	return l;
}

static void drop(struct kept *k)
{
	free(k->path);
	*k = (struct kept){0};
}

struct port_links *port_links_free(struct port_links *l)
{
	if (!l)
		return NULL;
	for (size_t i = 0; i < PORT_LINK_MAX; i++)
		drop(&l->link[i]);
	pthread_mutex_destroy(&l->lock);
	free(l);
	return NULL;
}

// A free place, what has expired being one.
static int find_free(
	struct port_links *l, const char *id, uint64_t now_ns, struct kept **ret, struct err *e)
{
	size_t own = 0;
	*ret = NULL;
	for (struct kept *k = l->link; k < l->link + PORT_LINK_MAX; k++) {
		if (k->path && k->expires_ns <= now_ns)
			drop(k);
		if (!k->path)
			*ret = k;
		else
			own += str_eq(k->id, id);
	}
	if (own >= PORT_LINK_MAX_SANDBOX)
		return err_set(e, ERR_LIMIT,
			"sandbox '%s' has %d links that nobody has visited: visit one, or wait "
			"until one expires",
			id, PORT_LINK_MAX_SANDBOX);
	return *ret ? 0
		    : err_set(e, ERR_LIMIT, "there are %d links that nobody has visited: wait",
			      PORT_LINK_MAX);
}

int port_links_add(struct port_links *l, const struct port_link *link, uint64_t now_ns,
	char ret_code[PORT_LINK_CODE_SIZE], struct err *e)
{
	unsigned char raw[32];
	struct kept *k;
	_cleanup_free_ char *path = strdup(link->path);
	if (!path)
		return err_errno(e, ENOMEM, "link");
	id_random_bytes(raw, sizeof raw);
	id_hex(raw, sizeof raw, ret_code);
	pthread_mutex_lock(&l->lock);
	int rc = find_free(l, link->id, now_ns, &k, e);
	if (rc == 0) {
		*k = (struct kept){.path = TAKE_PTR(path),
			.port = link->port,
			.epoch = link->epoch,
			.expires_ns = link->expires_ns};
		snprintf(k->id, sizeof k->id, "%s", link->id);
		hash_sha256_hex(ret_code, strlen(ret_code), k->code_hash);
	}
	pthread_mutex_unlock(&l->lock);
	return rc;
}

char *port_links_use(struct port_links *l, const char *code, const char *id, uint16_t port,
	uint64_t epoch, uint64_t now_ns)
{
	char hash[SHA256_HEX_SIZE];
	char *path = NULL;
	hash_sha256_hex(code, strlen(code), hash);
	pthread_mutex_lock(&l->lock);
	for (struct kept *k = l->link; k < l->link + PORT_LINK_MAX && !path; k++)
		if (k->path && k->port == port && k->epoch == epoch && k->expires_ns > now_ns &&
			str_eq(k->id, id) && str_eq_secret(k->code_hash, hash)) {
			path = TAKE_PTR(k->path);
			drop(k);
		}
	pthread_mutex_unlock(&l->lock);
	return path;
}
