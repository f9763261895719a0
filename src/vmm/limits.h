// SPDX-License-Identifier: Apache-2.0
// How long calls of the VMM's API may take, milliseconds: what fcqemu gives QEMU, and what the
// client believes. The client waits a bit longer, so that it hears the reason.
#pragma once

// To stop, to go on, to write the state of all devices, to change a drive.
#define VMM_STATE_MS 30000
#define VMM_STATE_CALL_MS (VMM_STATE_MS + 5000)
