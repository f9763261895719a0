// SPDX-License-Identifier: Apache-2.0
// The frozen machine of a base image: booted once, made ready, captured. From then on a create from
// that image is a load. It is made anew when the image, the kernel, the VMM or the machine's size
// changes: all of that is in its key.
#include <string.h>
#include "base/clock.h"
#include "base/fault.h"
#include "base/hash.h"
#include "base/log.h"
#include "disk/image.h"
#include "agentclient/client.h"
#include "sandbox/life/prewarm.h"
#include "sandbox/capture/capture.h"
#include "sandbox/capture/snapshots.h"
#include "sandbox/life/create.h"
#include "sandbox/life/end.h"
#include "sandbox/machine/reach.h"
#include "sandbox/machine/source.h"

#define WARM_MS 60000

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

static int capture(struct host *h, struct sandbox *s, struct capture *c, struct err *e)
{
	uint64_t t = clock_monotonic_ns();
	int rc = warm_up(s, e);
	if (rc == 0)
		rc = capture_take(h, s, c, &t, e);
	if (rc == 0)
		rc = capture_publish(h, s, c, &t, e);
	if (rc == 0)
		rc = fault_hit("freeze.before_commit", e);
	if (rc == 0) {
		struct store_event ev = {.kind = "frozen"};
		rc = store_commit_snapshot(h, NULL, s, &c->row, NULL, &ev, e);
		if (rc < 0)
			snapshot_delete(h->data_fd, c->snapshot, NULL);
	}
	return rc;
}

static void drop_others(struct host *h, const char *template, const char *key)
{
	_cleanup_free_ struct store_snapshot *list = NULL;
	size_t n = 0;
	struct err e = {0};
	int rc = store_list_snapshots(h, "frozen", NULL, NULL, &list, &n, &e);
	for (size_t i = 0; rc == 0 && i < n; i++)
		if (str_eq(list[i].info.template, template) && !str_eq(list[i].image_key, key))
			rc = snapshot_drop(h, NULL, list[i].info.id, NULL, &e);
	if (rc < 0)
		log_warn("old frozen image is kept for now template=%s error=%s", template, e.text);
}

int prewarm_image(struct host *h, const struct image_info *img, struct err *e)
{
	char key[65], found[UUID_SIZE], token[SHA256_HEX_SIZE], journal[160];
	_cleanup_(capture_done) struct capture c = {0};
	unsigned char raw[32];
	struct host_sandbox info;
	int rc = source_find_prewarmed(h, img, found, e);
	if (rc < 0 || found[0])
		return rc;
	source_image_key(h, img, key);
	id_random_bytes(raw, sizeof raw);
	id_hex(raw, sizeof raw, token);
	struct host_create req = {.cold = true, .token = token};
	id_new_sandbox(req.id);
	id_new_uuid(req.op_id);
	snprintf(req.template, sizeof req.template, "%s", img->name);
	if ((rc = capture_init(&c, "frozen", NULL, false, journal)) < 0)
		return err_set(e, ERR_INTERNAL, "journal entry too long");
	c.image_key = key;
	struct gate_ticket ticket = {0};
	if (!gate_join(&h->gate, &ticket) && (rc = gate_wait(&h->gate, &ticket, e)) < 0)
		return err_prefix(e, rc, "freeze template '%s'", img->name);
	uint64_t began = clock_monotonic_ns();
	rc = create_sandbox(h, &req, journal, &info, e);
	if (rc < 0) {
		gate_leave(&h->gate, &ticket);
		return err_prefix(e, rc, "freeze template '%s'", img->name);
	}
	pthread_mutex_lock(&h->lock);
	struct sandbox *s = host_find(h, req.id);
	pthread_mutex_unlock(&h->lock);
	rc = capture(h, s, &c, e);
	if (rc < 0)
		err_prefix(e, rc, "freeze template '%s'", img->name);
	struct err why = {0};
	if (sandbox_free_resources(h, s, false) < 0 || store_forget(h, req.id, NULL, &why) < 0)
		log_error("not freed after freezing sandbox=%s %s", req.id, why.text);
	gate_leave(&h->gate, &ticket);
	pthread_mutex_lock(&h->lock);
	host_release(h, s);
	host_remove(h, s);
	pthread_mutex_unlock(&h->lock);
	if (rc < 0)
		return rc;
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
