// SPDX-License-Identifier: Apache-2.0
// All commands, by file. The table in commands.c calls them.
#pragma once

struct cli;
struct err;

// create.c, run.c
int cmd_create(struct cli *c, struct err *e);
int cmd_run(struct cli *c, struct err *e);
// sandbox.c
int cmd_ls(struct cli *c, struct err *e);
int cmd_get(struct cli *c, struct err *e);
int cmd_rm(struct cli *c, struct err *e);
int cmd_timeout(struct cli *c, struct err *e);
int cmd_port(struct cli *c, struct err *e);
// set.c
int cmd_set(struct cli *c, struct err *e);
// lifecycle.c
int cmd_pause(struct cli *c, struct err *e);
int cmd_resume(struct cli *c, struct err *e);
int cmd_fork(struct cli *c, struct err *e);
// snapshot.c
int cmd_snapshot_create(struct cli *c, struct err *e);
int cmd_snapshot_ls(struct cli *c, struct err *e);
int cmd_snapshot_check(struct cli *c, struct err *e);
int cmd_snapshot_get(struct cli *c, struct err *e);
int cmd_snapshot_rewarm(struct cli *c, struct err *e);
int cmd_snapshot_share(struct cli *c, struct err *e);
int cmd_snapshot_unshare(struct cli *c, struct err *e);
int cmd_snapshot_rm(struct cli *c, struct err *e);
// bench.c
int cmd_bench(struct cli *c, struct err *e);
// exec.c, cp.c
int cmd_exec(struct cli *c, struct err *e);
int cmd_cp(struct cli *c, struct err *e);
// watch.c
int cmd_logs(struct cli *c, struct err *e);
int cmd_wait(struct cli *c, struct err *e);
int cmd_health(struct cli *c, struct err *e);
// why.c
int cmd_why(struct cli *c, struct err *e);
// events.c
int cmd_token_rotate(struct cli *c, struct err *e); // key.c
// audit.c
int cmd_audit(struct cli *c, struct err *e);
int cmd_events(struct cli *c, struct err *e);
// key.c
int cmd_key_create(struct cli *c, struct err *e);
int cmd_key_show(struct cli *c, struct err *e);
int cmd_key_update(struct cli *c, struct err *e);
int cmd_key_ls(struct cli *c, struct err *e);
int cmd_key_rm(struct cli *c, struct err *e);
// reconcile.c
int cmd_reconcile(struct cli *c, struct err *e);
int cmd_operations(struct cli *c, struct err *e);
// runtime.c
int cmd_runtime_ls(struct cli *c, struct err *e);
int cmd_runtime_deny(struct cli *c, struct err *e);
int cmd_runtime_allow(struct cli *c, struct err *e);
// usage.c
int cmd_du(struct cli *c, struct err *e);
int cmd_gc(struct cli *c, struct err *e);
// retention.c
int cmd_retention_add(struct cli *c, struct err *e);
int cmd_retention_ls(struct cli *c, struct err *e);
int cmd_retention_rm(struct cli *c, struct err *e);
int cmd_retention_keep(struct cli *c, struct err *e);
int cmd_retention_release(struct cli *c, struct err *e);
int cmd_retention_run(struct cli *c, struct err *e);
// webhook.c
int cmd_webhook_create(struct cli *c, struct err *e);
int cmd_webhook_ls(struct cli *c, struct err *e);
int cmd_webhook_set(struct cli *c, struct err *e);
int cmd_webhook_rm(struct cli *c, struct err *e);
int cmd_webhook_deliveries(struct cli *c, struct err *e);
int cmd_webhook_test(struct cli *c, struct err *e);
// db.c
int cmd_db_check(struct cli *c, struct err *e);
int cmd_db_backup(struct cli *c, struct err *e);
int cmd_db_restore(struct cli *c, struct err *e);
int cmd_db_rebuild(struct cli *c, struct err *e);
// completion.c
int cmd_completion(struct cli *c, struct err *e);
// image.c
int cmd_image_build(struct cli *c, struct err *e);
int cmd_image_ls(struct cli *c, struct err *e);
// setup.c, doctor.c, serve.c
int cmd_setup_volume(struct cli *c, struct err *e);
int cmd_setup_remove(struct cli *c, struct err *e);
int cmd_setup_check(struct cli *c, struct err *e);
int cmd_setup_grow(struct cli *c, struct err *e);
int cmd_doctor(struct cli *c, struct err *e);
int cmd_serve(struct cli *c, struct err *e);
// tls.c
int cmd_tls_dev_cert(struct cli *c, struct err *e);
