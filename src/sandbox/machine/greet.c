// SPDX-License-Identifier: Apache-2.0
// Readiness, identity, time. The time is told again where it was long on its way to the guest.
#include "sandbox/machine/greet.h"
#include <string.h>
#include "base/clock.h"
#include "agentclient/client.h"
#include "agentclient/probe.h"
#include "sandbox/machine/agent_program.h"
#include "sandbox/machine/reach.h"
#include "sandbox/machine/vmm_choice.h"

// With KVM too: 10 s have been seen on a busy machine, and 20 s of two that boot at once where KVM
// itself is nested. One that ends is noticed at once.
#define READY_MS 120000
// All calls of a start to its guest together; telling the time again is given up before. As much,
// for the same reason: where processors are scarce a guest that wakes has needed 30 s for its first
// answer.
#define GUEST_MS 120000
#define RETELL_MS 10000
// A guest that needs longer than this keeps no place at the gate from others: how long it takes is
// for its own code to say.
#define TURN_GUEST_MS 2000
#define TURN_BOOT_MS 20000
#define PROBE_MS 50

// A guest's clock is right within this, where the telling of it was no longer on its way.
#define CLOCK_SLACK_NS (25 * NSEC_PER_MSEC)
#define CLOCK_TRIES 8

// A rate as near as this needs no correction: readings differ by as much (architecture, section 5).
#define CLOCK_PPM_FINE 500

// Until envd answers; the end of the VMM is noticed at once because its pidfd is what we sleep on.
int greet_wait_ready(struct host *h, struct sandbox *s, struct err *e)
{
	uint64_t begin = clock_monotonic_ns(), now = begin;
	uint64_t end = begin + READY_MS * NSEC_PER_MSEC;
	for (; now < end; now = clock_monotonic_ns()) {
		if (now - begin > TURN_BOOT_MS * NSEC_PER_MSEC)
			gate_leave(&h->gate, &s->ticket);
		if (envd_probe(s->slot.address, ENVD_PORT, PROBE_MS) == 0)
			return 0;
		if (machine_has_ended(h, s, s->vmm->kvm ? 2 : 10, "booted", e))
			return -EIO;
	}
	err_set(e, ERR_TIMEOUT, "the guest's agent did not answer within %d s", READY_MS / 1000);
	machine_last_words(h, s, e);
	return -ETIMEDOUT;
}

static int clock_ppm(const struct vmm_choice *v, const struct source *src)
{
	if (!src || !src->info.tsc_khz || !v->tsc_khz)
		return 0;
	int64_t ppm = ((int64_t)v->tsc_khz - (int64_t)src->info.tsc_khz) * 1000000 /
		      (int64_t)src->info.tsc_khz;
	return ppm >= -CLOCK_PPM_FINE && ppm <= CLOCK_PPM_FINE ? 0 : (int)ppm;
}

// *ret_late: what the guest's clock is behind by at most.
static int tell(struct http_client *c, const struct envd_target *t, const struct envd_init *i,
	uint64_t *ret_late, struct err *e)
{
	uint64_t at_work = 0, begin = clock_monotonic_ns();
	int rc = envd_call_init(c, t, i, GUEST_MS, &at_work, e);
	uint64_t took = clock_monotonic_ns() - begin;
	*ret_late = took - MIN(took, at_work);
	return rc;
}

// A guest that is being waited for.
struct awaited {
	struct host *h;
	struct sandbox *s;
	uint64_t since_ns;
};

static bool is_over(const struct awaited *w, unsigned ms)
{
	return clock_monotonic_ns() - w->since_ns > ms * NSEC_PER_MSEC;
}

static int await(void *ctx)
{
	struct awaited *w = ctx;
	if (is_over(w, TURN_GUEST_MS))
		gate_leave(&w->h->gate, &w->s->ticket);
	return is_over(w, GUEST_MS) || machine_is_gone(w->s);
}

static int renew_agent(struct host *h, struct sandbox *s, const struct machine_plan *p,
	struct http_client *c, const struct envd_target *t, struct err *e)
{
	agent_program_send(h, s, c, t, !p->img);
	return plan_fault(p, "after_agent", e);
}

int greet(struct host *h, struct sandbox *s, const struct machine_plan *p, struct err *e)
{
	char url[96];
	unsigned char entropy[64];
	_cleanup_(http_client_freep) struct http_client *c = NULL;
	struct awaited w = {h, s, clock_monotonic_ns()};
	int rc = machine_agent(s, url, &c, e);
	if (rc < 0)
		return rc;
	id_random_bytes(entropy, sizeof entropy);
	uint64_t had = p->src && !p->img ? p->src->info.disk_size : p->img->disk_mb << 20;
	struct agent_version version = {0};
	struct envd_target t = {.base_url = url,
		.token = p->img ? NULL : p->src->row.token,
		.instance = s->agent,
		.version = &version,
		.tick = await,
		.ctx = &w};
	struct envd_init i = {.token = p->token,
		.env = p->env,
		.hostname = s->info.id,
		.dns = s->info.dns,
		.dns_own = p->replaces_dns,
		.entropy = entropy,
		.entropy_len = sizeof entropy,
		.grow_root = s->info.disk_mb << 20 > had,
		.resumed = !p->img,
		.clock_ppm = p->img ? 0 : clock_ppm(s->vmm, p->src)};
	// The first packets wake code that the guest has long not run; the time that is told must
	// not wait for that.
	if (i.resumed)
		rc = envd_call_health(c, &t, GUEST_MS, e);
	// An older agent is replaced before it lets anything go; in a guest that was booted it is
	// given its token first.
	if (rc == 0 && i.resumed)
		rc = renew_agent(h, s, p, c, &t, e);
	uint64_t late = 0;
	if (rc == 0)
		rc = tell(c, &t, &i, &late, e);
	// Where it was long on its way all the same (a busy machine) it is told again.
	t.token = p->token;
	if (rc == 0 && !i.resumed)
		rc = renew_agent(h, s, p, c, &t, e);
	for (int tries = 0;
		rc == 0 && late > CLOCK_SLACK_NS && tries < CLOCK_TRIES && !is_over(&w, RETELL_MS);
		tries++)
		rc = tell(c, &t, &(struct envd_init){.token = p->token}, &late, e);
	machine_note_agent(h, s, &version);
	if (rc < 0 && is_over(&w, GUEST_MS))
		rc = err_set(e, ERR_TIMEOUT, "the guest's agent did not finish within %d s",
			GUEST_MS / 1000);
	struct err why = {0};
	if (rc < 0 && machine_has_ended(h, s, 0, "woke", &why) && e)
		*e = why;
	return rc;
}
