// SPDX-License-Identifier: Apache-2.0
// The played agent (agentclient/client.h). It answers while its machine runs, knows one token, and
// stands still from a freeze to a thaw (or to the first init after a load).
#include <fcntl.h>
#include <string.h>
#include "base/buildid.h"
#include "base/file.h"
#include "base/str.h"
#include "played/played.h"

int machine_at(const char *address, char dir[512])
{
	unsigned a, b, index;
	char path[512];
	const char *at = strstr(address, "://");
	if (sscanf(at ? at + 3 : address, "10.213.%u.%u", &a, &b) != 2)
		return -ENOENT;
	index = a << 8 | b;
	snprintf(path, sizeof path, "%s/netns/%u", world.run, index / 2);
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, dir, 511);
	if (n <= 0)
		return -ENOENT;
	dir[n] = '\0';
	return 0;
}

struct call {
	char dir[512];
	struct machine m;
	bool lost;
};

// Finds the agent, or waits in vain for one.
static int begin(struct call *c, const char *name, const struct envd_target *t, int timeout_ms,
	struct err *e)
{
	*c = (struct call){0};
	bool there = machine_at(t->base_url, c->dir) == 0 && machine_read(c->dir, &c->m) == 0;
	int rc = trouble_meet(name, there ? c->m.id : "", timeout_ms, t->tick, t->ctx, &c->lost, e);
	if (rc < 0)
		return rc;
	there = there && machine_read(c->dir, &c->m) == 0;
	if (!there || !machine_lives(&c->m) || c->m.state != VMM_RUNNING || !c->m.booted)
		return trouble_wait(timeout_ms, t->tick, t->ctx, name, e);
	if (t->instance)
		snprintf(t->instance, ENVD_INSTANCE_SIZE, "%s", c->m.instance);
	if (t->version)
		agent_version_read(c->m.agent, !str_eq(c->m.agent, "--"), t->version);
	return 0;
}

static int allowed(const struct call *c, const struct envd_target *t, struct err *e)
{
	if (c->m.token[0] && !str_eq(c->m.token, t->token))
		return err_set(e, ERR_UNAUTHENTICATED, "status 401: wrong token");
	return 0;
}

static int end(struct call *c, const char *name, int timeout_ms, const struct envd_target *t,
	struct err *e)
{
	if (machine_write(c->dir, &c->m) < 0)
		return err_errno(e, ECONNRESET, "%s", name);
	return c->lost ? trouble_wait(timeout_ms, t->tick, t->ctx, name, e) : 0;
}

int envd_probe(const char *ip, uint16_t port, int timeout_ms)
{
	struct call c;
	struct envd_target t = {.base_url = ip};
	return begin(&c, "envd_probe", &t, timeout_ms, NULL);
}

// A machine that is gone answers no more than one that stands still.
int envd_reach(const char *ip, uint16_t port, int timeout_ms)
{
	struct call c;
	struct envd_target t = {.base_url = ip};
	return begin(&c, "envd_reach", &t, timeout_ms, NULL);
}

int envd_call_health(
	struct http_client *h, const struct envd_target *t, int timeout_ms, struct err *e)
{
	struct call c;
	return begin(&c, "envd_call_health", t, timeout_ms, e);
}

int envd_call_init(struct http_client *h, const struct envd_target *t, const struct envd_init *i,
	int timeout_ms, uint64_t *ret_guest_ns, struct err *e)
{
	static const char name[] = "envd_call_init";
	struct call c;
	int rc = begin(&c, name, t, timeout_ms, e);
	if (rc == 0)
		rc = allowed(&c, t, e);
	if (rc < 0)
		return rc;
	snprintf(c.m.token, sizeof c.m.token, "%s", i->token ? i->token : "");
	if (i->dns)
		snprintf(c.m.dns, sizeof c.m.dns, "%s", i->dns);
	if (i->resumed)
		c.m.frozen = false;
	if (ret_guest_ns)
		*ret_guest_ns = UINT64_MAX; // nothing of it was on the way
	return end(&c, name, timeout_ms, t, e);
}

