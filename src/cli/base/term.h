// SPDX-License-Identifier: Apache-2.0
// Signals and the terminal. Signal handlers only leave marks, which the tick of a running call
// looks at; a signal also interrupts the wait for the server, so that this is soon.
#pragma once
#include <termios.h>
#include "base/macro.h"

// Catches INT, TERM, HUP and QUIT (marks) and ignores PIPE (writes fail with -EPIPE); with winch,
// WINCH too.
void term_catch_signals(bool winch);
// Signals so far that ask the program to stop, and the last of them.
unsigned term_interrupts(int *ret_signal);
bool term_take_resize(void); // since the last call

struct term {
	int fd; // -1: nothing to restore
	struct termios saved;
};
// Raw mode; restored by term_restore, which every way out must pass.
int term_raw(struct term *t, int fd);
void term_restore(struct term *t);
void term_size(unsigned *ret_cols, unsigned *ret_rows); // 80 x 24 without a terminal
