/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The ways into the kernel while protection keys are in use: like Unikraft's
 * own entries, with the same frame on the stack (struct __regs), but the
 * interrupted code's PKRU is in its padding and 0 meanwhile. Until that is so
 * nothing is touched but the stack of the interrupt, for which keys do not
 * matter (descriptors.c).
 */
#include <uk/arch/lcpu.h>

.text

/* As Unikraft's PUSH_CALLER_SAVE from its second register on. */
.macro PUSH_REST
	pushq	%rdx
	pushq	%rcx
	pushq	%rax
	pushq	%r8
	pushq	%r9
	pushq	%r10
	pushq	%r11
	pushq	%rbx
	pushq	%rbp
	pushq	%r12
	pushq	%r13
	pushq	%r14
	pushq	%r15
.endm

.macro POP_ALL
	popq	%r15
	popq	%r14
	popq	%r13
	popq	%r12
	popq	%rbp
	popq	%rbx
	popq	%r11
	popq	%r10
	popq	%r9
	popq	%r8
	popq	%rax
	popq	%rcx
	popq	%rdx
	popq	%rsi
	popq	%rdi
.endm

/* One of 16 bytes per vector. The CPU pushes an error code for some, we push 0 for the others. */
	.balign	16
.globl uio_entry_stubs
.type uio_entry_stubs, @function
uio_entry_stubs:
	.set	vector, 0
	.rept	256
	.balign	16
	.if	!(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21)
	pushq	$0
	.endif
	pushq	$vector
	jmp	uio_entry
	.set	vector, vector + 1
	.endr
.size uio_entry_stubs, . - uio_entry_stubs

.type uio_entry, @function
uio_entry:
	cld
	/* The vector is in the place of rdi. */
	pushq	%rsi
	movq	8(%rsp), %rsi
	movq	%rdi, 8(%rsp)
	PUSH_REST
	xorl	%ecx, %ecx
	rdpkru
	pushq	%rax
	testl	%eax, %eax
	jz	1f
	xorl	%eax, %eax
	wrpkru
1:	movq	%rsp, %rdi
	subl	$32, %esi
	jb	2f
	call	uk_intctlr_xpic_handle_irq
	jmp	uio_entry_leave
2:	addl	$32, %esi
	call	uio_entry_trap
uio_entry_leave:
	popq	%rax
	testl	%eax, %eax
	jz	3f
	xorl	%ecx, %ecx
	xorl	%edx, %edx
	wrpkru
3:	POP_ALL
	addq	$8, %rsp
	iretq
.size uio_entry, . - uio_entry

/*
 * void uio_entry_resume(const struct __regs *r): with an overlay's rights the
 * return from an interrupt may not be able to read where r lies. The stack of
 * interrupts can be read, and is free as long as there are none.
 */
.globl uio_entry_resume
.type uio_entry_resume, @function
uio_entry_resume:
	cli
	cld
	movq	%rdi, %rsi
	movq	uio_entry_frame(%rip), %rdi
	movl	$(__REGS_SIZEOF / 8), %ecx
	movq	%rdi, %rax
	rep movsq
	movq	%rax, %rsp
	jmp	uio_entry_leave
.size uio_entry_resume, . - uio_entry_resume

.section .note.GNU-stack, "", @progbits
