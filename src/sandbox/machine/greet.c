// SPDX-License-Identifier: Apache-2.0
// Readiness, identity, time. The time is told again where it was long on its way to the guest.
#include "sandbox/machine/greet.h"
#include <string.h>
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
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
// And of one that is not waited for, where it answers slowly.
#define BRIEF_MS 30000
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

// One meeting with an agent.
struct meeting {
	struct host *h;
	struct sandbox *s;
	const char *operation; // of its fault point; NULL: none
	const char *token;     // that the agent knows; NULL: none
	struct envd_init init;
	uint64_t since_ns;
	bool brief; // no longer than an agent is waited for that is silent
	struct agent_wait wait;
};

static bool is_over(const struct meeting *m, unsigned ms)
{
	return clock_monotonic_ns() - m->since_ns > ms * NSEC_PER_MSEC;
}

static int await(void *ctx)
{
	struct meeting *m = ctx;
	if (is_over(m, TURN_GUEST_MS))
		gate_leave(&m->h->gate, &m->s->ticket);
	if (m->brief)
		return agent_wait_tick(&m->wait);
	return is_over(m, GUEST_MS) || machine_is_gone(m->s);
}

static int renew_agent(struct meeting *m, struct http_client *c, const struct envd_target *t,
	bool resumed, struct err *e)
{
	char point[64];
	agent_program_send(m->h, m->s, c, t, resumed);
	if (!m->operation)
		return 0;
	snprintf(point, sizeof point, "%s.after_agent", m->operation);
	return fault_hit(point, e);
}

static int meet(struct meeting *m, struct envd_target *t, struct http_client *c, struct err *e)
{
	const struct envd_init *i = &m->init;
	int rc = 0;
	// The first packets wake code that the guest has long not run; the time that is told must
	// not wait for that.
	if (i->resumed)
		rc = envd_call_health(c, t, GUEST_MS, e);
	if (rc == 0)
		agent_wait_heard(&m->wait);
	// An older agent is replaced before it lets anything go; in a guest that was booted it is
	// given its token first.
	if (rc == 0 && i->resumed)
		rc = renew_agent(m, c, t, true, e);
	uint64_t late = 0;
	if (rc == 0)
		rc = tell(c, t, i, &late, e);
	// Where it was long on its way all the same (a busy machine) it is told again.
	t->token = i->token;
	if (rc == 0 && !i->resumed)
		rc = renew_agent(m, c, t, false, e);
	for (int tries = 0;
		rc == 0 && late > CLOCK_SLACK_NS && tries < CLOCK_TRIES && !is_over(m, RETELL_MS);
		tries++)
		rc = tell(c, t, &(struct envd_init){.token = i->token}, &late, e);
	return rc;
}

static int begin(struct meeting *m, struct err *e)
{
	char url[96];
	unsigned char entropy[64];
	struct agent_version version = {0};
	_cleanup_(http_client_freep) struct http_client *c = NULL;
	int rc = machine_agent(m->s, url, &c, e);
	if (rc < 0)
		return rc;
	m->since_ns = clock_monotonic_ns();
	agent_wait_begin(&m->wait, m->h, m->s, BRIEF_MS);
	id_random_bytes(entropy, sizeof entropy);
	m->init.hostname = m->s->info.id;
	m->init.dns = m->s->info.dns;
	m->init.entropy = entropy;
	m->init.entropy_len = sizeof entropy;
	struct envd_target t = {.base_url = url,
		.token = m->token,
		.instance = m->s->agent,
		.version = &version,
		.tick = await,
		.ctx = m};
	rc = meet(m, &t, c, e);
	machine_note_agent(m->h, m->s, &version);
	rc = agent_wait_error(&m->wait, rc, e);
	if (rc < 0 && is_over(m, GUEST_MS))
		rc = err_set(e, ERR_TIMEOUT, "the guest's agent did not finish within %d s",
			GUEST_MS / 1000);
	struct err why = {0};
	if (rc < 0 && machine_has_ended(m->h, m->s, 0, "woke", &why) && e)
		*e = why;
	return rc;
}

// The guest was loaded from what was taken without its agent, and runs: it does not depend on it.
static int greet_or_owe(struct meeting *m, const struct machine_plan *p, struct err *e)
{
	struct sandbox *s = m->s;
	struct err why = {0};
	int rc = begin(m, &why);
	if (rc < 0 && machine_is_gone(s)) {
		*e = why;
		return rc;
	}
	if (rc == 0)
		return 0;
	log_warn("agent is silent sandbox=%s error=%s", s->info.id, why.text);
	s->owed = (struct sandbox_owed){.init = true, .clock_ppm = m->init.clock_ppm};
	snprintf(s->owed.token, sizeof s->owed.token, "%s", p->token ? p->token : "");
	s->info.agent_silent = true;
	return 0;
}

int greet(struct host *h, struct sandbox *s, const struct machine_plan *p, struct err *e)
{
	uint64_t had = p->src && !p->img ? p->src->info.disk_size : p->img->disk_mb << 20;
	struct meeting m = {.h = h,
		.s = s,
		.operation = p->operation,
		.token = p->img ? NULL : p->src->row.token,
		.init = {.token = p->token,
			.env = p->env,
			.dns_own = p->replaces_dns,
			.grow_root = s->info.disk_mb << 20 > had,
			.resumed = !p->img,
			.clock_ppm = p->img ? 0 : clock_ppm(s->vmm, p->src)}};
	m.brief = !p->img && !p->src->info.quiesced;
	s->owed = (struct sandbox_owed){0};
	s->info.agent_silent = false;
	int rc = m.brief ? greet_or_owe(&m, p, e) : begin(&m, e);
	// What it knows from now on.
	const char *token = s->owed.init ? p->src->row.token : p->token ? p->token : "";
	if (rc == 0)
		snprintf(s->token, sizeof s->token, "%s", token);
	return rc;
}

int greet_late(struct host *h, struct sandbox *s, struct err *e)
{
	struct meeting m = {.h = h,
		.s = s,
		.token = s->token,
		.brief = true,
		.init = {.token = s->owed.token, .resumed = true, .clock_ppm = s->owed.clock_ppm}};
	int rc = begin(&m, e);
	if (rc == 0)
		snprintf(s->token, sizeof s->token, "%s", s->owed.token);
	return rc;
}
