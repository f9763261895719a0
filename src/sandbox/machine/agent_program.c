// SPDX-License-Identifier: Apache-2.0
// A guest that lies costs no more than the time limits here: whatever it answers, the resume goes
// on with the agent that answers.
#include "sandbox/machine/agent_program.h"
#include <fcntl.h>
#include <string.h>
#include "base/buildid.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/paths.h"
#include "sandbox/machine/reach.h"

#define SEND_MS 15000 // it is tried there before the answer
#define SWITCH_MS 15000
#define ASK_MS 5000
#define ASK_AGAIN_NS (2 * NSEC_PER_MSEC) // and twice as long each time
#define ASK_AGAIN_MAX_NS (64 * NSEC_PER_MSEC)

static int load(struct agent_program *p, struct err *e)
{
	const char *given = getenv("STASIS_AGENT");
	_cleanup_free_ char *path = given && *given ? strdup(given) : paths_find("envd");
	_cleanup_strbuf_ struct strbuf text = {0};
	if (!path)
		return err_set(e, ERR_NOT_FOUND, "envd is not there");
	int rc = file_read(AT_FDCWD, path, ENVD_PROGRAM_MAX, &text);
	if (rc == 0)
		rc = build_id_of(text.data ? text.data : "", text.len, p->build);
	if (rc < 0)
		return err_errno(e, rc, "%s", path);
	hash_sha256_hex(text.data, text.len, p->file.sha256);
	p->file.len = text.len;
	p->file.data = strbuf_steal(&text);
	snprintf(p->version, sizeof p->version, "%s-%u", STASIS_VERSION, AGENT_REVISION);
	return 0;
}

void agent_program_open(struct agent_program **ret)
{
	struct err e = {0};
	struct agent_program *p = calloc(1, sizeof *p);
	*ret = NULL;
	if (!p || load(p, &e) < 0) {
		log_warn("guests keep the agents they have error=%s", p ? e.text : "out of memory");
		free(p);
		return;
	}
	*ret = p;
}

struct agent_program *agent_program_free(struct agent_program *p)
{
	if (p)
		free((void *)p->file.data);
	free(p);
	return NULL;
}

bool agent_program_is_due(const struct agent_program *p, const struct agent_version *guest)
{
	return p && guest->can_replace && !str_eq(guest->build, p->build) &&
	       !agent_version_is_older(p->version, guest->text);
}

// Until another agent answers than the one before, or that one again.
static int await_switch(const struct agent_program *p, struct http_client *c,
	const struct envd_target *t, struct err *e)
{
	uint64_t until = deadline_in_ms(SWITCH_MS), pause = ASK_AGAIN_NS;
	for (;;) {
		int rc = envd_call_health(c, t, ASK_MS, e);
		if (rc == 0)
			return str_eq(t->version->build, p->build)
				       ? 0
				       : err_set(e, ERR_CONFLICT, "it goes on as it was");
		// It is about to: a connection is cut, or refused for the moment.
		if (rc == -ECANCELED || deadline_over(until))
			return rc;
		clock_sleep_ns(pause);
		pause = MIN(2 * pause, ASK_AGAIN_MAX_NS);
	}
}

void agent_program_send(struct host *h, struct sandbox *s, struct http_client *c,
	const struct envd_target *t, bool resumed)
{
	const struct agent_program *p = h->agent_program;
	struct err e = {0};
	char was[AGENT_VERSION_SIZE];
	s->agent_note[0] = '\0';
	if (!t->version || !agent_program_is_due(p, t->version))
		return;
	snprintf(was, sizeof was, "%s", t->version->text);
	uint64_t begin = clock_monotonic_ns();
	int rc = envd_call_replace(c, t, &p->file, resumed, SEND_MS, &e);
	// An answer that was lost says nothing of what was done.
	struct err why = {0};
	if (rc == 0)
		rc = await_switch(p, c, t, &e);
	else if ((rc == -ETIMEDOUT || rc == -ECONNRESET) && await_switch(p, c, t, &why) == 0)
		rc = 0;
	s->agent_replaced = rc == 0;
	snprintf(s->agent_note, sizeof s->agent_note, "%s", rc == 0 ? was : e.text);
	if (rc == 0)
		log_info("agent replaced sandbox=%s was=\"%s\" is=\"%s\" ms=%lu", s->info.id, was,
			t->version->text,
			(unsigned long)((clock_monotonic_ns() - begin) / NSEC_PER_MSEC));
	else
		log_warn("agent not replaced sandbox=%s is=\"%s\" error=%s", s->info.id, was,
			e.text);
}

void agent_program_note(const struct sandbox *s, json_t *data)
{
	if (data && s->agent_note[0])
		json_object_set_new(data, s->agent_replaced ? "agent_before" : "agent_not_replaced",
			json_string(s->agent_note));
}
