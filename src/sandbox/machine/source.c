// SPDX-License-Identifier: Apache-2.0
// A snapshot is read and checked against this host's VMM. It is in use from source_open to
// source_done: a deletion in between takes its name, its files stay until then.
#include "sandbox/machine/source.h"
#include <string.h>
#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "sandbox/machine/agent_program.h"
#include "sandbox/machine/fit.h"
#include "sandbox/machine/runtimes.h"
#include "sandbox/table/bells.h"

void source_done(struct source *src)
{
	src->header = header_free(src->header);
	if (src->host)
		refs_unuse_snapshot(src->host->refs, src->row.info.id, &src->held);
	src->host = NULL;
}

// By which VMM its memory is loaded; false: *ret_why is the reason that it is not.
static bool choose_vmm(const struct host *h, const struct snapshot_info *i,
	const struct vmm_choice **ret, char ret_why[FIT_WHY_SIZE])
{
	const struct vmm_choice *v = runtime_for(h, i);
	*ret = v;
	return fit_memory(v, i, ret_why) && runtime_allows(h, v, ret_why);
}

// What a disk alone is good for: its own sandbox boots from it, and a named snapshot, whose name is
// not known here, can be taken again.
static int refuse(const struct host_snapshot *s, const char *why, struct err *e)
{
	return err_set(e, ERR_UNAVAILABLE,
		"the memory of snapshot %s cannot be loaded here: %s. Its disk is whole: 'stasis "
		"resume %s--disk-only %s' boots anew from it, 'stasis snapshot rewarm NAME' takes "
		"a named one again",
		s->id, why, str_eq(s->kind, "template") ? "--from NAME " : "", s->sandbox);
}

int source_open(struct host *h, const char *id, bool disk_only, struct source *ret, struct err *e)
{
	char path[sizeof "snapshots//working_set" + UUID_SIZE];
	char why[FIT_WHY_SIZE];
	struct source src = {0};
	int rc = store_get_snapshot(h, id, &src.row, e);
	if (rc == 0 && (rc = refs_use_snapshot(h->refs, id, &src.held)) < 0)
		rc = rc == -ENOENT
			     ? err_set(e, ERR_NOT_FOUND, "no snapshot '%.36s' on this host", id)
			     : err_errno(e, rc, "snapshot %.36s", id);
	else if (rc == 0)
		src.host = h;
	if (rc == 0)
		rc = snapshot_read(h->data_fd, id, &src.info, &src.header, e);
	if (rc == 0 && !disk_only && !choose_vmm(h, &src.info, &src.vmm, why))
		rc = refuse(&src.row.info, why, e);
	if (rc < 0) {
		source_done(&src);
		return rc;
	}
	snprintf(path, sizeof path, "snapshots/%.36s/working_set", id);
	src.working_set = file_exists(h->data_fd, path);
	*ret = src;
	return 0;
}

int source_refuse_unquiesced(const struct source *src, const char *what, struct err *e)
{
	const char *id = src->row.info.sandbox;
	if (src->info.quiesced)
		return 0;
	return err_set(e, ERR_NOT_QUIESCED,
		"sandbox '%s' was paused without its agent, which did not answer: its memory is "
		"good for one resume of its own, and for no %s. Resume it, and pause it again "
		"once its agent answers, or boot anew from its disk: 'stasis resume --disk-only "
		"%s'",
		id, what, id);
}

int source_once(struct host *h, const struct source *src, struct err *e)
{
	const char *id = src->row.info.sandbox;
	int was = src->info.quiesced ? 0 : snapshot_was_resumed(h->data_fd, src->info.id);
	if (was < 0)
		return err_errno(e, was, "snapshot %s", src->info.id);
	if (was == 0)
		return 0;
	return err_set(e, ERR_NOT_QUIESCED,
		"sandbox '%s' was paused without its agent, and its memory was resumed before: it "
		"is not resumed twice. Its disk is as after a power cut: 'stasis resume "
		"--disk-only %s' boots anew from it",
		id, id);
}

int source_check(struct host *h, const char *id, struct host_snapshot_check *ret, struct err *e)
{
	struct source src = {0};
	char why[FIT_WHY_SIZE] = "";
	*ret = (struct host_snapshot_check){0};
	int rc = source_open(h, id, true, &src, e);
	if (rc == -EIO) { // damaged
		snprintf(ret->reason, sizeof ret->reason, "%s", e->text);
		return 0;
	}
	if (rc < 0)
		return rc;
	const struct vmm_choice *v;
	struct err once = {0};
	ret->resumes = choose_vmm(h, &src.info, &v, why);
	if (ret->resumes && source_once(h, &src, &once) < 0) {
		ret->resumes = false;
		snprintf(why, sizeof why, "%s", once.text);
	}
	ret->current = str_eq(v->runtime, h->vmm->runtime);
	snprintf(ret->runtime, sizeof ret->runtime, "%.39s", src.info.runtime);
	snprintf(ret->vmm, sizeof ret->vmm, "%s %s", v->firecracker ? "Firecracker" : "QEMU",
		v->upstream);
	snprintf(ret->reason, sizeof ret->reason, "%s", ret->resumes ? "" : why);
	snprintf(ret->agent, sizeof ret->agent, "%s", src.info.agent_version);
	source_done(&src);
	return 0;
}

void source_image_key(const struct host *h, const struct image_info *img, char out[65])
{
	_cleanup_strbuf_ struct strbuf b = {0};
	const struct vmm_choice *v = h->vmm;
	// The tree, not its program alone: what is loaded runs on the libraries that it ran on, and
	// a new sandbox is to have this host's.
	strbuf_addf(&b, "%s %s %s %u %lu %lu %s %s %s %s %s %s", img->name, img->kernel_id,
		img->rootfs_sha256, img->vcpus, img->memory_mb, img->disk_mb, img->boot_args,
		v->name, v->state, v->sha256, v->runtime, fit_accel(v));
	// The agent in its memory is not to be replaced at each create.
	strbuf_addf(&b, " %s", h->agent_program ? h->agent_program->build : "");
	// The guest has seen it, where it is not the emulator's. Its rate is measured, and differs
	// a little each time: that is left to fit_memory.
	if (v->kvm)
		strbuf_addf(&b, " %s %u %u %s", v->cpu.vendor, v->cpu.family, v->cpu.model,
			v->cpu.features);
	hash_sha256_hex(b.data ? b.data : "", b.len, out);
}

void source_drop_prewarmed(struct host *h, const char *snapshot)
{
	struct err e = {0};
	if (store_apply(h, &(struct store_change){.drop = snapshot}, &e) < 0)
		log_warn("frozen image stays for now snapshot=%s error=%s", snapshot, e.text);
	atomic_store(&h->freeze_due, true);
	upkeep_wake(h);
}

int source_find_prewarmed(
	struct host *h, const struct image_info *img, char ret_snapshot[UUID_SIZE], struct err *e)
{
	char key[65];
	_cleanup_free_ struct store_snapshot *list = NULL;
	size_t n = 0;
	source_image_key(h, img, key);
	int rc = store_list_snapshots(h, "frozen", NULL, key, &list, &n, e);
	if (rc < 0)
		return rc;
	snprintf(ret_snapshot, UUID_SIZE, "%s", n ? list[0].info.id : "");
	return 0;
}
