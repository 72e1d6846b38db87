/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Where interrupted code goes on that shall yield (preempt.c): its address
 * is on the stack as if it had called. Every register and flag it has must be
 * as before when it goes on; the C part saves the vector registers.
 */
#include <uk/config.h>

.text
.globl uio_preempt_entry
.type uio_preempt_entry, @function
uio_preempt_entry:
	pushfq
	pushq	%rax
	pushq	%rbx
	pushq	%rcx
	pushq	%rdx
	pushq	%rsi
	pushq	%rdi
	pushq	%rbp
	pushq	%r8
	pushq	%r9
	pushq	%r10
	pushq	%r11
	pushq	%r12
	pushq	%r13
	pushq	%r14
	pushq	%r15
	cld
	movq	%rsp, %rbp
	andq	$-16, %rsp
	call	uio_preempt_yield
	movq	%rbp, %rsp
	popq	%r15
	popq	%r14
	popq	%r13
	popq	%r12
	popq	%r11
	popq	%r10
	popq	%r9
	popq	%r8
	popq	%rbp
	popq	%rdi
	popq	%rsi
	popq	%rdx
	popq	%rcx
	popq	%rbx
	popq	%rax
	popfq
	ret
.size uio_preempt_entry, . - uio_preempt_entry

#if CONFIG_LIBUIO_DOMAIN

/* The stack is aligned, and the interrupted code's registers lie on top of it. */
.globl uio_preempt_keyed
.type uio_preempt_keyed, @function
uio_preempt_keyed:
	movq	%rsp, %rbx
	xorl	%ebp, %ebp
	call	uio_preempt_yield
	movq	%rbx, %rdi
	jmp	uio_entry_resume
.size uio_preempt_keyed, . - uio_preempt_keyed

#endif

.section .note.GNU-stack, "", @progbits
