// SPDX-License-Identifier: Apache-2.0
// Whether an accelerator can really run a guest here: that /dev/kvm opens proves nothing.
#pragma once
#include "base/err.h"

// Runs a tiny guest that switches to 64-bit mode, computes in the kernel's privilege, and tells its
// result by QEMU's exit status. 0 and the time that a part of its work took on average, to be
// compared with that of another accelerator; or -errno with the reason, -ETIMEDOUT when it had no
// end within 20 s. limit_ns (0: none): a guest that is slower is given up after a second.
// *ret_judged: the error is what the guest did (it was slower, it ended otherwise than it should),
// and not something on the way to it (a time-out, no memory, a killed QEMU).
int probe_accel(const char *qemu, const char *accel, uint64_t limit_ns, uint64_t *ret_ns,
	bool *ret_judged, struct err *e);
// Whether KVM runs a guest, and no slower than emulation does: there are machines whose KVM
// interprets the guest's kernel (PVM with an ordinary guest), hundreds of times slower than QEMU's
// emulator. 0, or -errno with the reason. *ret_certain: this is the answer until the next boot of
// the machine; false: not known, or quickly found out and easily changed (a module that is not
// loaded), so ask again another time.
int probe_kvm(const char *qemu, bool *ret_certain, struct err *e);
// "7.2.22".
int probe_qemu_version(const char *qemu, char *out, size_t size, struct err *e);

// The guest's ROM, 64 KiB.
extern const unsigned char probe_rom[65536];
