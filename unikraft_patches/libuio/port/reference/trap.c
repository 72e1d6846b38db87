/* SPDX-License-Identifier: BSD-3-Clause */
/* Exceptions, in libuio's terms. */
#include <uio/port.h>

#include "memory.h"
#include "trap.h"

enum {
	VECTOR_DIVIDE = 0,
	VECTOR_INVALID_OPCODE = 6,
	VECTOR_DOUBLE_FAULT = 8,
	VECTOR_STACK = 12,
	VECTOR_PROTECTION = 13,
	VECTOR_PAGE = 14,
	VECTOR_ALIGNMENT = 17,
};

#define PAGE_PRESENT 1u
#define PAGE_WRITE   2u
#define PAGE_EXECUTE 16u

/* How far from the stack pointer an access to an absent page still is the stack's overflow. */
#define STACK_REACH 4096u

static uio_trap_hook port_hook;

static enum uio_trap_kind page_kind(const struct frame *f, uint64_t address)
{
	if (f->error & PAGE_EXECUTE)
		return UIO_TRAP_EXECUTE;
	if (!(f->error & PAGE_PRESENT) && address >= PAGE_SIZE &&
	    address - f->rsp + STACK_REACH < 2 * STACK_REACH)
		return UIO_TRAP_STACK;
	return f->error & PAGE_WRITE ? UIO_TRAP_WRITE : UIO_TRAP_READ;
}

static enum uio_trap_kind kind_of(const struct frame *f, uint64_t address)
{
	switch (f->vector) {
	case VECTOR_DIVIDE:
		return UIO_TRAP_DIVIDE;
	case VECTOR_INVALID_OPCODE:
		return UIO_TRAP_INVALID_OPCODE;
	case VECTOR_DOUBLE_FAULT:
	case VECTOR_STACK:
		return UIO_TRAP_STACK;
	case VECTOR_PROTECTION:
		return UIO_TRAP_PROTECTION;
	case VECTOR_PAGE:
		return page_kind(f, address);
	case VECTOR_ALIGNMENT:
		return UIO_TRAP_ALIGNMENT;
	default:
		return UIO_TRAP_OTHER;
	}
}

static bool hook(struct frame *f, uint64_t address)
{
	struct uio_trap trap = {
		.kind = kind_of(f, address),
		.vector = (unsigned int)f->vector,
		.error_code = f->error,
		.address = address,
		.ip = f->rip,
		.sp = f->rsp,
		.flags = f->rflags,
		.regs = {f->rax, f->rbx, f->rcx, f->rdx, f->rsi, f->rdi, f->rbp, f->r8, f->r9,
			 f->r10, f->r11, f->r12, f->r13, f->r14, f->r15},
	};

	if (!port_hook(&trap))
		return false;
	f->rip = trap.ip;
	f->rsp = trap.sp;
	f->rflags = trap.flags;
	f->rax = trap.regs[0];
	f->rbx = trap.regs[1];
	f->rcx = trap.regs[2];
	f->rdx = trap.regs[3];
	f->rsi = trap.regs[4];
	f->rdi = trap.regs[5];
	f->rbp = trap.regs[6];
	f->r8 = trap.regs[7];
	f->r9 = trap.regs[8];
	f->r10 = trap.regs[9];
	f->r11 = trap.regs[10];
	f->r12 = trap.regs[11];
	f->r13 = trap.regs[12];
	f->r14 = trap.regs[13];
	f->r15 = trap.regs[14];
	return true;
}

void uio_port_trap_hook(uio_trap_hook function)
{
	port_hook = function;
	trap_set_hook(function ? hook : NULL);
}
