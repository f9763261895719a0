// SPDX-License-Identifier: Apache-2.0
// Prewarming: a base image is booted once, its machine is made ready and captured. From then on a
// create from that image is a load. The snapshot is of the kind "frozen". It is made anew when the
// image, the kernel, the VMM or the machine's size changes: all of that is in its key.
#include "sandbox/capture/publish.h"
#include "sandbox/life/prewarm.h"
#include <string.h>
#include "agentclient/client.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "sandbox/capture/capture.h"
#include "sandbox/life/create.h"
#include "sandbox/life/free.h"
#include "sandbox/life/origin.h"
#include "sandbox/machine/machine.h"
#include "sandbox/machine/reach.h"
#include "sandbox/table/state.h"
#include "sandbox/table/space.h"

#define WARM_MS 60000

struct prewarm {
	const struct image_info *img;
	const char *key, *token;
	struct capture capture;
};

// What the first commands of every sandbox will need is in the guest's page cache already.
static int warm_up(const struct sandbox *s, struct err *e)
{
	static const char *const commands[] = {"true", "/bin/true",
		"python3 -c 'import json, os, sys'", "git --version; id; ls / >/dev/null"};
	char url[96];
	_cleanup_(http_client_freep) struct http_client *c = NULL;
	int rc = machine_agent(s, url, &c, e);
	struct envd_target t = {.base_url = url, .token = s->token};
	for (size_t i = 0; rc == 0 && i < ARRAY_SIZE(commands); i++) {
		struct envd_exit x;
		struct envd_process p = {.shell = commands[i], .timeout_ms = WARM_MS};
		rc = envd_run(c, &t, &p, &x, e);
	}
	return rc;
}

static int prepare(struct operation *o, struct err *e)
{
	struct prewarm *p = o->work;
	int room = space_check(o->h, "prewarm", (uint64_t)o->s->info.memory_mb << 20, e);
	if (room < 0)
		return room;
	int rc = capture_init(&p->capture, "frozen", NULL, false, o->journal);
	p->capture.image_key = p->key;
	memcpy(o->layer, p->capture.layer, sizeof o->layer);
	return rc < 0 ? err_errno(e, rc, "journal entry") : 0;
}

static int steps(struct operation *o, struct err *e)
{
	struct prewarm *p = o->work;
	const struct machine_plan plan = {.operation = "create", .img = p->img, .token = p->token};
	int rc = machine_up(o->h, o->s, &plan, &o->at_ns, e);
	if (rc == 0)
		rc = warm_up(o->s, e);
	if (rc == 0)
		rc = capture_take(o->h, o->s, &p->capture, &o->at_ns, e);
	if (rc == 0)
		rc = capture_publish(o->h, o->s, &p->capture, &o->at_ns, e);
	if (rc < 0)
		return rc;
	o->change.add = &p->capture.row;
	o->event = "frozen";
	o->next = *o->s;
	sandbox_move(&o->next.info, SANDBOX_STOPPED, o->id);
	o->next.info.stopped_ns = clock_realtime_ns();
	return 0;
}

static void undo(struct operation *o, const struct err *why)
{
	o->next = *o->s;
	sandbox_move(&o->next.info, SANDBOX_STOPPED, "prewarm failed");
	o->next.info.stopped_ns = clock_realtime_ns();
}

static void done(struct operation *o)
{
	struct prewarm *p = o->work;
	capture_done(o->h, &p->capture, o->succeeded);
}

static const struct operation_kind prewarm_kind = {.name = "prewarm",
	.during = SANDBOX_STATE_MAX,
	.failed = "create_failed",
	.prepare = prepare,
	.steps = steps,
	.undo = undo,
	.done = done};

static void drop_others(struct host *h, const char *template, const char *key)
{
	_cleanup_free_ struct store_snapshot *list = NULL;
	size_t n = 0;
	struct err e = {0};
	int rc = store_list_snapshots(h, "frozen", NULL, NULL, &list, &n, &e);
	for (size_t i = 0; rc == 0 && i < n; i++)
		if (str_eq(list[i].info.template, template) && !str_eq(list[i].image_key, key))
			rc = store_apply(h, &(struct store_change){.drop = list[i].info.id}, &e);
	if (rc < 0)
		log_warn("old frozen image is kept for now template=%s error=%s", template, e.text);
}

static int make(struct host *h, const struct image_info *img, const char *key, struct err *e)
{
	char token[SHA256_HEX_SIZE];
	unsigned char raw[32];
	struct prewarm p = {.img = img, .key = key, .token = token};
	struct host_create req = {.cold = true, .token = token};
	struct origin origin = {0};
	struct host_sandbox info, unused;
	struct operation o = {0};
	id_random_bytes(raw, sizeof raw);
	id_hex(raw, sizeof raw, token);
	id_new_sandbox(req.id);
	id_new_uuid(req.op_id);
	snprintf(req.template, sizeof req.template, "%s", img->name);
	int rc = origin_find(h, &req, &origin, &info, e);
	if (rc == 0)
		rc = create_insert(h, &prewarm_kind, req.op_id, &info, true, &o, &unused, e);
	if (rc == 0)
		rc = operation_do(&o, &p, e);
	if (o.h) {
		sandbox_free(h, o.s, FREE_ALL, FREE_MS);
		sandbox_forget(h, o.s);
	}
	origin_done(&origin);
	return rc;
}

int prewarm_image(struct host *h, const struct image_info *img, struct err *e)
{
	char key[65], found[UUID_SIZE];
	int rc = source_find_prewarmed(h, img, found, e);
	if (rc < 0 || found[0])
		return rc;
	source_image_key(h, img, key);
	struct gate_ticket ticket = {0};
	if (!gate_join(&h->gate, &ticket) && (rc = gate_wait(&h->gate, &ticket, e)) < 0)
		return err_prefix(e, rc, "freeze template '%s'", img->name);
	uint64_t began = clock_monotonic_ns();
	rc = make(h, img, key, e);
	gate_leave(&h->gate, &ticket);
	if (rc < 0)
		return err_prefix(e, rc, "freeze template '%s'", img->name);
	log_info("template frozen template=%s ms=%lu", img->name,
		(unsigned long)((clock_monotonic_ns() - began) / NSEC_PER_MSEC));
	drop_others(h, img->name, key);
	return 0;
}

int host_freeze(struct host *h, const char *template, struct err *e)
{
	struct image_info img;
	int rc = image_load(h->data_dir, template, &img, e);
	return rc < 0 ? rc : prewarm_image(h, &img, e);
}
