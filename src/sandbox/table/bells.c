// SPDX-License-Identifier: Apache-2.0
// The monitor's epoll set and event descriptor, and the upkeep's list of snapshots to look at.
#include "sandbox/table/bells.h"
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

struct noted {
	char id[UUID_SIZE];
	struct noted *next;
};

void monitor_watch(struct host *h, struct sandbox *s)
{
	struct epoll_event ev = {.events = EPOLLIN | EPOLLONESHOT, .data.fd = s->pidfd};
	if (!s->watched && epoll_ctl(h->epoll_fd, EPOLL_CTL_ADD, s->pidfd, &ev) == 0)
		s->watched = true;
}

void monitor_unwatch(struct host *h, struct sandbox *s)
{
	if (s->watched)
		epoll_ctl(h->epoll_fd, EPOLL_CTL_DEL, s->pidfd, NULL);
	s->watched = false;
}

void monitor_wake(struct host *h)
{
	eventfd_write(h->wake_fd, 1);
}

void upkeep_wake(struct host *h)
{
	pthread_mutex_lock(&h->upkeep_lock);
	h->upkeep_due = true;
	pthread_cond_signal(&h->upkeep_wake);
	pthread_mutex_unlock(&h->upkeep_lock);
}

void upkeep_note(struct host *h, const char *snapshot)
{
	struct noted *n = malloc(sizeof *n);
	if (!n)
		return; // it is merged later, or not at all
	snprintf(n->id, sizeof n->id, "%s", snapshot);
	pthread_mutex_lock(&h->upkeep_lock);
	n->next = h->noted;
	h->noted = n;
	pthread_mutex_unlock(&h->upkeep_lock);
	upkeep_wake(h);
}

bool upkeep_take(struct host *h, char ret_snapshot[UUID_SIZE])
{
	pthread_mutex_lock(&h->upkeep_lock);
	struct noted *n = h->noted;
	if (n)
		h->noted = n->next;
	pthread_mutex_unlock(&h->upkeep_lock);
	if (n)
		memcpy(ret_snapshot, n->id, UUID_SIZE);
	free(n);
	return n != NULL;
}
