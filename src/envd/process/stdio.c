// SPDX-License-Identifier: Apache-2.0
#include "envd/process/stdio.h"
#include <fcntl.h>
#include <sys/ioctl.h>
#include <termios.h>

void stdio_done(struct stdio *io)
{
	for (int i = 0; i < 3; i++)
		safe_close(io->child[i]);
	safe_close(io->out[0]);
	safe_close(io->out[1]);
	safe_close(io->stdin_fd);
}

static int make_pipe(int *rd, int *wr)
{
	int p[2];
	if (pipe2(p, O_CLOEXEC) < 0)
		return -errno;
	*rd = p[0];
	*wr = p[1];
	return 0;
}

int stdio_open_pipes(bool stdin_open, int null_fd, struct stdio *io)
{
	int rc;
	if (stdin_open) {
		rc = make_pipe(&io->child[0], &io->stdin_fd);
		if (rc == 0 && fcntl(io->stdin_fd, F_SETFL, O_NONBLOCK) < 0)
			rc = -errno;
	} else {
		io->child[0] = fcntl(null_fd, F_DUPFD_CLOEXEC, 3);
		rc = io->child[0] < 0 ? -errno : 0;
	}
	if (rc == 0)
		rc = make_pipe(&io->out[0], &io->child[1]);
	if (rc == 0)
		rc = make_pipe(&io->out[1], &io->child[2]);
	return rc;
}

int stdio_open_pty(uint16_t cols, uint16_t rows, const struct user *user, struct stdio *io)
{
	int unlock = 0;
	struct winsize size = {.ws_col = cols, .ws_row = rows};
	io->out[0] = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	if (io->out[0] < 0 || ioctl(io->out[0], TIOCSPTLCK, &unlock) < 0 ||
		ioctl(io->out[0], TIOCSWINSZ, &size) < 0)
		return -errno;
	io->child[0] = ioctl(io->out[0], TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (io->child[0] < 0)
		return -errno;
	// Programs open their terminal again by its name.
	if (user && fchown(io->child[0], user->uid, (gid_t)-1) < 0)
		return -errno;
	for (int i = 1; i < 3; i++)
		if ((io->child[i] = fcntl(io->child[0], F_DUPFD_CLOEXEC, 3)) < 0)
			return -errno;
	io->stdin_fd = fcntl(io->out[0], F_DUPFD_CLOEXEC, 3);
	return io->stdin_fd < 0 ? -errno : 0;
}
