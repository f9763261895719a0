// SPDX-License-Identifier: Apache-2.0
#include "cli/base/term.h"
#include <signal.h>
#include <sys/ioctl.h>

// A handler can reach nothing but globals.
static volatile sig_atomic_t interrupts, last_signal, resized;

static void on_signal(int sig)
{
	if (sig == SIGWINCH) {
		resized = 1;
		return;
	}
	interrupts = interrupts + 1;
	last_signal = sig;
}

void term_catch_signals(bool winch)
{
	static const int caught[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
	// Without SA_RESTART: a blocked read or poll ends, and its loop looks at the marks.
	struct sigaction act = {.sa_handler = on_signal};
	struct sigaction ignore = {.sa_handler = SIG_IGN};
	for (size_t i = 0; i < ARRAY_SIZE(caught); i++)
		sigaction(caught[i], &act, NULL);
	sigaction(SIGPIPE, &ignore, NULL);
	if (winch)
		sigaction(SIGWINCH, &act, NULL);
}

unsigned term_interrupts(int *ret_signal)
{
	if (ret_signal)
		*ret_signal = last_signal;
	return (unsigned)interrupts;
}

bool term_take_resize(void)
{
	bool r = resized;
	resized = 0;
	return r;
}

int term_raw(struct term *t, int fd)
{
	t->fd = -1;
	if (tcgetattr(fd, &t->saved) < 0)
		return -errno;
	struct termios raw = t->saved;
	cfmakeraw(&raw);
	if (tcsetattr(fd, TCSADRAIN, &raw) < 0)
		return -errno;
	t->fd = fd;
	return 0;
}

void term_restore(struct term *t)
{
	if (t->fd >= 0)
		tcsetattr(t->fd, TCSADRAIN, &t->saved);
	t->fd = -1;
}

void term_size(unsigned *ret_cols, unsigned *ret_rows)
{
	struct winsize w = {0};
	if ((ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) < 0 && ioctl(STDIN_FILENO, TIOCGWINSZ, &w) < 0) ||
		w.ws_col == 0 || w.ws_row == 0) {
		w.ws_col = 80;
		w.ws_row = 24;
	}
	*ret_cols = w.ws_col;
	*ret_rows = w.ws_row;
}
