// SPDX-License-Identifier: Apache-2.0
#include "base/buildid.h"
#include <elf.h>
#include <link.h>
#include <string.h>
#include "base/id.h"

#define NOTE_ALIGN 4u
#define BYTES ((BUILD_ID_SIZE - 1) / 2)

static size_t aligned(size_t n)
{
	return (n + NOTE_ALIGN - 1) & ~(size_t)(NOTE_ALIGN - 1);
}

static bool find(const char *notes, size_t len, char out[BUILD_ID_SIZE])
{
	Elf64_Nhdr n;
	while (len >= sizeof n) {
		memcpy(&n, notes, sizeof n);
		size_t name = aligned(n.n_namesz), body = aligned(n.n_descsz);
		if (name > len - sizeof n || body > len - sizeof n - name)
			return false;
		const char *at = notes + sizeof n;
		if (n.n_type == NT_GNU_BUILD_ID && n.n_namesz == 4 && memcmp(at, "GNU", 4) == 0 &&
			n.n_descsz >= BYTES) {
			id_hex(at + name, BYTES, out);
			return true;
		}
		notes += sizeof n + name + body;
		len -= sizeof n + name + body;
	}
	return false;
}

static int on_object(struct dl_phdr_info *info, size_t size, void *arg)
{
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *p = &info->dlpi_phdr[i];
		if (p->p_type == PT_NOTE &&
			find((const char *)(info->dlpi_addr + p->p_vaddr), p->p_filesz, arg))
			break;
	}
	return 1; // the first object is the program
}

void build_id_own(char out[BUILD_ID_SIZE])
{
	memset(out, '0', BUILD_ID_SIZE - 1);
	out[BUILD_ID_SIZE - 1] = '\0';
	dl_iterate_phdr(on_object, out);
}

int build_id_of(const void *elf, size_t len, char out[BUILD_ID_SIZE])
{
	Elf64_Ehdr h;
	if (len < sizeof h)
		return -ENOEXEC;
	memcpy(&h, elf, sizeof h);
	if (memcmp(h.e_ident, ELFMAG, SELFMAG) != 0 || h.e_ident[EI_CLASS] != ELFCLASS64 ||
		h.e_ident[EI_DATA] != ELFDATA2LSB || h.e_machine != EM_X86_64 ||
		(h.e_type != ET_EXEC && h.e_type != ET_DYN) ||
		h.e_phentsize != sizeof(Elf64_Phdr) || h.e_phoff > len ||
		h.e_phnum > (len - h.e_phoff) / sizeof(Elf64_Phdr))
		return -ENOEXEC;
	for (unsigned i = 0; i < h.e_phnum; i++) {
		Elf64_Phdr p;
		memcpy(&p, (const char *)elf + h.e_phoff + i * sizeof p, sizeof p);
		if (p.p_type != PT_NOTE)
			continue;
		if (p.p_offset > len || p.p_filesz > len - p.p_offset)
			return -ENOEXEC;
		if (find((const char *)elf + p.p_offset, p.p_filesz, out))
			return 0;
	}
	return -ENODATA;
}
