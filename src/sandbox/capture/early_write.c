// SPDX-License-Identifier: Apache-2.0
// Gives the disk what the VMM has written so far, while it writes the rest. A pause is over when
// memory is on the disk, so both at once is faster; where the guest waits for the copy alone (fork,
// snapshot) the disk's work would only slow that down.
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>
#include "sandbox/capture/early_write.h"
#include "base/request_id.h"

#define EVERY_MS 10

static void *run(void *arg)
{
	struct early_write *w = arg;
	struct pollfd pf = {.fd = w->stop_fd, .events = POLLIN};
	struct stat st;
	_cleanup_close_ int fd = -1;
	while (poll(&pf, 1, EVERY_MS) == 0) {
		// The VMM makes it; the descriptor outlives its renaming.
		for (size_t i = 0; fd < 0 && i < ARRAY_SIZE(w->names); i++) {
			fd = openat(w->dir, w->names[i],
				O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
			if (fd >= 0 && (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)))
				return NULL;
		}
		// Advice: its failure is none.
		if (fd >= 0)
			sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE);
	}
	return NULL;
}

void early_write_start(struct early_write *w, int dir, const char *name, const char *other)
{
	*w = (struct early_write){.dir = dir, .names = {name, other}};
	w->stop_fd = eventfd(0, EFD_CLOEXEC);
	w->running = w->stop_fd >= 0 && request_id_thread(&w->thread, run, w) == 0;
}

void early_write_stop(struct early_write *w)
{
	if (w->running) {
		eventfd_write(w->stop_fd, 1);
		pthread_join(w->thread, NULL);
	}
	safe_close(w->stop_fd);
	*w = (struct early_write){.stop_fd = -1};
}
