/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Flags mean nothing at the entry and the return of a function. All other
 * registers that C functions may change are kept: the compiler may know that
 * the function changes fewer.
 *
 * uio_port_hold is set from here on and until here, so a thread in the midst
 * of a hit has the CPU until it is back.
 */
#include "hits.h"

#include <uio/port.h>

void (*uio_hit_entry)(struct uio_entered *e);
void (*uio_hit_return)(struct uio_returned *r);
uint64_t uio_hit_missed;

/* Made by the linker of the section's name. */
extern const uintptr_t __start___patchable_function_entries[] __attribute__((weak));
extern const uintptr_t __stop___patchable_function_entries[] __attribute__((weak));

const uintptr_t *const uio_hit_sites[2] = {
	__start___patchable_function_entries,
	__stop___patchable_function_entries,
};

/* Known to the assembler. */
_Static_assert(offsetof(struct bpf_ctx, args) == 8, "");
_Static_assert(offsetof(struct bpf_ctx, ret) == 56, "");
_Static_assert(offsetof(struct bpf_ctx, fp) == 88, "");
_Static_assert(offsetof(struct uio_entered, rax) == 104, "");
_Static_assert(offsetof(struct uio_entered, resume) == 128, "");
_Static_assert(offsetof(struct uio_returned, held) == 168, "");
_Static_assert(offsetof(struct uio_returned, ret) == 184, "");

__asm__(".text\n"
	".weak uio_port_hold\n"
	".globl uio_hit_entered\n"
	".type uio_hit_entered, @function\n"
	"uio_hit_entered:\n"
	"	cmpl $0, uio_port_hold(%rip)\n"
	"	jne 1f\n"
	"	movl $1, uio_port_hold(%rip)\n"
	"	subq $128, %rsp\n"
	"	movq %rdi, 8(%rsp)\n"
	"	movq %rsi, 16(%rsp)\n"
	"	movq %rdx, 24(%rsp)\n"
	"	movq %rcx, 32(%rsp)\n"
	"	movq %r8, 40(%rsp)\n"
	"	movq %r9, 48(%rsp)\n"
	"	movq %rbp, 88(%rsp)\n"
	"	movq %rax, 104(%rsp)\n"
	"	movq %r10, 112(%rsp)\n"
	"	movq %r11, 120(%rsp)\n"
	"	movq %rsp, %rdi\n"
	"	call *uio_hit_entry(%rip)\n"
	"	movl $0, uio_port_hold(%rip)\n"
	"	movq 8(%rsp), %rdi\n"
	"	movq 16(%rsp), %rsi\n"
	"	movq 24(%rsp), %rdx\n"
	"	movq 32(%rsp), %rcx\n"
	"	movq 40(%rsp), %r8\n"
	"	movq 48(%rsp), %r9\n"
	"	movq 104(%rsp), %rax\n"
	"	movq 112(%rsp), %r10\n"
	"	movq 120(%rsp), %r11\n"
	"	addq $128, %rsp\n"
	"	ret\n"
	"1:	incq uio_hit_missed(%rip)\n"
	"	pushq %rax\n"
	"	movq 8(%rsp), %rax\n"
	"	cmpl $0xfa1e0ff3, (%rax)\n" /* endbr64 */
	"	jne 2f\n"
	"	addq $4, 8(%rsp)\n"
	"2:	addq $2, 8(%rsp)\n"
	"	popq %rax\n"
	"	ret\n"
	".size uio_hit_entered, .-uio_hit_entered\n"
	".globl uio_hit_returned\n"
	".type uio_hit_returned, @function\n"
	"uio_hit_returned:\n"
	"	subq $192, %rsp\n"
	"	movq %rax, 56(%rsp)\n"
	"	movq %rbp, 88(%rsp)\n"
	"	movq %rdx, 104(%rsp)\n"
	"	movq %rcx, 112(%rsp)\n"
	"	movq %rsi, 120(%rsp)\n"
	"	movq %rdi, 128(%rsp)\n"
	"	movq %r8, 136(%rsp)\n"
	"	movq %r9, 144(%rsp)\n"
	"	movq %r10, 152(%rsp)\n"
	"	movq %r11, 160(%rsp)\n"
	"	movl uio_port_hold(%rip), %eax\n"
	"	movq %rax, 168(%rsp)\n"
	"	movl $1, uio_port_hold(%rip)\n"
	"	movq %rsp, %rdi\n"
	"	call *uio_hit_return(%rip)\n"
	"	movl 168(%rsp), %eax\n"
	"	movl %eax, uio_port_hold(%rip)\n"
	"	movq 56(%rsp), %rax\n"
	"	movq 104(%rsp), %rdx\n"
	"	movq 112(%rsp), %rcx\n"
	"	movq 120(%rsp), %rsi\n"
	"	movq 128(%rsp), %rdi\n"
	"	movq 136(%rsp), %r8\n"
	"	movq 144(%rsp), %r9\n"
	"	movq 152(%rsp), %r10\n"
	"	movq 160(%rsp), %r11\n"
	"	addq $184, %rsp\n"
	"	ret\n"
	".size uio_hit_returned, .-uio_hit_returned\n");
