// SPDX-License-Identifier: Apache-2.0
#include "envd/wake/agent.h"
#include "base/lock.h"

json_t *agent_env(struct agent *a)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&a->lock);
	return json_incref(a->env);
}
