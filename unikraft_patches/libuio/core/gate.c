/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The border between the kernel and overlays: the only code that changes
 * PKRU. Integer registers only, so that arguments and results in vector
 * registers pass through (list it as |isr). The first half is assembler; its
 * invariants:
 *
 *  - Raising comes first, then the run is found by the stack pointer, which is
 *    thereby known to lie on an overlay's stack; then the stack is the
 *    kernel's, and only then anything is written or called.
 *  - Lowering comes last. The value is checked after WRPKRU, so that a jump to
 *    that instruction wins nothing.
 *  - What cannot be right ends at uio_border_bad, an invalid instruction that
 *    the trap hook attributes to the overlay of the thread.
 */

#include "overlay_impl.h"

#include <stddef.h>

#define STRING_(x) #x
#define STRING(x)  STRING_(x)

/* struct uio_border */
#define B_SAVED_SP    0
#define B_NEXT        8
#define B_STACK_LOW   16
#define B_STACK_BYTES 24
#define B_KERNEL_SP   32
#define B_LEVEL       40
#define B_PKRU        48
#define B_SP          56
/* struct uio_level */
#define L_OUTER         0
#define L_KERNEL_SP     8
#define L_SP            16
#define L_FN            24
#define L_RDI           32
#define L_RSI           40
#define L_R8            48
#define L_R9            56
#define L_GATE_SP       64
#define L_RAX           72
#define L_RDX           80
#define L_XMM0          88
#define L_XMM1          104
#define L_OUTER_GATE_SP 120
#define L_OUTER_SP      128
#define L_SIZE          136
/* struct gate_frame */
#define F_BACK 0
#define F_R10  8
#define F_R9   16
#define F_R8   24
#define F_RSI  32
#define F_RDI  40
#define F_RBX  48
#define F_SP   56
#define F_SIZE 64

#define AT(structure, field, offset)                                                               \
	_Static_assert(offsetof(struct structure, field) == (offset), "known to the assembler")
AT(uio_run, border, 0);
AT(uio_border, saved_sp, B_SAVED_SP);
AT(uio_border, next, B_NEXT);
AT(uio_border, stack_low, B_STACK_LOW);
AT(uio_border, stack_bytes, B_STACK_BYTES);
AT(uio_border, kernel_sp, B_KERNEL_SP);
AT(uio_border, level, B_LEVEL);
AT(uio_border, pkru, B_PKRU);
AT(uio_border, sp, B_SP);
AT(uio_level, outer, L_OUTER);
AT(uio_level, kernel_sp, L_KERNEL_SP);
AT(uio_level, sp, L_SP);
AT(uio_level, fn, L_FN);
AT(uio_level, rdi, L_RDI);
AT(uio_level, rsi, L_RSI);
AT(uio_level, r8, L_R8);
AT(uio_level, r9, L_R9);
AT(uio_level, gate_sp, L_GATE_SP);
AT(uio_level, rax, L_RAX);
AT(uio_level, rdx, L_RDX);
AT(uio_level, xmm0, L_XMM0);
AT(uio_level, xmm1, L_XMM1);
AT(uio_level, outer_gate_sp, L_OUTER_GATE_SP);
AT(uio_level, outer_sp, L_OUTER_SP);
_Static_assert(sizeof(struct uio_level) == L_SIZE, "known to the assembler");

/* What a gate keeps on the kernel's stack: the overlay cannot change where it returns to. */
struct gate_frame {
	uint64_t back, r10, r9, r8, rsi, rdi, rbx, sp;
};
_Static_assert(sizeof(struct gate_frame) == F_SIZE, "known to the assembler");
AT(gate_frame, back, F_BACK);
AT(gate_frame, sp, F_SP);

#define FUNCTION(name) ".balign 16\n.globl " #name "\n.type " #name ", @function\n" #name ":\n"
#define END_OF(name)   ".size " #name ", . - " #name "\n"

/* The run whose stack has the address in rdx, into rcx; rax is lost. */
#define FIND_RUN                                                                                   \
	"	movq uio_runs(%rip), %rcx\n"                                                             \
	"91:	testq %rcx, %rcx\n"                                                                   \
	"	jz uio_border_bad\n"                                                                     \
	"	movq %rdx, %rax\n"                                                                       \
	"	subq " STRING(B_STACK_LOW) "(%rcx), %rax\n"                                        \
					   "	cmpq " STRING(                                     \
						   B_STACK_BYTES) "(%rcx), %rax\n"                 \
								  "	jb 92f\n"                      \
								  "	movq " STRING(             \
									  B_NEXT) "(%rcx), %rcx\n" \
										  "	jmp 91b\n"     \
										  "92:\n"

