// SPDX-License-Identifier: Apache-2.0
// Standard input, output and error of a new process: pipes, or a terminal.
#pragma once
#include "envd/process/users.h"

struct stdio {
	int child[3]; // for the program; given up after the start
	int out[2];   // for the pump
	int stdin_fd; // for process_write
};
#define STDIO_NONE                                                                                 \
	{                                                                                          \
		{-1, -1, -1}, {-1, -1}, -1                                                         \
	}

// 0 or -errno; what was opened until then is in *io, which was STDIO_NONE. null_fd is standard
// input where stdin_open is false.
int stdio_open_pipes(bool stdin_open, int null_fd, struct stdio *io);
// The terminal belongs to user; NULL: to us.
int stdio_open_pty(uint16_t cols, uint16_t rows, const struct user *user, struct stdio *io);
void stdio_done(struct stdio *io);
