// SPDX-License-Identifier: Apache-2.0
// The probe's guest: a 64 KiB ROM below 4 GiB, entered at its last 16 bytes in real mode. It goes
// through protected mode to 64-bit mode with paging, multiplies and stores through memory in 64
// bits, and writes 42 to QEMU's debug exit port (exit status 42 * 2 + 1) when the result is right.
// Before each 2^PROBE_CHUNK_SHIFT rounds it writes a byte to the debug console, so that the host sees
// how fast it goes.

#define ROM 0xffff0000
#define EXIT_PORT 0xf4
#define CONSOLE_PORT 0xe9
#define ROUNDS (1 << 20)
#define PROBE_CHUNK_SHIFT 13
#define PROBE_RESULT 0x27fda9a7a104def1 // of the loop below
#define PML4 0x1000
#define PDPT 0x2000
#define PD_LOW 0x3000
#define PD_HIGH 0x4000
#define AT(label) (ROM + (label - probe_rom))

	.section .rodata.probe_rom, "a", @progbits
	.balign 16
	.globl probe_rom
	.hidden probe_rom
	.type probe_rom, @object
probe_rom:
	.code16
real:
	cli
	lgdtl %cs:(gdtr - probe_rom)
	movl %cr0, %eax
	orb $1, %al
	movl %eax, %cr0
	ljmpl $8, $AT(protected)

	.code32
protected:
	movl $0x10, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	// Memory is zero at start. One 2 MiB page at 0 for data, one at the end of 4 GiB for this ROM.
	movl $(PDPT + 3), PML4
	movl $(PD_LOW + 3), PDPT
	movl $(PD_HIGH + 3), PDPT + 3 * 8
	movl $0x83, PD_LOW
	movl $0xffe00083, PD_HIGH + 511 * 8
	movl %cr4, %eax
	orl $0x20, %eax // PAE
	movl %eax, %cr4
	movl $PML4, %eax
	movl %eax, %cr3
	movl $0xc0000080, %ecx // EFER
	rdmsr
	orl $0x100, %eax // LME
	wrmsr
	movl %cr0, %eax
	orl $0x80000000, %eax
	movl %eax, %cr0
	ljmpl $0x18, $AT(long_mode)

	.code64
long_mode:
	movabsq $0x123456789abcdef1, %rax
	movq $0x5000, %rbx
	movl $ROUNDS, %ecx
1:	testl $((1 << PROBE_CHUNK_SHIFT) - 1), %ecx
	jnz 3f
	outb %al, $CONSOLE_PORT
3:	movabsq $0x5851f42d4c957f2d, %rdx
	imulq %rdx, %rax
	addq %rcx, %rax
	movq %rax, (%rbx)
	movq (%rbx), %rax
	decl %ecx
	jnz 1b
	movabsq $PROBE_RESULT, %rdx
	cmpq %rdx, %rax
	jne 2f
	movl $42, %eax
	movw $EXIT_PORT, %dx
	outl %eax, %dx
2:	hlt
	jmp 2b

	.balign 8
gdt:
	.quad 0
	.quad 0x00cf9a000000ffff // 32-bit code
	.quad 0x00cf92000000ffff // data
	.quad 0x00af9a000000ffff // 64-bit code
gdtr:
	.word gdtr - gdt - 1
	.long AT(gdt)

	.org 0xfff0
	.code16
reset:
	// jmp real, across the end of the segment, which clang's assembler will not encode
	.byte 0xe9
	.word 0x10000 - (after_reset - real)
after_reset:
	.org 0x10000
	.size probe_rom, . - probe_rom
	.section .note.GNU-stack, "", @progbits
