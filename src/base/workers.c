// SPDX-License-Identifier: Apache-2.0
#include "base/workers.h"
#include <pthread.h>
#include <string.h>
#include "base/clock.h"
#include "base/lock.h"
#include "base/request_id.h"

struct job {
	work_fn f;
	void *ctx;
	uint64_t at_ns;
	struct job *next;
	char request[]; // that it was added for
};

struct workers {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct job *line[2]; // [1] urgent; the earliest first, of the same time in the order added
	unsigned n_threads, kept, slow; // slow: threads at a job that is not urgent
	size_t running;
	bool stopping;
	pthread_t *threads;
};

bool workers_is_job(const struct workers *w)
{
	for (unsigned i = 0; i < w->n_threads; i++)
		if (pthread_equal(w->threads[i], pthread_self()))
			return true;
	return false;
}

static struct job *take(struct workers *w, uint64_t now, bool *ret_urgent)
{
	for (int urgent = 1; urgent >= 0; urgent--) {
		struct job *j = w->line[urgent];
		if (!j || j->at_ns > now || (!urgent && w->slow >= w->n_threads - w->kept))
			continue;
		w->line[urgent] = j->next;
		*ret_urgent = urgent;
		return j;
	}
	return NULL;
}

static void wait_for_job(struct workers *w)
{
	uint64_t at = TIME_NEVER;
	for (int i = 0; i < 2; i++)
		if (w->line[i] && (i || w->slow < w->n_threads - w->kept))
			at = MIN(at, w->line[i]->at_ns);
	cond_wait_until(&w->changed, &w->lock, at);
}

static void *work(void *arg)
{
	struct workers *w = arg;
	pthread_mutex_lock(&w->lock);
	while (!w->stopping) {
		bool urgent;
		struct job *j = take(w, clock_monotonic_ns(), &urgent);
		if (!j) {
			wait_for_job(w);
			continue;
		}
		w->slow += !urgent;
		w->running++;
		pthread_mutex_unlock(&w->lock);
		request_id_set(j->request);
		j->f(j->ctx);
		request_id_set(NULL);
		free(j);
		pthread_mutex_lock(&w->lock);
		w->running--;
		w->slow -= !urgent;
		if (!urgent)
			pthread_cond_signal(&w->changed);
	}
	pthread_mutex_unlock(&w->lock);
	return NULL;
}

int workers_new(unsigned threads, unsigned kept, struct workers **ret)
{
	struct workers *w = calloc(1, sizeof *w);
	if (!w || !(w->threads = calloc(threads, sizeof *w->threads))) {
		free(w);
		return -ENOMEM;
	}
	pthread_cond_init(&w->changed, NULL);
	pthread_mutex_init(&w->lock, NULL);
	w->kept = kept;
	while (w->n_threads < threads) {
		int rc = pthread_create(&w->threads[w->n_threads], NULL, work, w);
		if (rc) {
			workers_stop(w, NULL);
			workers_free(w);
			return -rc;
		}
		// Threads that run already read it.
		pthread_mutex_lock(&w->lock);
		w->n_threads++;
		pthread_mutex_unlock(&w->lock);
	}
	*ret = w;
	return 0;
}

int workers_add(struct workers *w, bool urgent, uint64_t at_ns, work_fn f, void *ctx)
{
	const char *request = request_id_current();
	struct job *j = calloc(1, sizeof *j + strlen(request) + 1);
	if (!j)
		return -ENOMEM;
	*j = (struct job){.f = f, .ctx = ctx, .at_ns = at_ns};
	memcpy(j->request, request, strlen(request) + 1);
	pthread_mutex_lock(&w->lock);
	bool stopping = w->stopping;
	struct job **p = &w->line[urgent];
	while (!stopping && *p && (*p)->at_ns <= at_ns)
		p = &(*p)->next;
	if (!stopping) {
		j->next = *p;
		*p = j;
		pthread_cond_signal(&w->changed);
	}
	pthread_mutex_unlock(&w->lock);
	if (stopping)
		free(j);
	return stopping ? -ESHUTDOWN : 0;
}

void workers_stop(struct workers *w, void (*drop)(void *ctx))
{
	if (!w)
		return;
	pthread_mutex_lock(&w->lock);
	w->stopping = true;
	pthread_cond_broadcast(&w->changed);
	pthread_mutex_unlock(&w->lock);
	for (unsigned i = 0; i < w->n_threads; i++)
		pthread_join(w->threads[i], NULL);
	w->n_threads = 0;
	for (int i = 0; i < 2; i++)
		while (w->line[i]) {
			struct job *j = w->line[i];
			w->line[i] = j->next;
			if (drop)
				drop(j->ctx);
			free(j);
		}
}

struct workers *workers_free(struct workers *w)
{
	if (!w)
		return NULL;
	pthread_cond_destroy(&w->changed);
	pthread_mutex_destroy(&w->lock);
	free(w->threads);
	free(w);
	return NULL;
}

void workers_count(struct workers *w, size_t *ret_waiting, size_t *ret_running)
{
	uint64_t now = clock_monotonic_ns();
	*ret_waiting = 0;
	pthread_mutex_lock(&w->lock);
	for (int i = 0; i < 2; i++)
		for (const struct job *j = w->line[i]; j && j->at_ns <= now; j = j->next)
			++*ret_waiting;
	*ret_running = w->running;
	pthread_mutex_unlock(&w->lock);
}
