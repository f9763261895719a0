// SPDX-License-Identifier: Apache-2.0
#include "shim/elfneeds.h"
#include <elf.h>
#include <string.h>

#define MAX_NEEDED 256

struct image {
	const unsigned char *data;
	uint64_t len;
	uint64_t phoff;
	uint64_t n_ph;
};

static bool inside(const struct image *im, uint64_t off, uint64_t len)
{
	return off <= im->len && len <= im->len - off;
}

// Copied out: nothing in the file is sure to be aligned.
static Elf64_Phdr program_header(const struct image *im, uint64_t i)
{
	Elf64_Phdr ph;
	memcpy(&ph, im->data + im->phoff + i * sizeof ph, sizeof ph);
	return ph;
}

static bool find_header(const struct image *im, uint32_t type, Elf64_Phdr *ret)
{
	for (uint64_t i = 0; i < im->n_ph; i++) {
		Elf64_Phdr ph = program_header(im, i);
		if (ph.p_type == type && inside(im, ph.p_offset, ph.p_filesz)) {
			*ret = ph;
			return true;
		}
	}
	return false;
}

static int file_offset(const struct image *im, uint64_t vaddr, uint64_t *ret)
{
	for (uint64_t i = 0; i < im->n_ph; i++) {
		Elf64_Phdr ph = program_header(im, i);
		if (ph.p_type != PT_LOAD || vaddr < ph.p_vaddr || vaddr - ph.p_vaddr >= ph.p_filesz)
			continue;
		if (__builtin_add_overflow(ph.p_offset, vaddr - ph.p_vaddr, ret))
			return -EBADMSG;
		return 0;
	}
	return -EBADMSG;
}

// The NUL-terminated text at off, which must end before end.
static int copy_text(const struct image *im, uint64_t off, uint64_t end, char **ret)
{
	if (end > im->len || off >= end || !memchr(im->data + off, '\0', end - off))
		return -EBADMSG;
	*ret = strdup((const char *)im->data + off);
	return *ret ? 0 : -ENOMEM;
}

static int read_dynamic(const struct image *im, const Elf64_Phdr *dyn, struct elf_needs *n)
{
	uint64_t count = dyn->p_filesz / sizeof(Elf64_Dyn), strtab_addr = 0, str_size = 0;
	uint64_t strtab = 0, end = 0, runpath = 0, rpath = 0;
	bool has_runpath = false, has_rpath = false;
	const unsigned char *table = im->data + dyn->p_offset;
	Elf64_Dyn d;
	for (uint64_t i = 0; i < count; i++) {
		memcpy(&d, table + i * sizeof d, sizeof d);
		if (d.d_tag == DT_NULL) {
			count = i;
			break;
		}
		if (d.d_tag == DT_STRTAB)
			strtab_addr = d.d_un.d_ptr;
		else if (d.d_tag == DT_STRSZ)
			str_size = d.d_un.d_val;
		else if (d.d_tag == DT_NEEDED)
			n->n_needed++;
		else if (d.d_tag == DT_RUNPATH && (has_runpath = true))
			runpath = d.d_un.d_val;
		else if (d.d_tag == DT_RPATH && (has_rpath = true))
			rpath = d.d_un.d_val;
	}
	size_t expected = n->n_needed;
	n->n_needed = 0;
	if (!expected && !has_runpath && !has_rpath)
		return 0;
	if (expected > MAX_NEEDED)
		return -EBADMSG;
	int rc = file_offset(im, strtab_addr, &strtab);
	if (rc < 0 || __builtin_add_overflow(strtab, str_size, &end))
		return -EBADMSG;
	n->needed = calloc(expected + 1, sizeof *n->needed);
	if (!n->needed)
		return -ENOMEM;
	for (uint64_t i = 0; i < count; i++) {
		uint64_t off;
		memcpy(&d, table + i * sizeof d, sizeof d);
		if (d.d_tag != DT_NEEDED)
			continue;
		if (__builtin_add_overflow(strtab, d.d_un.d_val, &off))
			return -EBADMSG;
		rc = copy_text(im, off, end, &n->needed[n->n_needed]);
		if (rc < 0)
			return rc;
		n->n_needed++;
	}
	if (has_runpath || has_rpath) {
		uint64_t off;
		if (__builtin_add_overflow(strtab, has_runpath ? runpath : rpath, &off))
			return -EBADMSG;
		return copy_text(im, off, end, &n->runpath);
	}
	return 0;
}

int elf_read_needs(const void *file, size_t len, struct elf_needs *ret)
{
	Elf64_Ehdr eh;
	Elf64_Phdr ph;
	_cleanup_(elf_needs_done) struct elf_needs n = {0};
	struct image im = {.data = file, .len = len};
	if (len < sizeof eh)
		return -ENOEXEC;
	memcpy(&eh, file, sizeof eh);
	if (memcmp(eh.e_ident, ELFMAG, SELFMAG) != 0 || eh.e_ident[EI_CLASS] != ELFCLASS64 ||
		eh.e_ident[EI_DATA] != ELFDATA2LSB || eh.e_machine != EM_X86_64 ||
		(eh.e_type != ET_EXEC && eh.e_type != ET_DYN))
		return -ENOEXEC;
	im.phoff = eh.e_phoff;
	im.n_ph = eh.e_phnum;
	if (eh.e_phentsize != sizeof ph || !inside(&im, im.phoff, im.n_ph * sizeof ph))
		return -EBADMSG;
	int rc = 0;
	if (find_header(&im, PT_INTERP, &ph))
		rc = copy_text(&im, ph.p_offset, ph.p_offset + ph.p_filesz, &n.interp);
	if (rc == 0 && find_header(&im, PT_DYNAMIC, &ph))
		rc = read_dynamic(&im, &ph, &n);
	if (rc < 0)
		return rc;
	*ret = n;
	n = (struct elf_needs){0};
	return 0;
}

void elf_needs_done(struct elf_needs *n)
{
	for (size_t i = 0; i < n->n_needed; i++)
		free(n->needed[i]);
	free(n->needed);
	free(n->interp);
	free(n->runpath);
	*n = (struct elf_needs){0};
}
