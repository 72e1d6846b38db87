/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * PVH entry: QEMU's -kernel finds the ELF note and jumps to pvh_start in 32-bit protected mode, paging off, %ebx pointing
 * to struct hvm_start_info. Maps the first GiB, enters long mode and calls kernel_main().
 */
	.section .note.Xen, "a", @note
	.balign 4
	.long 4, 8, 18 /* XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz "Xen"
	.quad pvh_start

	.text
	.code32
	.globl pvh_start
	.type pvh_start, @function
pvh_start:
	cli
	cld
	movl $boot_stack_top, %esp
	movl %ebx, %ebp

	movl $boot_pdpt + 3, boot_pml4
	movl $boot_pd + 3, boot_pdpt
	movl $boot_pd, %edi
	movl $0x83, %eax /* present, writable, 2 MiB */
	movl $512, %ecx
1:	movl %eax, (%edi)
	addl $0x200000, %eax
	addl $8, %edi
	decl %ecx
	jnz 1b

	movl %cr4, %eax
	orl $0x6a0, %eax /* PAE, PGE, OSFXSR, OSXMMEXCPT */
	movl %eax, %cr4
	movl $boot_pml4, %eax
	movl %eax, %cr3
	movl $0xc0000080, %ecx /* EFER */
	rdmsr
	orl $0x901, %eax /* SCE, LME, NXE */
	wrmsr
	movl %cr0, %eax
	andl $~0x6000000c, %eax /* no CD, NW, TS, EM */
	orl $0x80010022, %eax	/* PG, WP, NE, MP */
	movl %eax, %cr0
	lgdt boot_gdtr
	ljmp $8, $long_mode

	.code64
long_mode:
	movl $16, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	xorl %eax, %eax
	movl %eax, %fs
	movl %eax, %gs
	movl $boot_stack_top, %esp
	movl %ebp, %edi
	xorl %ebp, %ebp
	pushq $0
	pushq $0
	call kernel_main
	ud2
	.size pvh_start, . - pvh_start

	.section .rodata
	.balign 8
boot_gdt:
	.quad 0
	.quad 0x00af9b000000ffff
	.quad 0x00cf93000000ffff
boot_gdtr:
	.word boot_gdtr - boot_gdt - 1
	.quad boot_gdt

	.bss
	.balign 4096
boot_pml4:
	.skip 4096
boot_pdpt:
	.skip 4096
boot_pd:
	.skip 4096
	.skip 16384
boot_stack_top:

	.section .note.GNU-stack, "", @progbits
