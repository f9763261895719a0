// SPDX-License-Identifier: Apache-2.0
// Memory goes to the disk while the VMM still writes it into a file.
#pragma once
#include <pthread.h>
#include "base/macro.h"

struct early_write {
	int dir, stop_fd;
	const char *names[2];
	pthread_t thread;
	bool running;
};
// From now until the stop, what is in the first of two files to appear in dir is written to the
// disk as it grows. Only advice: nothing is durable by it, nothing fails.
void early_write_start(struct early_write *w, int dir, const char *name, const char *other);
void early_write_stop(struct early_write *w);
