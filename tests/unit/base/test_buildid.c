// SPDX-License-Identifier: Apache-2.0
// The build id of a program, of its file and of itself, and files that lie.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <elf.h>
#include <fcntl.h>
#include <string.h>
#include "base/buildid.h"
#include "base/file.h"
#include "base/str.h"

static void file_and_program_agree(void **state)
{
	_cleanup_strbuf_ struct strbuf file = {0};
	char own[BUILD_ID_SIZE], of[BUILD_ID_SIZE] = "";
	assert_int_equal(file_read(AT_FDCWD, "/proc/self/exe", 64u << 20, &file), 0);
	build_id_own(own);
	assert_int_equal(strspn(own, "0123456789abcdef"), BUILD_ID_SIZE - 1);
	int rc = build_id_of(file.data, file.len, of);
	assert_true(rc == 0 || rc == -ENODATA);
	assert_string_equal(own, rc == 0 ? of : "0000000000000000");
}

// Whatever a header says, nothing beyond the file is read (the sanitizers see it).
static void what_lies_is_refused(void **state)
{
	_cleanup_strbuf_ struct strbuf file = {0};
	char id[BUILD_ID_SIZE];
	assert_int_equal(file_read(AT_FDCWD, "/proc/self/exe", 64u << 20, &file), 0);
	assert_int_equal(build_id_of("", 0, id), -ENOEXEC);
	assert_int_equal(build_id_of("#!/bin/sh\n", 10, id), -ENOEXEC);
	for (size_t len = 0; len < 4096; len += 7) {
		_cleanup_free_ char *cut = malloc(len + 1);
		memcpy(cut, file.data, len);
		build_id_of(cut, len, id);
	}
	Elf64_Ehdr *h = (Elf64_Ehdr *)file.data;
	Elf64_Ehdr good = *h;
	h->e_phoff = UINT64_MAX - 8;
	assert_int_equal(build_id_of(file.data, file.len, id), -ENOEXEC);
	*h = good;
	h->e_phnum = UINT16_MAX;
	h->e_phoff = file.len - sizeof(Elf64_Phdr);
	assert_int_equal(build_id_of(file.data, file.len, id), -ENOEXEC);
	*h = good;
	h->e_machine = EM_AARCH64;
	assert_int_equal(build_id_of(file.data, file.len, id), -ENOEXEC);
	*h = good;
	h->e_ident[EI_CLASS] = ELFCLASS32;
	assert_int_equal(build_id_of(file.data, file.len, id), -ENOEXEC);
	*h = good;
	// Notes whose sizes lie.
	Elf64_Phdr *p = (Elf64_Phdr *)(file.data + h->e_phoff);
	for (unsigned i = 0; i < h->e_phnum; i++) {
		if (p[i].p_type != PT_NOTE)
			continue;
		Elf64_Nhdr *n = (Elf64_Nhdr *)(file.data + p[i].p_offset);
		n->n_namesz = UINT32_MAX;
		n->n_descsz = UINT32_MAX;
	}
	assert_int_equal(build_id_of(file.data, file.len, id), -ENODATA);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(file_and_program_agree),
		cmocka_unit_test(what_lies_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