/* PKRU from eax; then ecx = edx = 0. Bit 3: no write to the kernel's memory. */
#define LOWER                                                                                      \
	"	xorl %ecx, %ecx\n"                                                                       \
	"	xorl %edx, %edx\n"                                                                       \
	"	wrpkru\n"                                                                                \
	"	testl $8, %eax\n"                                                                        \
	"	jz uio_border_bad\n"
#define RAISE                                                                                      \
	"	xorl %eax, %eax\n"                                                                       \
	"	xorl %ecx, %ecx\n"                                                                       \
	"	xorl %edx, %edx\n"                                                                       \
	"	wrpkru\n"

/* clang-format off */
__asm__(".text\n"

/*
 * int uio_domain_enter(run, level): keep what the ABI wants kept on this stack,
 * then the overlay's stack, rights and function. On the overlay's stack lie
 * rdx, rcx, rax and the address to return to, which is one of the two below.
 */
FUNCTION(uio_domain_enter)
"	pushq %rbp\n"
"	pushq %rbx\n"
"	pushq %r12\n"
"	pushq %r13\n"
"	pushq %r14\n"
"	pushq %r15\n"
"	pushfq\n"
"	subq $8, %rsp\n"
"	stmxcsr (%rsp)\n"
"	fnstcw 4(%rsp)\n"
"	movq %rsp, " STRING(L_KERNEL_SP) "(%rsi)\n"
"	cmpq $0, " STRING(L_OUTER) "(%rsi)\n"
"	jne 1f\n"
"	movq %rsp, " STRING(B_SAVED_SP) "(%rdi)\n"
"1:	movq " STRING(L_GATE_SP) "(%rsi), %rax\n"
"	testq %rax, %rax\n"
"	cmovzq %rsp, %rax\n"
"	andq $-16, %rax\n"
"	movq %rax, " STRING(B_KERNEL_SP) "(%rdi)\n"
"	movq %rsi, " STRING(B_LEVEL) "(%rdi)\n"
"	movl " STRING(B_PKRU) "(%rdi), %eax\n"
"	movq " STRING(L_FN) "(%rsi), %r11\n"
"	movq " STRING(L_R8) "(%rsi), %r8\n"
"	movq " STRING(L_R9) "(%rsi), %r9\n"
"	movq " STRING(L_RDI) "(%rsi), %rdi\n"
"	movq " STRING(L_SP) "(%rsi), %rsp\n"
"	movq " STRING(L_RSI) "(%rsi), %rsi\n"
"	xorl %ebp, %ebp\n"
"	xorl %ebx, %ebx\n"
"	xorl %r10d, %r10d\n"
"	xorl %r12d, %r12d\n"
"	xorl %r13d, %r13d\n"
"	xorl %r14d, %r14d\n"
"	xorl %r15d, %r15d\n"
"	testl %eax, %eax\n"
"	jz 2f\n"
	LOWER
"2:	popq %rdx\n"
"	popq %rcx\n"
"	popq %rax\n"
"	jmp *%r11\n"
END_OF(uio_domain_enter)

/* The overlay's function returns here, with its rights or, where there is no PKU, without any change. */
FUNCTION(uio_domain_return_keys)
"	movq %rax, %r12\n"
"	movq %rdx, %r13\n"
	RAISE
"	jmp uio_domain_returned\n"
END_OF(uio_domain_return_keys)
FUNCTION(uio_domain_return_plain)
"	movq %rax, %r12\n"
"	movq %rdx, %r13\n"
FUNCTION(uio_domain_returned)
"	leaq -8(%rsp), %rdx\n"
	FIND_RUN
"	movq " STRING(B_LEVEL) "(%rcx), %rsi\n"
"	addq $8, %rdx\n"
	/* Levels below the stack pointer were left by a longjmp() over them. */
"1:	testq %rsi, %rsi\n"
"	jz uio_border_bad\n"
"	movq " STRING(L_SP) "(%rsi), %rax\n"
"	addq $32, %rax\n"
"	cmpq %rax, %rdx\n"
"	je 2f\n"
"	jb uio_border_bad\n"
"	movq " STRING(L_OUTER) "(%rsi), %rsi\n"
"	jmp 1b\n"
"2:	movq " STRING(L_KERNEL_SP) "(%rsi), %rsp\n"
"	movq %r12, " STRING(L_RAX) "(%rsi)\n"
"	movq %r13, " STRING(L_RDX) "(%rsi)\n"
"	movups %xmm0, " STRING(L_XMM0) "(%rsi)\n"
"	movups %xmm1, " STRING(L_XMM1) "(%rsi)\n"
"	movq " STRING(L_OUTER) "(%rsi), %rax\n"
"	movq %rax, " STRING(B_LEVEL) "(%rcx)\n"
"	movq " STRING(L_OUTER_GATE_SP) "(%rsi), %rax\n"
"	movq %rax, " STRING(B_KERNEL_SP) "(%rcx)\n"
"	movq " STRING(L_OUTER_SP) "(%rsi), %rax\n"
"	movq %rax, " STRING(B_SP) "(%rcx)\n"
"	movl $1, %eax\n" /* UIO_RUN_RETURNED */
"	cld\n"
"	ldmxcsr (%rsp)\n"
"	fldcw 4(%rsp)\n"
"	jmp 3f\n"
END_OF(uio_domain_returned)

/*
 * uio_run_unwind(run, how): back to where the outermost level was entered,
 * which returns how. Also where the trap hook sends a thread whose every
 * register but rdi, rsi and rsp is the overlay's.
 */
FUNCTION(uio_run_unwind)
"	movq (%rdi), %rsp\n"
"	movl %esi, %eax\n"
"	cld\n"
"	fninit\n"
"	ldmxcsr (%rsp)\n"
"	fldcw 4(%rsp)\n"
"3:	addq $8, %rsp\n"
"	popfq\n"
"	popq %r15\n"
"	popq %r14\n"
"	popq %r13\n"
"	popq %r12\n"
"	popq %rbx\n"
"	popq %rbp\n"
"	ret\n"
END_OF(uio_run_unwind)

/*
 * A gate: r11d is the index of the kernel's function in uio_gate_table, all
 * other registers and the stack are as the overlay called it.
 */
FUNCTION(uio_gate_entry)
"	pushq %rax\n"
"	pushq %rcx\n"
"	pushq %rdx\n"
"	xorl %ecx, %ecx\n"
"	rdpkru\n" /* edx = 0 */
"	testl %eax, %eax\n"
"	jz 1f\n"
"	xorl %eax, %eax\n"
"	wrpkru\n"
"	movq %rsp, %rdx\n"
	FIND_RUN
"	movq " STRING(B_KERNEL_SP) "(%rcx), %rsp\n"
"	pushq %rdx\n"
"	pushq %rbx\n"
"	pushq %rdi\n"
"	pushq %rsi\n"
"	pushq %r8\n"
"	pushq %r9\n"
"	pushq %r10\n"
"	pushq 24(%rdx)\n"
"	movq %rcx, %rbx\n"
"	movq %rcx, %rdi\n"
"	movq %rsp, %rsi\n"
"	movl %r11d, %edx\n"
"	cld\n"
"	call uio_gate_begin\n" /* the function; rdx: words of arguments on the stack, even */
"	movq " STRING(B_KERNEL_SP) "(%rbx), %rsp\n" /* perhaps fewer levels than before */
"	subq $" STRING(F_SIZE) ", %rsp\n"
"	movq %rax, %r11\n"
"	movq %rdx, %rcx\n"
"	movq %rsp, %rdx\n"
"	movq " STRING(F_SP) "(%rdx), %rax\n"
"	leaq 32(%rax), %rsi\n"
"	leaq (,%rcx,8), %rdi\n"
"	subq %rdi, %rsp\n"
"	movq %rsp, %rdi\n"
"	rep movsq\n"
"	movq " STRING(F_R10) "(%rdx), %r10\n"
"	movq " STRING(F_R9) "(%rdx), %r9\n"
"	movq " STRING(F_R8) "(%rdx), %r8\n"
"	movq " STRING(F_RSI) "(%rdx), %rsi\n"
"	movq " STRING(F_RDI) "(%rdx), %rdi\n"
"	movq 8(%rax), %rcx\n"
"	movq (%rax), %rdx\n"
"	movq 16(%rax), %rax\n"
"	call *%r11\n"
".globl uio_gate_return\n"
"uio_gate_return:\n"
"	movq " STRING(B_KERNEL_SP) "(%rbx), %rsp\n"
"	subq $" STRING(F_SIZE) ", %rsp\n"
"	pushq %rax\n"
"	pushq %rdx\n"
"	movq %rbx, %rdi\n"
"	call uio_gate_end\n" /* the overlay's PKRU */
"	popq %r8\n"
"	popq %r9\n"
"	movq " STRING(F_BACK) "(%rsp), %r11\n"
"	movq " STRING(F_RBX) "(%rsp), %rbx\n"
"	movq " STRING(F_SP) "(%rsp), %rsp\n"
"	addq $32, %rsp\n"
"	xorl %esi, %esi\n"
"	xorl %edi, %edi\n"
"	xorl %r10d, %r10d\n"
	LOWER
"	movq %r9, %rax\n"
"	movq %r8, %rdx\n"
"	jmp *%r11\n"
	/* The kernel has been handed one of its own functions as an overlay's. */
"1:	movl %r11d, %r11d\n"
"	cmpq uio_gate_count(%rip), %r11\n"
"	jae uio_border_bad\n"
"	movq uio_gate_table(%rip), %rax\n"
"	movq (%rax,%r11,8), %r11\n"
"	popq %rdx\n"
"	popq %rcx\n"
"	popq %rax\n"
"	jmp *%r11\n"
END_OF(uio_gate_entry)

/*
 * Somebody calls a function of an overlay by its address: r11 is the function.
 * The overlay itself goes on with what rights it has; others are the kernel.
 */
FUNCTION(uio_gate_back_keys)
"	pushq %rax\n"
"	pushq %rcx\n"
"	pushq %rdx\n"
"	xorl %ecx, %ecx\n"
"	rdpkru\n"
"	testl %eax, %eax\n"
"	jz 2f\n"
"1:	popq %rdx\n"
"	popq %rcx\n"
"	popq %rax\n"
"	jmp *%r11\n"
END_OF(uio_gate_back_keys)
FUNCTION(uio_gate_back_plain)
"	pushq %rax\n"
"	pushq %rcx\n"
"	pushq %rdx\n"
"	movq uio_runs(%rip), %rcx\n"
"3:	testq %rcx, %rcx\n"
"	jz 2f\n"
"	movq %rsp, %rdx\n"
"	subq " STRING(B_STACK_LOW) "(%rcx), %rdx\n"
"	cmpq " STRING(B_STACK_BYTES) "(%rcx), %rdx\n"
"	jb 1b\n"
"	movq " STRING(B_NEXT) "(%rcx), %rcx\n"
"	jmp 3b\n"
"2:	pushq %rbp\n"
"	pushq %r11\n"
"	pushq %r10\n"
"	pushq %r9\n"
"	pushq %r8\n"
"	pushq %rsi\n"
"	pushq %rdi\n"
"	leaq 48(%rsp), %rbp\n"
"	subq $(" STRING(L_SIZE) " + 8 + 128), %rsp\n"
"	andq $-16, %rsp\n"
"	movups %xmm0, 144(%rsp)\n"
"	movups %xmm1, 160(%rsp)\n"
"	movups %xmm2, 176(%rsp)\n"
"	movups %xmm3, 192(%rsp)\n"
"	movups %xmm4, 208(%rsp)\n"
"	movups %xmm5, 224(%rsp)\n"
"	movups %xmm6, 240(%rsp)\n"
"	movups %xmm7, 256(%rsp)\n"
"	cld\n"
"	movq %rsp, %rdi\n"
"	leaq -48(%rbp), %rsi\n"
"	call uio_callback_begin\n"
"	testq %rax, %rax\n"
"	jz 4f\n"
"	movups 144(%rsp), %xmm0\n"
"	movups 160(%rsp), %xmm1\n"
"	movups 176(%rsp), %xmm2\n"
"	movups 192(%rsp), %xmm3\n"
"	movups 208(%rsp), %xmm4\n"
"	movups 224(%rsp), %xmm5\n"
"	movups 240(%rsp), %xmm6\n"
"	movups 256(%rsp), %xmm7\n"
"	movq %rax, 144(%rsp)\n"
"	movq %rax, %rdi\n"
"	movq %rsp, %rsi\n"
"	call uio_domain_enter\n"
"	movq 144(%rsp), %rdi\n"
"	movq %rsp, %rsi\n"
"	movl %eax, %edx\n"
"	call uio_callback_end\n"
"4:	movq " STRING(L_RAX) "(%rsp), %rax\n"
"	movq " STRING(L_RDX) "(%rsp), %rdx\n"
"	movups " STRING(L_XMM0) "(%rsp), %xmm0\n"
"	movups " STRING(L_XMM1) "(%rsp), %xmm1\n"
"	movq %rbp, %rsp\n"
"	popq %rbp\n"
"	addq $24, %rsp\n"
"	ret\n"
END_OF(uio_gate_back_plain)

/*
 * void touch_lowered(first, last, pkru, write): a byte of each page from one address to the other;
 * no stack is used, which could not be written.
 */
FUNCTION(uio_touch_lowered)
"	movl %ecx, %r8d\n"
"	movl %edx, %eax\n"
	LOWER
"1:	movb (%rdi), %r9b\n"
"	testl %r8d, %r8d\n"
"	jz 2f\n"
"	movb %r9b, (%rdi)\n"
"2:	orq $4095, %rdi\n"
"	incq %rdi\n"
"	cmpq %rsi, %rdi\n"
"	jbe 1b\n"
	RAISE
"	ret\n"
END_OF(uio_touch_lowered)

FUNCTION(uio_border_bad)
"	ud2\n"
END_OF(uio_border_bad)
);
/* clang-format on */

