// SPDX-License-Identifier: Apache-2.0
// What PID 1 says on the guest's console, and how it ends the machine.
#pragma once
#include "base/macro.h"

// Standard input, output and error become /dev/console, where there is one.
void init_open_console(void);
void init_say(const char *fmt, ...) _printf_(1, 2);
// Ends the machine.
_noreturn_ void init_halt(void);
// Says why, and ends the machine. errnum 0: the text says it all.
_noreturn_ void init_die(int errnum, const char *fmt, ...) _printf_(2, 3);
