// SPDX-License-Identifier: Apache-2.0
// Clients of the VMM's socket and of the agent's port; whether the machine still lives.
#include "sandbox/machine/reach.h"
#include <poll.h>
#include <string.h>
#include "agentclient/client.h"
#include "agentclient/probe.h"
#include "base/clock.h"
#include "sandbox/machine/console.h"
#include "sandbox/machine/vmm_choice.h"
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

#define WAIT_MS 3000
#define WAIT_EMULATED_MS 10000

unsigned machine_agent_wait_ms(const struct host *h, const struct sandbox *s)
{
	if (h->agent_wait_ms)
		return h->agent_wait_ms;
	return s->vmm && s->vmm->kvm ? WAIT_MS : WAIT_EMULATED_MS;
}

void agent_wait_begin(struct agent_wait *w, struct host *h, struct sandbox *s, unsigned max_ms)
{
	uint64_t now = clock_monotonic_ns();
	*w = (struct agent_wait){.h = h, .s = s, .begun_ns = now, .heard_ns = now};
	w->wait_ms = machine_agent_wait_ms(h, s);
	w->max_ms = MAX(max_ms, w->wait_ms);
}

void agent_wait_heard(struct agent_wait *w)
{
	w->heard_ns = clock_monotonic_ns();
	w->doubted = false;
}

static bool is_over(uint64_t since_ns, unsigned ms)
{
	return clock_monotonic_ns() - since_ns > ms * NSEC_PER_MSEC;
}

// A third of the wait is for the call alone; then it is asked whether it answers anything. What
// comes while that is waited for is seen by one more tick.
int agent_wait_tick(void *ctx)
{
	struct agent_wait *w = ctx;
	unsigned first = w->wait_ms / 3;
	if (machine_is_gone(w->s) || w->s->wanted)
		return 1;
	if (is_over(w->begun_ns, w->max_ms) || w->doubted) {
		w->silent = true;
		return 1;
	}
	if (!is_over(w->heard_ns, first))
		return 0;
	if (envd_probe(w->s->slot.address, ENVD_PORT, (int)(w->wait_ms - first)) == 0)
		agent_wait_heard(w);
	else
		w->doubted = true;
	return 0;
}

int agent_wait_error(const struct agent_wait *w, int rc, struct err *e)
{
	if (rc == 0 || !w->silent)
		return rc;
	if (w->doubted)
		return err_set(e, ERR_TIMEOUT, "the guest's agent answers nothing");
	return err_set(e, ERR_TIMEOUT, "the guest's agent did not finish within %u ms", w->max_ms);
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
