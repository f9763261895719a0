// SPDX-License-Identifier: Apache-2.0
// Nobody holds the lock while he starts a process or waits for the freezer.
#include "envd/process/gate.h"
#include <poll.h>
#include <sys/eventfd.h>
#include "base/clock.h"
#include "base/lock.h"
#include "envd/process/freezer.h"

struct gate {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct freezer freezer;
	bool frozen;   // the gate is closed
	bool freezing; // by one who is not yet done
	bool closing, held;
	unsigned n_starting;
	uint64_t epoch; // counts the thaws
	int thaw_fd;	// wakes who waits for the freezer
};

struct gate *gate_new(int cgroup_fd)
{
	struct gate *g = calloc(1, sizeof *g);
	if (!g)
		return NULL;
	g->thaw_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (g->thaw_fd < 0) {
		free(g);
		return NULL;
	}
	freezer_init(&g->freezer, cgroup_fd);
	g->frozen = freezer_is_on(&g->freezer);
	pthread_mutex_init(&g->lock, NULL);
	pthread_cond_init(&g->changed, NULL);
	return g;
}

struct gate *gate_free(struct gate *g)
{
	if (!g)
		return NULL;
	pthread_cond_destroy(&g->changed);
	pthread_mutex_destroy(&g->lock);
	freezer_done(&g->freezer);
	close(g->thaw_fd);
	free(g);
	return NULL;
}

void gate_close(struct gate *g)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&g->lock);
	g->closing = true;
	pthread_cond_broadcast(&g->changed);
}

// --- starts

// Asked after the gate: who waited there while a snapshot was taken is in every copy of it, and
// what he was to start would start in each. His connection was ended before the thaw.
static bool client_gone(int fd)
{
	struct pollfd pf = {.fd = fd};
	return fd > 0 && poll(&pf, 1, 0) > 0;
}

int gate_enter(struct gate *g, uint64_t until_ns, int client_fd, struct err *e)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&g->lock);
	int rc = 0;
	while (rc == 0 && g->frozen && !g->closing && !g->held)
		rc = cond_wait_until(&g->changed, &g->lock, until_ns);
	if (g->held)
		return err_set(e, ERR_UNAVAILABLE, "the agent is being replaced: try again");
	if (g->closing)
		return err_set(e, ERR_CANCELED, "the agent is stopping");
	if (rc < 0)
		return err_set(e, ERR_CONFLICT, "the sandbox is being frozen");
	if (client_gone(client_fd))
		return err_set(e, ERR_CANCELED, "the client has gone");
	g->n_starting++;
	return 0;
}

void gate_leave(struct gate *g)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&g->lock);
	if (--g->n_starting == 0)
		pthread_cond_broadcast(&g->changed);
}

int gate_hold(struct gate *g, uint64_t until_ns)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&g->lock);
	int rc = 0;
	g->held = true;
	pthread_cond_broadcast(&g->changed);
	while (rc == 0 && (g->n_starting > 0 || g->freezing))
		rc = cond_wait_until(&g->changed, &g->lock, until_ns);
	if (rc < 0)
		g->held = false;
	return rc;
}

void gate_release(struct gate *g)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&g->lock);
	g->held = false;
}

// --- freeze and thaw

static int thaw_locked(struct gate *g)
{
	if (!g->frozen)
		return 0;
	int rc = freezer_set(&g->freezer, false);
	if (rc < 0)
		return rc;
	g->frozen = false;
	g->epoch++;
	eventfd_write(g->thaw_fd, 1);
	pthread_cond_broadcast(&g->changed);
	return 0;
}

int gate_thaw(struct gate *g, struct err *e)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&g->lock);
	int rc = thaw_locked(g);
	return rc < 0 ? err_errno(e, rc, "cannot thaw the processes") : 0;
}

static int explain_freeze(int rc, struct err *e)
{
	if (rc == -ETIMEDOUT)
		return err_set(e, ERR_TIMEOUT,
			"the processes did not all stand still in time; one may be waiting in the "
			"kernel");
	if (rc == -ECANCELED)
		return err_set(e, ERR_CONFLICT, "thawed while it was being frozen");
	return rc < 0 ? err_errno(e, rc, "cannot freeze the processes") : 0;
}

// Closes the gate and freezes, with the lock held, which is given up while it waits.
static int freeze_locked(struct gate *g, uint64_t until_ns)
{
	uint64_t epoch = g->epoch;
	int rc = 0;
	g->frozen = g->freezing = true;
	eventfd_t old;
	eventfd_read(g->thaw_fd, &old);
	while (rc == 0 && g->n_starting > 0 && g->epoch == epoch)
		rc = cond_wait_until(&g->changed, &g->lock, until_ns);
	if (rc == 0 && g->epoch == epoch)
		rc = freezer_set(&g->freezer, true);
	pthread_mutex_unlock(&g->lock);

	if (rc == 0)
		rc = freezer_wait(&g->freezer, until_ns, g->thaw_fd);

	pthread_mutex_lock(&g->lock);
	g->freezing = false;
	if (g->epoch != epoch)
		rc = -ECANCELED;
	else if (rc < 0)
		thaw_locked(g);
	pthread_cond_broadcast(&g->changed);
	return rc;
}

int gate_freeze(struct gate *g, uint64_t timeout_ns, uint64_t *ret_epoch, struct err *e)
{
	uint64_t until = clock_monotonic_ns() + timeout_ns;
	int rc = 0;
	if (!freezer_usable(&g->freezer))
		return err_set(e, ERR_UNAVAILABLE,
			"the agent has no cgroup v2 of its own for the processes: they cannot be "
			"frozen");
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&g->lock);
	while (rc == 0 && g->freezing)
		rc = cond_wait_until(&g->changed, &g->lock, until);
	*ret_epoch = g->epoch;
	if (rc == 0 && !g->frozen)
		rc = freeze_locked(g, until);
	return explain_freeze(rc, e);
}

int gate_freeze_end(struct gate *g, uint64_t epoch, bool ok, struct err *e)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&g->lock);
	if (g->epoch != epoch)
		return explain_freeze(-ECANCELED, e);
	return ok ? 0 : explain_freeze(thaw_locked(g), e);
}
