// SPDX-License-Identifier: Apache-2.0
#include "sandbox/table/bells.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>

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
