// SPDX-License-Identifier: Apache-2.0
// Which memory a host takes, and what a base image's frozen machine is found by.
#include "../check.h"
#include <string.h>
#include "sandbox/machine/fit.h"
#include "sandbox/machine/source.h"

#define FEATURES "10000000 00000000 00000020 00000000 00000000 00000000 00000000 00000000 00000007"
#define NO_AVX2 "10000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000007"

static struct vmm_choice host(void)
{
	return (struct vmm_choice){.kvm = true,
		.tsc_fixed = true,
		.name = "fcqemu",
		.state = "qemu-7.2.22",
		.cpu = {.vendor = "AuthenticAMD",
			.family = 23,
			.model = 49,
			.features = FEATURES,
			.tsc_khz = 2400000}};
}

static struct snapshot_info snapshot(void)
{
	const struct vmm_choice v = host();
	struct snapshot_info i = {.accel = "kvm", .cpu = v.cpu};
	snprintf(i.vmm_name, sizeof i.vmm_name, "%s", v.name);
	snprintf(i.vmm_state, sizeof i.vmm_state, "%s", v.state);
	return i;
}

static void refused(const struct vmm_choice *v, const struct snapshot_info *i, const char *word)
{
	char why[FIT_WHY_SIZE] = "";
	bool fits = fit_memory(v, i, why);
	if (fits || !strstr(why, word))
		fail_msg("%s: '%s'", fits ? "taken" : "refused", why);
}

static void taken(const struct vmm_choice *v, const struct snapshot_info *i)
{
	char why[FIT_WHY_SIZE] = "";
	if (!fit_memory(v, i, why))
		fail_msg("refused: '%s'", why);
}

static void what_is_refused(void **state)
{
	struct vmm_choice v = host();
	struct snapshot_info i = snapshot();
	taken(&v, &i);
	snprintf(i.vmm_state, sizeof i.vmm_state, "qemu-10.0.0");
	refused(&v, &i, "qemu-10.0.0");
	i = snapshot();
	snprintf(i.accel, sizeof i.accel, "tcg");
	refused(&v, &i, "ran on tcg");
	i = snapshot();
	snprintf(i.cpu.vendor, sizeof i.cpu.vendor, "GenuineIntel");
	refused(&v, &i, "GenuineIntel");
	i = snapshot();
	snprintf(v.cpu.features, sizeof v.cpu.features, NO_AVX2);
	refused(&v, &i, "avx2");
	v = host(); // another model with all that was seen
	v.cpu.model = 1;
	snprintf(i.cpu.features, sizeof i.cpu.features, NO_AVX2);
	taken(&v, &i);
	snprintf(i.cpu.features, sizeof i.cpu.features, "avx2");
	refused(&v, &i, "can be read");
}

static void rates(void **state)
{
	struct vmm_choice v = host();
	struct snapshot_info i = snapshot();
	i.cpu.tsc_khz = 2401000; // readings differ
	taken(&v, &i);
	i.cpu.tsc_khz = 2500000;
	refused(&v, &i, "2500000 kHz");
	v.tsc_fixed = false;
	taken(&v, &i);
	v.tsc_fixed = true;
	// The guest's own rate counts: it had been scaled before.
	i.tsc_khz = 2400000;
	taken(&v, &i);
	i.tsc_khz = 2000000;
	refused(&v, &i, "2000000 kHz");
	i.tsc_khz = i.cpu.tsc_khz = 0;
	taken(&v, &i);
	i.cpu.tsc_khz = 2000000;
	v.cpu.tsc_khz = 0;
	taken(&v, &i);
}

// An emulated processor is the emulator's.
static void emulation_is_the_same_everywhere(void **state)
{
	struct vmm_choice v = host();
	struct snapshot_info i = snapshot();
	v.kvm = false;
	refused(&v, &i, "ran on kvm");
	snprintf(i.accel, sizeof i.accel, "tcg");
	snprintf(i.cpu.vendor, sizeof i.cpu.vendor, "GenuineIntel");
	snprintf(v.cpu.features, sizeof v.cpu.features, NO_AVX2);
	i.tsc_khz = 2000000;
	taken(&v, &i);
}

// Format 1 says nothing of accelerator and processor.
static void older_formats_are_taken(void **state)
{
	struct vmm_choice v = host();
	struct snapshot_info i = snapshot();
	i.accel[0] = '\0';
	i.cpu = (struct cpu_info){0};
	taken(&v, &i);
	v.kvm = false;
	taken(&v, &i);
}

static void key_of(struct vmm_choice *v, char out[65])
{
	const struct host h = {.vmm = v};
	const struct image_info img = {.name = "base", .vcpus = 1, .memory_mb = 512};
	source_image_key(&h, &img, out);
}

static void keys_of_frozen_machines(void **state)
{
	char first[65], second[65];
	struct vmm_choice v = host();
	key_of(&v, first);
	v.cpu.tsc_khz++; // as it is measured again
	key_of(&v, second);
	assert_string_equal(first, second);
	snprintf(v.cpu.features, sizeof v.cpu.features, NO_AVX2);
	key_of(&v, second);
	assert_string_not_equal(first, second);
	v = host();
	v.cpu.model++;
	key_of(&v, second);
	assert_string_not_equal(first, second);
	v = host(); // the same QEMU with other libraries: a new sandbox is to have them
	snprintf(v.runtime, sizeof v.runtime, "other");
	key_of(&v, second);
	assert_string_not_equal(first, second);
	v = host();
	v.kvm = false;
	key_of(&v, first);
	assert_string_not_equal(first, second);
	snprintf(v.cpu.features, sizeof v.cpu.features, NO_AVX2);
	key_of(&v, second);
	assert_string_equal(first, second);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_refused),
		cmocka_unit_test(rates),
		cmocka_unit_test(emulation_is_the_same_everywhere),
		cmocka_unit_test(older_formats_are_taken),
		cmocka_unit_test(keys_of_frozen_machines),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
