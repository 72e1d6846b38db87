/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The ways into the kernel and out of it: exceptions and interrupts (each on an IST stack, because everything runs in ring 0
 * and application code uses the red zone), `syscall`, and the switch between threads. All save a struct frame (cpu.h).
 */
#define FRAME_VECTOR 128
#define FRAME_RIP 144

	.text

/* PKRU is 0 in the kernel: whatever the interrupted code may not touch, the handler may. */
	.macro SAVE_FRAME
	pushq %rax
	pushq %rbx
	pushq %rcx
	pushq %rdx
	pushq %rsi
	pushq %rdi
	pushq %rbp
	pushq %r8
	pushq %r9
	pushq %r10
	pushq %r11
	pushq %r12
	pushq %r13
	pushq %r14
	pushq %r15
	.endm

	.macro POP_REGISTERS
	popq %r15
	popq %r14
	popq %r13
	popq %r12
	popq %r11
	popq %r10
	popq %r9
	popq %r8
	popq %rbp
	popq %rdi
	popq %rsi
	popq %rdx
	popq %rcx
	popq %rbx
	popq %rax
	.endm

	.macro CALL_ALIGNED function
	movq %rsp, %rbx
	andq $-16, %rsp
	call \function
	movq %rbx, %rsp
	.endm

/* 256 stubs of 16 bytes each; the CPU pushes an error code for some vectors, we push 0 for the others. */
	.balign 16
	.globl vector_stubs
	.hidden vector_stubs
	.type vector_stubs, @function
vector_stubs:
	.set vector, 0
	.rept 256
	.balign 16
	.if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21)
	pushq $0
	.endif
	pushq $vector
	jmp vector_common
	.set vector, vector + 1
	.endr
	.size vector_stubs, . - vector_stubs

	.type vector_common, @function
vector_common:
	cld
	SAVE_FRAME
	cmpb $0, cpu_has_pku(%rip)
	je 1f
	xorl %ecx, %ecx
	rdpkru
	pushq %rax
	testl %eax, %eax
	jz 2f
	xorl %eax, %eax
	xorl %edx, %edx
	wrpkru
	jmp 2f
1:	pushq $0
2:	movq %rsp, %rdi
	cmpq $32, FRAME_VECTOR(%rsp)
	jb 3f
	CALL_ALIGNED interrupt_dispatch
	/* A frame on the thread's kernel stack means: this thread is preempted. The IST stack is free again. */
	cmpq %rax, %rsp
	je restore_frame
	movq %rax, %rsp
	movq %rax, %rdi
	CALL_ALIGNED preempt
	movq %rax, %rsp
	jmp restore_frame
3:	CALL_ALIGNED trap_dispatch
	.size vector_common, . - vector_common

	.globl restore_frame
	.hidden restore_frame
	.type restore_frame, @function
restore_frame:
	popq %rax
	testl %eax, %eax
	jz 1f /* without PKU always */
	xorl %ecx, %ecx
	xorl %edx, %edx
	wrpkru
1:	POP_REGISTERS
	addq $16, %rsp
	iretq
	.size restore_frame, . - restore_frame

/* Linux' convention; rcx and r11 are the caller's to lose. Nothing is written below the caller's stack pointer. */
	.balign 16
	.globl syscall_entry
	.hidden syscall_entry
	.type syscall_entry, @function
syscall_entry:
	movq %rsp, syscall_rsp(%rip)
	movq syscall_stack(%rip), %rsp
	pushq $16
	pushq syscall_rsp(%rip)
	pushq %r11
	pushq $8
	pushq %rcx
	pushq %rax
	pushq $0x100
	SAVE_FRAME
	pushq $0
	sti
	movq %rsp, %rdi
	CALL_ALIGNED syscall_dispatch
	.size syscall_entry, . - syscall_entry

	.globl syscall_return
	.hidden syscall_return
	.type syscall_return, @function
syscall_return:
	cli
	cmpq $0x100, FRAME_VECTOR(%rsp)
	jne restore_frame
	addq $8, %rsp
	POP_REGISTERS
	movq 16(%rsp), %rcx
	pushq 32(%rsp)
	popfq
	movq 40(%rsp), %rsp
	jmp *%rcx
	.size syscall_return, . - syscall_return

/* void switch_stack(uint64_t *save, uint64_t load): the registers a C call preserves, on the stacks. */
	.balign 16
	.globl switch_stack
	.hidden switch_stack
	.type switch_stack, @function
switch_stack:
	pushq %rbp
	pushq %rbx
	pushq %r12
	pushq %r13
	pushq %r14
	pushq %r15
	movq %rsp, (%rdi)
	movq %rsi, %rsp
	popq %r15
	popq %r14
	popq %r13
	popq %r12
	popq %rbx
	popq %rbp
	ret
	.size switch_stack, . - switch_stack

/* Where a diverted thread goes on: rbx(r12), on its kernel stack. */
	.globl divert_entry
	.hidden divert_entry
	.type divert_entry, @function
divert_entry:
	sti
	movq %r12, %rdi
	call *%rbx
	ud2
	.size divert_entry, . - divert_entry

	.section .note.GNU-stack, "", @progbits
