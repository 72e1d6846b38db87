/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * CPU exceptions. The core's hook is asked before Unikraft gives up; where it
 * says so, the interrupted thread goes on elsewhere. A page fault that ukvmem
 * can serve (memory paged in on demand) is none of our business, so of page
 * faults only those in the arena, of null pointers and of protection keys come
 * to the hook first, the others when nobody else has wanted them.
 *
 * Runs in trap context and may return to where it came from: no vector
 * registers here.
 */
#include <uk/arch/traps.h>
#include <uk/event.h>

#include "keys.h"

#define VECTOR_DIVIDE     0
#define VECTOR_DEBUG      1
#define VECTOR_BREAKPOINT 3
#define VECTOR_INVALID    6
#define VECTOR_STACK      12
#define VECTOR_PROTECTION 13
#define VECTOR_PAGE       14
#define VECTOR_ALIGNMENT  17

#define PAGE_ERROR_WRITE 0x02
#define PAGE_ERROR_FETCH 0x10
#define PAGE_ERROR_KEY   0x20

#define NULL_ZONE 0x10000u /* null pointers and their fields: nobody has memory there */

#define FLAG_TRAP      0x00100u
#define FLAG_INTERRUPT 0x00200u
#define FLAG_DIRECTION 0x00400u
#define FLAG_ALIGNMENT 0x40000u

static uio_trap_hook trap_hook;

void uio_port_trap_hook(uio_trap_hook hook)
{
	trap_hook = hook;
}

static enum uio_trap_kind kind_of(const struct ukarch_trap_ctx *ctx)
{
	switch (ctx->trapnr) {
	case VECTOR_DIVIDE:
		return UIO_TRAP_DIVIDE;
	case VECTOR_INVALID:
		return UIO_TRAP_INVALID_OPCODE;
	case VECTOR_STACK:
		return UIO_TRAP_STACK;
	case VECTOR_PROTECTION:
		return UIO_TRAP_PROTECTION;
	case VECTOR_PAGE:
		if (ctx->error_code & PAGE_ERROR_FETCH)
			return UIO_TRAP_EXECUTE;
		return ctx->error_code & PAGE_ERROR_WRITE ? UIO_TRAP_WRITE : UIO_TRAP_READ;
	case VECTOR_ALIGNMENT:
		return UIO_TRAP_ALIGNMENT;
	default:
		return UIO_TRAP_OTHER;
	}
}

/* The registers of struct uio_trap, in its order. */
/* clang-format off */
#define EACH_REGISTER(do)                                      \
	do(0, rax) do(1, rbx) do(2, rcx) do(3, rdx)            \
	do(4, rsi) do(5, rdi) do(6, rbp) do(7, r8)             \
	do(8, r9) do(9, r10) do(10, r11) do(11, r12)           \
	do(12, r13) do(13, r14) do(14, r15)
#define SAVE(i, name)    trap.regs[i] = r->name;
#define RESTORE(i, name) r->name = trap.regs[i];
/* clang-format on */

static int ask(struct ukarch_trap_ctx *ctx)
{
	struct __regs *r = ctx->regs;
	struct uio_trap trap;

	if (!trap_hook)
		return UK_EVENT_NOT_HANDLED;
	trap.kind = kind_of(ctx);
	trap.vector = (unsigned int)ctx->trapnr;
	trap.error_code = (uint32_t)ctx->error_code;
	trap.address = ctx->trapnr == VECTOR_PAGE ? ctx->fault_address : r->rip;
	trap.ip = r->rip;
	trap.sp = r->rsp;
	trap.flags = r->eflags;
	EACH_REGISTER(SAVE);
	if (!trap_hook(&trap))
		return UK_EVENT_NOT_HANDLED;
	EACH_REGISTER(RESTORE);
	r->rip = trap.ip;
	r->rsp = trap.sp;
	if (ctx->trapnr == VECTOR_DEBUG || ctx->trapnr == VECTOR_BREAKPOINT)
		return UK_EVENT_HANDLED; /* it only goes on */
	/* The fault may have happened with interrupts off; nobody is left to switch them on. */
	r->eflags &= ~(uint64_t)(FLAG_TRAP | FLAG_DIRECTION | FLAG_ALIGNMENT);
	r->eflags |= FLAG_INTERRUPT;
	uio_keys_raise(r);
	return UK_EVENT_HANDLED;
}

static int on_trap(void *data)
{
	return ask(data);
}

static int on_page_fault_early(void *data)
{
	const struct ukarch_trap_ctx *ctx = data;

	if (ctx->error_code & PAGE_ERROR_KEY || ctx->fault_address < NULL_ZONE ||
	    uio_memory_in_arena(ctx->fault_address))
		return ask(data);
	return UK_EVENT_NOT_HANDLED;
}

UK_EVENT_HANDLER_PRIO(UKARCH_TRAP_PAGE_FAULT, on_page_fault_early, 0);
UK_EVENT_HANDLER_PRIO(UKARCH_TRAP_PAGE_FAULT, on_trap, 9);
UK_EVENT_HANDLER_PRIO(UKARCH_TRAP_INVALID_OP, on_trap, 0);
UK_EVENT_HANDLER_PRIO(UKARCH_TRAP_BUS_ERROR, on_trap, 0);
UK_EVENT_HANDLER_PRIO(UKARCH_TRAP_MATH, on_trap, 0);
UK_EVENT_HANDLER_PRIO(UKARCH_TRAP_DEBUG, on_trap, 0);
UK_EVENT_HANDLER_PRIO(UKARCH_TRAP_X86_GP, on_trap, 0);
