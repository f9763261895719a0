// SPDX-License-Identifier: GPL-2.0-or-later
// QEMU's heap, from within QEMU (part of ramhook.so).
#pragma once

// Before QEMU's main: its heap grows in huge pages and is not given back in between.
void heap_widen(void);
