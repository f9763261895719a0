// SPDX-License-Identifier: Apache-2.0
// What is told of kept VMMs, and the one thing that is done with them.
#include <string.h>
#include "base/log.h"
#include "sandbox/machine/runtimes.h"
#include "sandbox/table/store.h"

static void tell(struct host *h, const struct runtime *r, struct host_runtime *out)
{
	const struct vmm_choice *v = &r->vmm;
	bool known = v->name[0];
	*out = (struct host_runtime){.current = str_eq(v->runtime, h->vmm->runtime),
		.denied = runtime_is_denied(runtimes_rules(h), v->runtime),
		.first_ns = r->first_ns,
		.last_ns = r->last_ns};
	snprintf(out->id, sizeof out->id, "%s", v->runtime);
	snprintf(out->program, sizeof out->program, "%s",
		!known		 ? ""
		: v->firecracker ? "firecracker"
				 : "qemu");
	snprintf(out->version, sizeof out->version, "%s", v->upstream);
	snprintf(out->package, sizeof out->package, "%s", r->package);
	snprintf(out->state_format, sizeof out->state_format, "%s", v->state);
	if (!known)
		snprintf(out->refused, sizeof out->refused, "what it is cannot be read");
	else if (runtime_allows(h, v, out->refused))
		out->refused[0] = '\0';
}

static void count(
	struct host *h, const struct store_snapshot *list, size_t n, struct host_runtime *out)
{
	for (size_t i = 0; i < n; i++) {
		uint64_t at = list[i].info.created_ns;
		if (!refs_snapshot_names(h->refs, list[i].info.id, out->id))
			continue;
		out->snapshots++;
		out->newest_ns = MAX(out->newest_ns, at);
		out->oldest_ns = out->oldest_ns ? MIN(out->oldest_ns, at) : at;
	}
}

int host_runtimes(struct host *h, struct host_runtime **ret, size_t *ret_n, struct err *e)
{
	_cleanup_free_ struct runtime *all = NULL;
	_cleanup_free_ struct store_snapshot *snapshots = NULL;
	size_t n = 0, n_snapshots = 0;
	int rc = store_list_snapshots(h, NULL, NULL, NULL, &snapshots, &n_snapshots, e);
	if (rc < 0)
		return rc;
	if ((rc = runtimes_list(h, &all, &n)) < 0)
		return err_errno(e, rc, "runtimes");
	struct host_runtime *out = calloc(n, sizeof *out);
	if (!out)
		return err_errno(e, ENOMEM, "runtimes");
	for (size_t i = 0; i < n; i++) {
		tell(h, &all[i], &out[i]);
		count(h, snapshots, n_snapshots, &out[i]);
	}
	*ret = out;
	*ret_n = n;
	return 0;
}

int host_runtime_deny(struct host *h, const char *id, bool on, struct err *e)
{
	int rc = runtime_deny(runtimes_rules(h), h->data_fd, id, on, e);
	if (rc == 0)
		log_info("runtime %s runtime=%s", on ? "denied" : "allowed", id);
	return rc;
}
