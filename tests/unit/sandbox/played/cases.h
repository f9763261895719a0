// SPDX-License-Identifier: Apache-2.0
// Cases of the played world. Each runs in a process of its own, in a world of its own; a server
// that is to be killed runs in a process below that (served).
#pragma once
#include "base/macro.h"

struct played_case {
	const char *name;
	void (*run)(const void *arg);
	const void *arg;
};

// Cases that fail on the code of today: by name (a pattern of the shell), with the
// letter of the finding. One that passes all the same fails the run: take it out of the list.
struct known_fault {
	const char *name, *letter;
};

// Options: --list; PATTERN...: only those; -j N. Where no pattern is given and the environment has
// PLAYED_SHARE=N: every Nth of the table. Returns the exit status.
int cases_run(int argc, char **argv, const struct played_case *cases, size_t n,
	const struct known_fault *known, size_t n_known);

// Of this process: nobody need wait long for what is known not to come.
extern bool case_is_known;

#define CHECK_FAILED 3 // exit status of a process in which a check failed

// Ends the case as failed, with the text.
#define check(cond, ...)                                                                           \
	do {                                                                                       \
		if (!(cond))                                                                       \
			check_failed(__FILE__, __LINE__, #cond, __VA_ARGS__);                      \
	} while (0)
_noreturn_ void check_failed(const char *file, int line, const char *cond, const char *fmt, ...)
	_printf_(4, 5);

// Runs f in a process; a failed check in it fails the case. True when it ended by itself, false
// when it was killed (by a fault point).
bool served(void (*f)(void *), void *arg);
