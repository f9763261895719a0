// SPDX-License-Identifier: Apache-2.0
// Stands in for the agent's client where no guest is: all calls fail as an unreachable guest's do.
#include "agentclient/client.h"

int envd_run(struct http_client *c, const struct envd_target *t, const struct envd_process *p,
	struct envd_exit *ret, struct err *e)
{
	return err_set(e, ERR_BAD_GATEWAY, "no guest at %s", t->base_url);
}

int envd_unary(struct http_client *c, const struct envd_target *t, const char *method, json_t *req,
	int timeout_ms, json_t **ret, struct err *e)
{
	return err_set(e, ERR_BAD_GATEWAY, "no guest at %s", t->base_url);
}

int envd_call_greet(struct http_client *c, const struct envd_target *t, const char *hostname,
	int timeout_ms, struct err *e)
{
	return err_set(e, ERR_BAD_GATEWAY, "no guest at %s", t->base_url);
}

int envd_call_ports(struct http_client *c, const struct envd_target *t, uint16_t port,
	int timeout_ms, bool *ret_loopback, bool *ret_outside, struct err *e)
{
	return err_set(e, ERR_BAD_GATEWAY, "no guest here");
}

#ifndef OWN_OOM
int envd_call_oom(struct http_client *c, const struct envd_target *t,
	const struct envd_oom_report *told, int timeout_ms, struct envd_oom_report *ret,
	struct err *e)
{
	return err_set(e, ERR_BAD_GATEWAY, "no guest at %s", t->base_url);
}
#endif
