// SPDX-License-Identifier: Apache-2.0
#include "snapshot/cpu.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/str.h"

#define CPU_NAMED 4u // of what is missing

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

enum word { L1_C, L1_D, L7_B, L7_C, L7_D, L71_A, EXT_C, EXT_D, XCR0, WORDS };

static const char *const word_names[WORDS] = {"CPUID 1 ECX", "CPUID 1 EDX", "CPUID 7 EBX",
	"CPUID 7 ECX", "CPUID 7 EDX", "CPUID 7.1 EAX", "CPUID 0x80000001 ECX",
	"CPUID 0x80000001 EDX", "XCR0"};

#define BIT(n) (1u << (n))
// Not a guest's. 1 ECX: dtes64, monitor, ds_cpl, vmx, smx, est, tm2, xtpr, pdcm, dca, osxsave,
// hypervisor. 1 EDX: dts, acpi, ss, ht, tm, pbe. 7 EBX: cqm, rdt_a, intel_pt, sgx. 7 ECX: ospke,
// sgx_lc, enqcmd. 7 EDX: hybrid, tsx's force abort, pconfig, arch_lbr, core capabilities.
// 0x80000001 ECX: svm, extapic, ibs, skinit, wdt, lwp, nodeid_msr, performance counters, mwaitx.
static const uint32_t not_for_guests[WORDS] = {
	[L1_C] = BIT(2) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(7) | BIT(8) | BIT(14) | BIT(15) |
		 BIT(18) | BIT(27) | BIT(31),
	[L1_D] = BIT(21) | BIT(22) | BIT(27) | BIT(28) | BIT(29) | BIT(31),
	[L7_B] = BIT(2) | BIT(12) | BIT(15) | BIT(25),
	[L7_C] = BIT(4) | BIT(29) | BIT(30),
	[L7_D] = BIT(13) | BIT(15) | BIT(18) | BIT(19) | BIT(30),
	[EXT_C] = BIT(2) | BIT(3) | BIT(10) | BIT(12) | BIT(13) | BIT(15) | BIT(19) | BIT(23) |
		  BIT(24) | BIT(28) | BIT(29),
};

// Names as in /proc/cpuinfo, of what programs look for.
static const struct {
	enum word word;
	unsigned bit;
	const char *name;
} names[] = {
	{L1_C, 0, "sse3"},
	{L1_C, 1, "pclmulqdq"},
	{L1_C, 9, "ssse3"},
	{L1_C, 12, "fma"},
	{L1_C, 13, "cx16"},
	{L1_C, 17, "pcid"},
	{L1_C, 19, "sse4_1"},
	{L1_C, 20, "sse4_2"},
	{L1_C, 21, "x2apic"},
	{L1_C, 22, "movbe"},
	{L1_C, 23, "popcnt"},
	{L1_C, 24, "tsc_deadline_timer"},
	{L1_C, 25, "aes"},
	{L1_C, 26, "xsave"},
	{L1_C, 28, "avx"},
	{L1_C, 29, "f16c"},
	{L1_C, 30, "rdrand"},
	{L7_B, 0, "fsgsbase"},
	{L7_B, 3, "bmi1"},
	{L7_B, 4, "hle"},
	{L7_B, 5, "avx2"},
	{L7_B, 7, "smep"},
	{L7_B, 8, "bmi2"},
	{L7_B, 9, "erms"},
	{L7_B, 10, "invpcid"},
	{L7_B, 11, "rtm"},
	{L7_B, 14, "mpx"},
	{L7_B, 16, "avx512f"},
	{L7_B, 17, "avx512dq"},
	{L7_B, 18, "rdseed"},
	{L7_B, 19, "adx"},
	{L7_B, 20, "smap"},
	{L7_B, 21, "avx512ifma"},
	{L7_B, 23, "clflushopt"},
	{L7_B, 24, "clwb"},
	{L7_B, 28, "avx512cd"},
	{L7_B, 29, "sha_ni"},
	{L7_B, 30, "avx512bw"},
	{L7_B, 31, "avx512vl"},
	{L7_C, 1, "avx512vbmi"},
	{L7_C, 2, "umip"},
	{L7_C, 3, "pku"},
	{L7_C, 6, "avx512_vbmi2"},
	{L7_C, 8, "gfni"},
	{L7_C, 9, "vaes"},
	{L7_C, 10, "vpclmulqdq"},
	{L7_C, 11, "avx512_vnni"},
	{L7_C, 12, "avx512_bitalg"},
	{L7_C, 14, "avx512_vpopcntdq"},
	{L7_C, 16, "la57"},
	{L7_C, 22, "rdpid"},
	{L7_D, 4, "fsrm"},
	{L7_D, 8, "avx512_vp2intersect"},
	{L7_D, 14, "serialize"},
	{L7_D, 20, "ibt"},
	{L7_D, 22, "amx_bf16"},
	{L7_D, 23, "avx512_fp16"},
	{L7_D, 24, "amx_tile"},
	{L7_D, 25, "amx_int8"},
	{L7_D, 26, "spec_ctrl"},
	{L7_D, 27, "intel_stibp"},
	{L7_D, 28, "flush_l1d"},
	{L7_D, 29, "arch_capabilities"},
	{L7_D, 31, "ssbd"},
	{L71_A, 4, "avx_vnni"},
	{L71_A, 5, "avx512_bf16"},
	{EXT_C, 0, "lahf_lm"},
	{EXT_C, 5, "abm"},
	{EXT_C, 6, "sse4a"},
	{EXT_C, 8, "3dnowprefetch"},
	{EXT_C, 11, "xop"},
	{EXT_C, 16, "fma4"},
	{EXT_C, 21, "tbm"},
	{EXT_D, 11, "syscall"},
	{EXT_D, 20, "nx"},
	{EXT_D, 26, "pdpe1gb"},
	{EXT_D, 27, "rdtscp"},
	{EXT_D, 29, "lm"},
};

static bool read_words(const char *text, uint32_t out[WORDS])
{
	for (int i = 0; i < WORDS; i++, text += 9) {
		if (strspn(text, "0123456789abcdef") != 8 ||
			text[8] != (i + 1 < WORDS ? ' ' : '\0'))
			return false;
		out[i] = (uint32_t)strtoul(text, NULL, 16);
	}
	return true;
}

static void add_name(struct strbuf *b, enum word word, unsigned bit)
{
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (names[i].word == word && names[i].bit == bit) {
			strbuf_addf(b, "%s%s", b->len ? ", " : "", names[i].name);
			return;
		}
	strbuf_addf(b, "%s%s bit %u", b->len ? ", " : "", word_names[word], bit);
}

bool cpu_lacks(const char *wanted, const char *here, char *out, size_t size)
{
	uint32_t want[WORDS], have[WORDS];
	_cleanup_strbuf_ struct strbuf b = {0};
	unsigned n = 0;
	if (!read_words(wanted, want) || !read_words(here, have)) {
		snprintf(out, size, "a list of features that can be read");
		return true;
	}
	for (int w = 0; w < WORDS; w++) {
		uint32_t missing = want[w] & ~have[w] & ~not_for_guests[w];
		for (unsigned bit = 0; bit < 32; bit++)
			if (missing & BIT(bit) && n++ < CPU_NAMED)
				add_name(&b, (enum word)w, bit);
	}
	if (n > CPU_NAMED)
		strbuf_addf(&b, " and %u more", n - CPU_NAMED);
	snprintf(out, size, "%s", b.data ? b.data : "");
	return n > 0;
}
