// SPDX-License-Identifier: Apache-2.0
// One job looks at the size of each console; a guest that is to be asked gets a job of its own,
// since it may not answer. (That a console has grown could be told by the kernel; a guest that
// writes much would wake the server all the time.)
#include "sandbox/watch/listen.h"
#include <string.h>
#include "base/clock.h"
#include "sandbox/machine/halt.h"
#include "sandbox/machine/learn.h"
#include "sandbox/machine/oom.h"
#include "sandbox/table/table.h"

#define EVERY_MS 2000

struct listener {
	struct host *h;
	char id[64]; // who is to be asked
};

static void ask(void *ctx)
{
	struct listener *l = ctx;
	oom_ask(l->h, l->id);
	free(l);
}

static void ask_halted(void *ctx)
{
	struct listener *l = ctx;
	halt_ask(l->h, l->id);
	free(l);
}

static void ask_agent(void *ctx)
{
	struct listener *l = ctx;
	learn_ask(l->h, l->id);
	free(l);
}

static void add_question(struct host *h, work_fn f, const char *id)
{
	struct listener *l = calloc(1, sizeof *l);
	if (!l)
		return;
	l->h = h;
	snprintf(l->id, sizeof l->id, "%s", id);
	if (workers_add(h->workers, false, 0, f, l) < 0)
		free(l);
}

static void look(void *ctx)
{
	struct listener *l = ctx;
	struct host *h = l->h;
	size_t n = 0;
	pthread_mutex_lock(&h->lock);
	char(*ids)[64] = calloc(h->n_sandboxes + 1u, sizeof *ids);
	for (struct sandbox *s = NULL; ids && (s = host_next(h, s));)
		if (s->info.state == SANDBOX_RUNNING && !s->operation && !s->hidden)
			memcpy(ids[n++], s->info.id, 64);
	pthread_mutex_unlock(&h->lock);
	for (size_t i = 0; i < n; i++) {
		if (oom_listen(h, ids[i]))
			add_question(h, ask, ids[i]);
		if (halt_listen(h, ids[i]))
			add_question(h, ask_halted, ids[i]);
		if (learn_wanted(h, ids[i]))
			add_question(h, ask_agent, ids[i]);
	}
	free(ids);
	if (workers_add(h->workers, false, deadline_in_ms(EVERY_MS), look, l) < 0)
		free(l);
}

void listen_start(struct host *h)
{
	struct listener *l = calloc(1, sizeof *l);
	if (!l)
		return;
	l->h = h;
	if (workers_add(h->workers, false, deadline_in_ms(EVERY_MS), look, l) < 0)
		free(l);
}
