// SPDX-License-Identifier: Apache-2.0
// Clients of the VMM's socket and of the agent's port; whether the machine still lives.
#include "sandbox/machine/reach.h"
#include <poll.h>
#include <string.h>
#include "agentclient/client.h"
#include "sandbox/machine/console.h"
#include "shim/shim.h"

int machine_vmm(struct host *h, const struct sandbox *s, struct vmm **ret, struct err *e)
{
	char dir[512], sock[108];
	if (host_run_path(h, s->info.id, dir) < 0)
		return err_set(e, ERR_INTERNAL, "run directory path too long");
	int rc = shim_api_socket_path(dir, sock, e);
	return rc < 0 ? rc : vmm_new(sock, ret, e);
}

int machine_agent(const struct sandbox *s, char url[96], struct http_client **ret, struct err *e)
{
	snprintf(url, 96, "http://%s:%d", s->slot.address, ENVD_PORT);
	struct http_client_config cfg = {.base_url = url, .passes_request_id = true};
	return http_client_new(&cfg, ret, e);
}

void machine_note_agent(struct host *h, struct sandbox *s, const struct agent_version *v)
{
	if (!v->revision)
		return;
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&h->lock);
	snprintf(s->info.agent, sizeof s->info.agent, "%s", v->text);
}

int machine_is_gone(void *ctx)
{
	const struct sandbox *s = ctx;
	struct pollfd pf = {.fd = s->pidfd, .events = POLLIN};
	return poll(&pf, 1, 0) > 0;
}

void machine_last_words(struct host *h, const struct sandbox *s, struct err *e)
{
	char line[300];
	if (!e)
		return;
	console_last(h, s->info.id, s->console_from, line, sizeof line);
	size_t len = strlen(e->text);
	if (line[0])
		snprintf(e->text + len, sizeof e->text - len, "; its console: %s", line);
}

bool machine_has_ended(
	struct host *h, struct sandbox *s, int wait_ms, const char *when, struct err *e)
{
	struct pollfd pf = {.fd = s->pidfd, .events = POLLIN};
	if (poll(&pf, 1, wait_ms) <= 0)
		return false;
	char dir[512];
	struct shim_exit x = {0};
	host_run_path(h, s->info.id, dir);
	if (shim_read_exit(dir, &x, NULL) == 0)
		err_set(e, ERR_INTERNAL, "the VMM ended while the guest %s: %s %s", when, x.cause,
			x.detail);
	else
		err_set(e, ERR_INTERNAL, "the VMM ended while the guest %s: its shim was killed",
			when);
	machine_last_words(h, s, e);
	return true;
}
