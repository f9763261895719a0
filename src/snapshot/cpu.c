// SPDX-License-Identifier: Apache-2.0
#include "snapshot/cpu.h"
#include <stdio.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>

struct registers {
	unsigned a, b, c, d;
};

// Zeros where the processor has no such leaf.
static struct registers leaf(unsigned number, unsigned sub)
{
	struct registers r = {0};
	__get_cpuid_count(number, sub, &r.a, &r.b, &r.c, &r.d);
	return r;
}

// What the kernel lets programs save: without OSXSAVE the instruction does not exist.
static unsigned xcr0(unsigned leaf_1_ecx)
{
	unsigned low = 0, high = 0;
	if (leaf_1_ecx & bit_OSXSAVE)
		__asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	return low;
}

void cpu_describe(struct cpu_info *ret)
{
	struct registers id = leaf(0, 0), one = leaf(1, 0), seven = leaf(7, 0), ext;
	struct registers rate = leaf(0x15, 0);
	*ret = (struct cpu_info){0};
	ext = leaf(0x80000001, 0);
	memcpy(ret->vendor, &id.b, 4);
	memcpy(ret->vendor + 4, &id.d, 4);
	memcpy(ret->vendor + 8, &id.c, 4);
	ret->family = one.a >> 8 & 15;
	ret->model = one.a >> 4 & 15;
	if (ret->family == 6 || ret->family == 15)
		ret->model |= one.a >> 12 & 0xf0;
	if (ret->family == 15)
		ret->family += one.a >> 20 & 255;
	snprintf(ret->features, sizeof ret->features,
		"%08x %08x %08x %08x %08x %08x %08x %08x %08x", one.c, one.d, seven.b, seven.c,
		seven.d, leaf(7, 1).a, ext.c, ext.d, xcr0(one.c));
	if (rate.a && rate.b && rate.c)
		ret->tsc_khz = (uint64_t)rate.c * rate.b / rate.a / 1000;
}
#else
void cpu_describe(struct cpu_info *ret)
{
	*ret = (struct cpu_info){0};
}
#endif
