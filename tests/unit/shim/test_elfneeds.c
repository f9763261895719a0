// SPDX-License-Identifier: Apache-2.0
#include <elf.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>
#include "base/file.h"
#include "shim/elfneeds.h"

// A made-up file: one PT_LOAD over everything at address BASE, PT_INTERP, PT_DYNAMIC.
#define BASE 0x400000u
struct made {
	Elf64_Ehdr eh;
	Elf64_Phdr ph[3];
	Elf64_Dyn dyn[8];
	char interp[16];
	char str[64];
};

static struct made make(void)
{
	struct made m = {.interp = "/lib64/ld.so"};
	static const char str[] = "\0liba.so.1\0libb.so.2\0$ORIGIN/x:/y";
	memcpy(m.str, str, sizeof str);
	memcpy(m.eh.e_ident, ELFMAG, SELFMAG);
	m.eh.e_ident[EI_CLASS] = ELFCLASS64;
	m.eh.e_ident[EI_DATA] = ELFDATA2LSB;
	m.eh.e_type = ET_DYN;
	m.eh.e_machine = EM_X86_64;
	m.eh.e_phoff = offsetof(struct made, ph);
	m.eh.e_phentsize = sizeof(Elf64_Phdr);
	m.eh.e_phnum = 3;
	m.ph[0] = (Elf64_Phdr){.p_type = PT_LOAD, .p_vaddr = BASE, .p_filesz = sizeof m};
	m.ph[1] = (Elf64_Phdr){.p_type = PT_INTERP,
		.p_offset = offsetof(struct made, interp),
		.p_filesz = sizeof m.interp};
	m.ph[2] = (Elf64_Phdr){.p_type = PT_DYNAMIC,
		.p_offset = offsetof(struct made, dyn),
		.p_filesz = sizeof m.dyn};
	m.dyn[0] = (Elf64_Dyn){DT_NEEDED, {1}};
	m.dyn[1] = (Elf64_Dyn){DT_STRTAB, {BASE + offsetof(struct made, str)}};
	m.dyn[2] = (Elf64_Dyn){DT_NEEDED, {11}};
	m.dyn[3] = (Elf64_Dyn){DT_STRSZ, {sizeof m.str}};
	m.dyn[4] = (Elf64_Dyn){DT_RUNPATH, {21}};
	return m;
}

static int read_needs(const struct made *m, struct elf_needs *n)
{
	return elf_read_needs(m, sizeof *m, n);
}

static void needs_are_read(void **state)
{
	struct made m = make();
	_cleanup_(elf_needs_done) struct elf_needs n = {0};
	assert_int_equal(read_needs(&m, &n), 0);
	assert_string_equal(n.interp, "/lib64/ld.so");
	assert_int_equal(n.n_needed, 2);
	assert_string_equal(n.needed[0], "liba.so.1");
	assert_string_equal(n.needed[1], "libb.so.2");
	assert_string_equal(n.runpath, "$ORIGIN/x:/y");
}

static void own_program_needs_libc(void **state)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	_cleanup_(elf_needs_done) struct elf_needs n = {0};
	bool libc = false;
	assert_int_equal(file_read(AT_FDCWD, "/proc/self/exe", 1u << 28, &b), 0);
	assert_int_equal(elf_read_needs(b.data, b.len, &n), 0);
	assert_string_equal(n.interp, "/lib64/ld-linux-x86-64.so.2");
	for (size_t i = 0; i < n.n_needed; i++)
		libc |= strcmp(n.needed[i], "libc.so.6") == 0;
	assert_true(libc);
}

static void other_files_are_told_from_damaged_ones(void **state)
{
	struct elf_needs n = {0};
	struct made m;
	assert_int_equal(elf_read_needs("#!/bin/sh\n", 10, &n), -ENOEXEC);
	assert_int_equal(elf_read_needs("", 0, &n), -ENOEXEC);
	m = make();
	m.eh.e_machine = EM_AARCH64;
	assert_int_equal(read_needs(&m, &n), -ENOEXEC);
	m = make();
	m.eh.e_ident[EI_CLASS] = ELFCLASS32;
	assert_int_equal(read_needs(&m, &n), -ENOEXEC);
	m = make();
	m.eh.e_phoff = UINT64_MAX - 8;
	assert_int_equal(read_needs(&m, &n), -EBADMSG);
	m = make();
	m.eh.e_phnum = 1000;
	assert_int_equal(read_needs(&m, &n), -EBADMSG);
	m = make();
	m.dyn[0].d_un.d_val = 64; // just past the table
	assert_int_equal(read_needs(&m, &n), -EBADMSG);
	m = make();
	m.dyn[0].d_un.d_val = UINT64_MAX;
	assert_int_equal(read_needs(&m, &n), -EBADMSG);
	m = make();
	m.dyn[1].d_un.d_ptr = BASE - 1;
	assert_int_equal(read_needs(&m, &n), -EBADMSG);
	m = make();
	m.dyn[3].d_un.d_val = UINT64_MAX;
	assert_int_equal(read_needs(&m, &n), -EBADMSG);
	m = make();
	memset(m.str, 'x', sizeof m.str); // no end
	assert_int_equal(read_needs(&m, &n), -EBADMSG);
	m = make();
	memset(m.interp, 'x', sizeof m.interp);
	assert_int_equal(read_needs(&m, &n), -EBADMSG);
	assert_null(n.needed);
}

// Cut anywhere, it is read or refused, never read beyond (the sanitizers tell).
static void cut_files_are_refused(void **state)
{
	struct made m = make();
	for (size_t len = 0; len < offsetof(struct made, str); len++) {
		_cleanup_(elf_needs_done) struct elf_needs n = {0};
		_cleanup_free_ char *copy = malloc(len + 1);
		memcpy(copy, &m, len);
		int rc = elf_read_needs(copy, len, &n);
		assert_true(rc < 0 || n.n_needed == 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(needs_are_read),
		cmocka_unit_test(own_program_needs_libc),
		cmocka_unit_test(other_files_are_told_from_damaged_ones),
		cmocka_unit_test(cut_files_are_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