extern int *kernel_errno(void) __asm__("__errno_location") __attribute__((weak));
extern void uio_touch_lowered(uintptr_t first, uintptr_t last, uint32_t pkru, bool write);
extern const char uio_domain_return_keys[], uio_domain_return_plain[];

/* ---- gates ---- */

uint64_t *uio_gate_table, uio_gate_count;

/* Levels that a longjmp() in the overlay has left: it is on its stack above them again. */
static void drop_levels(struct uio_border *b, uint64_t sp)
{
	while (b->level && b->level->outer && sp > b->level->sp + 3 * sizeof(uint64_t)) {
		b->kernel_sp = b->level->outer_gate_sp;
		b->level = b->level->outer;
	}
}

__attribute__((used)) struct uio_gate_target
uio_gate_begin(struct uio_run *run, const struct gate_frame *frame, uint32_t index)
{
	struct uio_border *b = &run->border;
	uint64_t end = b->stack_low + b->stack_bytes, first = frame->sp + 4 * sizeof(uint64_t);
	uint64_t words = first < end ? (end - first) / sizeof(uint64_t) : 0;
	uint64_t kernel_sp = b->kernel_sp;

	if (index >= uio_gate_count || run->thread != uio_port_thread_self() || !run->active)
		__builtin_trap();
	drop_levels(b, frame->sp);
	if (b->kernel_sp != kernel_sp) {
		/* Upwards, and further than the frame is long: they do not overlap. */
		struct gate_frame *to = (struct gate_frame *)b->kernel_sp - 1;

		*to = *frame;
	}
	b->sp = frame->sp;
	if (run->errno_cell)
		*kernel_errno() = *run->errno_cell;
	return (struct uio_gate_target){
		.target = uio_gate_table[index],
		.words = (words < UIO_GATE_WORDS ? words : UIO_GATE_WORDS) & ~1ull,
	};
}

