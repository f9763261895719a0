// SPDX-License-Identifier: Apache-2.0
// A request is checked against what it names, an image or a snapshot, and the sandbox's size is
// chosen.
#include "sandbox/life/origin.h"
#include <string.h>
#include "base/clock.h"
#include "base/log.h"
#include "net/resolvers.h"
#include "sandbox/machine/machine.h"
#include "sandbox/table/bells.h"

void origin_done(struct origin *o)
{
	source_done(&o->src);
}

static int from_image(struct host *h, const struct host_create *req, struct origin *o,
	struct host_sandbox *i, struct err *e)
{
	const struct image_info *img = &o->img;
	char frozen[UUID_SIZE] = "";
	int rc = image_load(h->data_dir, req->template, &o->img, e);
	if (rc < 0)
		return rc;
	i->vcpus = req->vcpus ? req->vcpus : img->vcpus;
	i->memory_mb = req->memory_mb ? req->memory_mb : (unsigned)img->memory_mb;
	i->disk_mb = req->disk_mb ? req->disk_mb : img->disk_mb;
	if (i->memory_mb < img->min_memory_mb)
		return err_set(e, ERR_INVALID, "memory_mb: template '%s' needs at least %u",
			img->name, (unsigned)img->min_memory_mb);
	if (i->disk_mb < img->disk_mb)
		return err_set(e, ERR_INVALID, "disk_mb: template '%s' needs at least %lu",
			img->name, img->disk_mb);
	o->boots = req->cold || i->vcpus != img->vcpus || i->memory_mb != img->memory_mb;
	if (o->boots)
		return 0;
	if ((rc = source_find_prewarmed(h, img, frozen, e)) < 0)
		return rc;
	if (!frozen[0]) {
		o->boots = true;
		upkeep_wake(h); // the next one need not
		return 0;
	}
	struct err why = {0};
	rc = source_open(h, frozen, false, &o->src, &why);
	if (rc < 0) { // damaged, or of another host: the image itself is still there
		log_warn("frozen image not used template=%s error=%s", img->name, why.text);
		source_drop_prewarmed(h, frozen);
		o->boots = true;
	}
	return 0;
}

static int from_snapshot(struct host *h, const struct host_create *req, struct origin *o,
	struct host_sandbox *i, struct err *e)
{
	int rc = source_open(h, req->snapshot, false, &o->src, e);
	if (rc == 0)
		rc = source_refuse_unquiesced(&o->src, "copy", e);
	if (rc < 0)
		return rc;
	const struct host_snapshot *r = &o->src.row.info;
	i->vcpus = r->vcpus;
	i->memory_mb = r->memory_mb;
	i->disk_mb = req->disk_mb ? req->disk_mb : r->disk_mb;
	if ((req->vcpus && req->vcpus != i->vcpus) ||
		(req->memory_mb && req->memory_mb != i->memory_mb))
		return err_set(e, ERR_INVALID,
			"vcpus and memory_mb: a snapshot has what it was taken with, %u and %u",
			i->vcpus, i->memory_mb);
	if (i->disk_mb < r->disk_mb)
		return err_set(
			e, ERR_INVALID, "disk_mb: the snapshot needs at least %lu", r->disk_mb);
	return 0;
}

int origin_find(struct host *h, const struct host_create *req, struct origin *o,
	struct host_sandbox *ret, struct err *e)
{
	struct host_sandbox i = {.state = SANDBOX_PENDING,
		.generation = 1,
		.created_ns = clock_realtime_ns(),
		.ends_at_ns = req->ends_at_ns,
		.on_timeout = req->on_timeout};
	struct resolvers dns;
	if (!id_is_sandbox(req->id) || !id_is_uuid(req->op_id) ||
		(req->snapshot[0] && !id_is_uuid(req->snapshot)))
		return err_set(e, ERR_INVALID, "bad sandbox, snapshot or operation id");
	int rc = req->snapshot[0] ? from_snapshot(h, req, o, &i, e) : from_image(h, req, o, &i, e);
	if (rc == 0)
		rc = machine_check_size(h, &i, e);
	if (rc == 0 && req->dns[0] && (rc = resolvers_parse(req->dns, &dns, e)) == 0)
		resolvers_format(&dns, i.dns);
	if (rc < 0)
		return rc;
	snprintf(i.id, sizeof i.id, "%s", req->id);
	snprintf(i.template, sizeof i.template, "%s", req->template);
	*ret = i;
	return 0;
}
