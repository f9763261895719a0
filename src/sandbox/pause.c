// SPDX-License-Identifier: Apache-2.0
#include "sandbox/internal.h"

int host_pause(
	struct host *h, const char *op_id, const char *id, struct host_sandbox *ret, struct err *e)
{
	return err_set(e, ERR_UNIMPLEMENTED, "pause is being built");
}

int host_resume(
	struct host *h, const struct host_resume *req, struct host_sandbox *ret, struct err *e)
{
	return err_set(e, ERR_UNIMPLEMENTED, "resume is being built");
}

int host_fork(struct host *h, struct host_fork *req, struct err *e)
{
	return err_set(e, ERR_UNIMPLEMENTED, "fork is being built");
}

int host_snapshot_create(struct host *h, const struct host_snapshot_create *req,
	struct host_snapshot *ret, struct err *e)
{
	return err_set(e, ERR_UNIMPLEMENTED, "snapshots are being built");
}

int host_snapshot_delete(struct host *h, const char *op_id, const char *snapshot, struct err *e)
{
	return err_set(e, ERR_UNIMPLEMENTED, "snapshots are being built");
}

int host_snapshots(struct host *h, struct host_snapshot **ret, size_t *ret_n, struct err *e)
{
	return err_set(e, ERR_UNIMPLEMENTED, "snapshots are being built");
}