__attribute__((used)) uint32_t uio_gate_end(struct uio_run *run)
{
	if (run->errno_cell)
		*run->errno_cell = *kernel_errno();
	return run->border.pkru;
}

uint64_t uio_gate_caller(const struct uio_run *run, uint64_t back)
{
	const struct gate_frame *frame = (const struct gate_frame *)run->border.kernel_sp - 1;

	return back == (uint64_t)(uintptr_t)uio_gate_return ? frame->back : back;
}

void uio_domain_touch(const struct uio_run *run, uintptr_t first, uintptr_t last, bool write)
{
	if (run->border.pkru)
		uio_touch_lowered(first, last, run->border.pkru, write);
}

/* ---- levels ---- */

void uio_level_begin(struct uio_run *run, struct uio_level *level, uint64_t fn, uint64_t sp,
		     const struct uio_registers *r, unsigned int words)
{
	struct uio_border *b = &run->border;
	uint64_t *to;

	/* A function begins with its stack pointer 8 off a multiple of 16. */
	sp = ((sp - words * sizeof(uint64_t)) & ~15ull) - 4 * sizeof(uint64_t);
	to = (uint64_t *)sp;
	to[0] = r->rdx;
	to[1] = r->rcx;
	to[2] = r->rax;
	to[3] = (uintptr_t)(b->pkru ? uio_domain_return_keys : uio_domain_return_plain);
	for (unsigned int i = 0; i < words; i++)
		to[4 + i] = r->stack[i];
	level->outer = b->level;
	level->outer_gate_sp = b->kernel_sp;
	level->outer_sp = b->sp;
	level->sp = sp;
	level->fn = fn;
	level->rdi = r->rdi;
	level->rsi = r->rsi;
	level->r8 = r->r8;
	level->r9 = r->r9;
	b->sp = sp;
}

int uio_domain_call(struct uio_run *run, struct uio_level *level, uintptr_t fn, uintptr_t sp,
		    const uint64_t arguments[4])
{
	const struct uio_registers r = {
		.rdi = arguments[0],
		.rsi = arguments[1],
		.rdx = arguments[2],
		.rcx = arguments[3],
	};

	level->gate_sp = run->kernel_stack_top;
	uio_level_begin(run, level, fn, sp, &r, 0);
	return uio_domain_enter(run, level);
}
