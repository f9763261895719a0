// SPDX-License-Identifier: Apache-2.0
// What the contract's socket adds to a call: the same functions of a host that does nothing, called
// through the struct and through client, socket and server in between. One process, two threads.
//
//	bench-contract [calls]		p50 and p99 of create, address, get, pause, list (3
// sandboxes)
#include <fcntl.h>
#include <string.h>
#include "../tests/unit/hostagent/fake.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/id.h"

struct bench {
	const struct hostagent *host;
	json_t *env;
};

static void do_create(const struct bench *b)
{
	struct host_sandbox s;
	struct host_create c = {.template = "base",
		.vcpus = 2,
		.memory_mb = 512,
		.ends_at_ns = 1764086400123456789ull,
		.token = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
		.env = b->env};
	id_new_uuid(c.op_id);
	id_new_sandbox(c.id);
	if (b->host->ops->create(b->host->host, &c, &s, NULL) < 0)
		abort();
}

static void do_address(const struct bench *b)
{
	struct host_place at;
	if (b->host->ops->address(b->host->host, "ibox", &at, NULL) < 0)
		abort();
}

static void do_get(const struct bench *b)
{
	struct host_sandbox s;
	if (b->host->ops->get(b->host->host, "ibox", &s, NULL) < 0)
		abort();
}

static void do_pause(const struct bench *b)
{
	struct host_sandbox s;
	char op[UUID_SIZE];
	id_new_uuid(op);
	if (b->host->ops->pause(b->host->host, op, "ibox", &s, NULL) < 0)
		abort();
}

static void do_list(const struct bench *b)
{
	struct host_sandbox *list;
	size_t n;
	if (b->host->ops->list(b->host->host, &list, &n, NULL) < 0)
		abort();
	free(list);
}

static const struct {
	const char *name;
	void (*run)(const struct bench *b);
} calls[] = {
	{"create", do_create},
	{"pause", do_pause},
	{"get", do_get},
	{"address", do_address},
	{"list", do_list},
};

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return (x > y) - (x < y);
}

static uint64_t one_ns(void (*run)(const struct bench *b), const struct bench *b)
{
	uint64_t begin = clock_monotonic_ns();
	run(b);
	return clock_monotonic_ns() - begin;
}

// The two alternate, so that a slow moment of the machine hurts both.
static void measure(size_t call, const struct bench *direct, const struct bench *socket, size_t n)
{
	_cleanup_free_ uint64_t *d = calloc(n, sizeof *d), *s = calloc(n, sizeof *s);
	if (!d || !s)
		abort();
	for (int i = 0; i < 100; i++) {
		calls[call].run(direct);
		calls[call].run(socket);
	}
	for (size_t i = 0; i < n; i++) {
		d[i] = one_ns(calls[call].run, direct);
		s[i] = one_ns(calls[call].run, socket);
	}
	qsort(d, n, sizeof *d, compare);
	qsort(s, n, sizeof *s, compare);
	printf("%-8s direct %6.1f us, by socket %6.1f us, added %6.1f us; p99 %6.1f us   (p50 of "
	       "%zu)\n",
		calls[call].name, (double)d[n / 2] / 1e3, (double)s[n / 2] / 1e3,
		(double)(s[n / 2] - d[n / 2]) / 1e3, (double)s[n * 99 / 100] / 1e3, n);
}

int main(int argc, char **argv)
{
	uint64_t n = 3000;
	static struct fake fake;
	char dir[] = "/tmp/bench.XXXXXX", socket[64];
	struct hostagent_server *server = NULL;
	struct hostagent remote, local;
	struct err e = {0};
	if (argc > 1 && str_to_u64(argv[1], 1000000, &n) < 0) {
		fprintf(stderr, "usage: bench-contract [calls]\n");
		return 2;
	}
	if (!mkdtemp(dir))
		abort();
	snprintf(socket, sizeof socket, "%s/host.sock", dir);
	fake_init(&fake);
	local = fake_host(&fake);
	if (hostagent_serve(&(struct hostagent_server_config){.host = local, .socket = socket},
		    &server, &e) < 0 ||
		hostagent_connect(
			&(struct hostagent_client_config){.socket = socket}, &remote, &e) < 0) {
		fprintf(stderr, "%s\n", e.text);
		return 1;
	}
	json_t *env = json_pack("{s:s, s:s}", "LANG", "C.UTF-8", "TOKEN", "abcdef");
	const struct bench direct = {&local, env}, over = {&remote, env};
	for (size_t i = 0; i < ARRAY_SIZE(calls); i++)
		measure(i, &direct, &over, MAX(n, 10));
	json_decref(env);
	hostagent_disconnect(&remote);
	hostagent_server_free(server);
	fake_done(&fake);
	file_rm_rf(AT_FDCWD, dir);
	return 0;
}