int envd_call_greet(struct http_client *h, const struct envd_target *t, const char *hostname,
	int timeout_ms, struct err *e)
{
	static const char name[] = "envd_call_greet";
	struct call c;
	int rc = begin(&c, name, t, timeout_ms, e);
	if (rc == 0)
		rc = allowed(&c, t, e);
	if (rc < 0)
		return rc;
	snprintf(c.m.token, sizeof c.m.token, "%s", t->token ? t->token : "");
	return end(&c, name, timeout_ms, t, e);
}

// The new agent has another instance, and what it was given.
int envd_call_replace(struct http_client *h, const struct envd_target *t,
	const struct envd_program *program, bool resumed, int timeout_ms, struct err *e)
{
	static const char name[] = "envd_call_replace";
	struct call c;
	char build[BUILD_ID_SIZE];
	int rc = begin(&c, name, t, timeout_ms, e);
	if (rc == 0)
		rc = allowed(&c, t, e);
	if (rc < 0)
		return rc;
	if (build_id_of(program->data, program->len, build) < 0)
		return err_set(e, ERR_INVALID, "%s: status 400: no program", name);
	// One that stays as it is says so in its version.
	if (!strstr(c.m.agent, "stays")) {
		snprintf(c.m.agent, sizeof c.m.agent, STASIS_VERSION "-3+%s can=replace", build);
		snprintf(c.m.instance, sizeof c.m.instance, "a6e%u", ++c.m.instances);
	}
	return end(&c, name, timeout_ms, t, e);
}

static int set_frozen(
	const char *name, const struct envd_target *t, bool frozen, int timeout_ms, struct err *e)
{
	struct call c;
	int rc = begin(&c, name, t, timeout_ms, e);
	if (rc == 0)
		rc = allowed(&c, t, e);
	if (rc < 0)
		return rc;
	c.m.frozen = frozen;
	return end(&c, name, timeout_ms, t, e);
}

int envd_call_freeze(
	struct http_client *h, const struct envd_target *t, int timeout_ms, struct err *e)
{
	return set_frozen("envd_call_freeze", t, true, timeout_ms, e);
}

int envd_call_thaw(
	struct http_client *h, const struct envd_target *t, int timeout_ms, struct err *e)
{
	return set_frozen("envd_call_thaw", t, false, timeout_ms, e);
}

int envd_call_oom(struct http_client *h, const struct envd_target *t,
	const struct envd_oom_report *told, int timeout_ms, struct envd_oom_report *ret,
	struct err *e)
{
	struct call c;
	struct stage *stage = world.stage;
	int rc = begin(&c, "envd_call_oom", t, timeout_ms, e);
	if (rc == 0)
		rc = allowed(&c, t, e);
	if (rc < 0)
		return rc;
	atomic_fetch_add(&stage->asked_for_kills, 1);
	if (told && !stage->kills_lie)
		atomic_fetch_sub(&stage->kills, told->untold);
	*ret = (struct envd_oom_report){.untold = stage->kills, .n = stage->kills > 0};
	snprintf(ret->kills[0].process, sizeof ret->kills[0].process, "python3");
	return 0;
}

int envd_run(struct http_client *h, const struct envd_target *t, const struct envd_process *p,
	struct envd_exit *ret, struct err *e)
{
	struct call c;
	int rc = begin(&c, "envd_run", t, (int)p->timeout_ms, e);
	*ret = (struct envd_exit){.exited = true};
	return rc < 0 ? rc : allowed(&c, t, e);
}

int envd_unary(struct http_client *h, const struct envd_target *t, const char *method, json_t *req,
	int timeout_ms, json_t **ret, struct err *e)
{
	return err_set(e, ERR_UNIMPLEMENTED, "%s", method);
}
