// SPDX-License-Identifier: Apache-2.0
// Which processor this machine has, as far as a guest's state depends on it.
#pragma once
#include "base/macro.h"

struct cpu_info {
	char vendor[16]; // "GenuineIntel"; "" where it is not known (not x86)
	uint32_t family, model;
	char features[160]; // words of CPUID, see cpu_describe
	uint64_t tsc_khz;   // by CPUID; 0: it does not say
};

// features: the registers that tell of instructions, eight hexadecimal digits each, with a blank
// between them: leaf 1 ECX and EDX, leaf 7 EBX, ECX and EDX, leaf 7.1 EAX, leaf 0x80000001 ECX and
// EDX, and XCR0. A leaf that is not there is zeros.
void cpu_describe(struct cpu_info *ret);
// What a guest that saw the features "wanted" misses where there are the features "here": true, and
// the names of the first few, "avx512f, avx512bw and 7 more". Left out is what is never a guest's:
// virtualisation, debugging, sensors, and what tells of the host's kernel. wanted may be a
// stranger's: what is no such text is missed as a whole.
bool cpu_lacks(const char *wanted, const char *here, char *out, size_t size);
