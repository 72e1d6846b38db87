/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What happens on exceptions (the hook, else a report and the end) and interrupts (the handler of
 * the vector, then perhaps preemption: sched.c decides).
 */
#include "trap.h"

#include <string.h>

#include "boot.h"
#include "lapic.h"
#include "memory.h"
#include "power.h"
#include "print.h"
#include "sched.h"

#define VECTOR_DEBUG        1
#define VECTOR_BREAKPOINT   3
#define FIRST_DEVICE_VECTOR 64
#define SPURIOUS_VECTOR     255

static const char *const names[32] = {
	[0] = "divide error",
	[1] = "debug",
	[2] = "non-maskable interrupt",
	[3] = "breakpoint",
	[4] = "overflow",
	[5] = "bound range",
	[6] = "invalid opcode",
	[7] = "device not available",
	[8] = "double fault",
	[10] = "invalid TSS",
	[11] = "segment not present",
	[12] = "stack fault",
	[13] = "general protection fault",
	[14] = "page fault",
	[16] = "x87 error",
	[17] = "alignment check",
	[18] = "machine check",
	[19] = "SIMD error",
	[21] = "control protection",
};

static trap_hook hook;
static unsigned int trap_depth;
bool in_interrupt;
uint64_t interrupt_count;

static struct {
	void (*handler)(void *);
	void *arg;
} handlers[256];

void trap_set_hook(trap_hook function)
{
	hook = function;
}

static void backtrace(const struct frame *frame)
{
	uint64_t rbp = frame->rbp;

	kprintf("backtrace: %lx", frame->rip);
	for (int depth = 0; depth < 24 && rbp % 8 == 0; depth++) {
		const uint64_t *link = (const uint64_t *)rbp;

		if (!page_is_present(rbp) || !page_is_present(rbp + 8))
			break;
		if (link[1] < (uintptr_t)__text_start || link[1] >= ARENA_END)
			break;
		kprintf(" %lx", link[1]);
		if (link[0] <= rbp)
			break;
		rbp = link[0];
	}
	kprintf("\n");
}

static void dump(const struct frame *f, uint64_t address)
{
	const char *name = f->vector < 32 && names[f->vector] ? names[f->vector] : "exception";
	const struct thread *t = current;

	kprintf("\nrefguest: %s (vector %lu, error %lx) in thread %u \"%s\"", name, f->vector,
		f->error, t ? t->id : 0, t ? t->name : "boot");
	if (f->vector == 14)
		kprintf(": cannot %s address %lx",
			f->error & 16  ? "execute"
			: f->error & 2 ? "write"
				       : "read",
			address);
	kprintf("\nrip %016lx  rsp %016lx  flags %lx  pkru %lx\n", f->rip, f->rsp, f->rflags,
		f->pkru);
	kprintf("rax %016lx  rbx %016lx  rcx %016lx  rdx %016lx\n", f->rax, f->rbx, f->rcx, f->rdx);
	kprintf("rsi %016lx  rdi %016lx  rbp %016lx  r8  %016lx\n", f->rsi, f->rdi, f->rbp, f->r8);
	kprintf("r9  %016lx  r10 %016lx  r11 %016lx  r12 %016lx\n", f->r9, f->r10, f->r11, f->r12);
	kprintf("r13 %016lx  r14 %016lx  r15 %016lx  cr3 %016lx\n", f->r13, f->r14, f->r15,
		read_cr3());
	backtrace(f);
}

void trap_dispatch(struct frame *frame)
{
	uint64_t address = frame->vector == 14 ? read_cr2() : 0;

	if (trap_depth++) {
		if (trap_depth == 2)
			dump(frame, address);
		kprintf("refguest: panic: exception while handling an exception\n");
		power_panic();
	}
	if (hook && !in_interrupt) {
		/* The hook is not bound to leave vector registers alone. */
		static uint8_t area[8192] __attribute__((aligned(64)));
		bool redirected;

		cpu_xstate_save(area);
		redirected = hook(frame, address);
		cpu_xstate_restore(area);
		if (redirected) {
			trap_depth--;
			/* After a fault the thread goes on elsewhere, with all rights; after a
			 * breakpoint it only goes on. */
			if (frame->vector != VECTOR_DEBUG && frame->vector != VECTOR_BREAKPOINT) {
				frame->pkru = 0;
				frame->rflags |= RFLAGS_IF;
				frame->rflags &= ~(uint64_t)(RFLAGS_DF | RFLAGS_TF);
			}
			return;
		}
	}
	dump(frame, address);
	panic("unhandled exception; the machine ends here");
}

void interrupt_set(unsigned int vector, void (*handler)(void *), void *arg)
{
	handlers[vector].arg = arg;
	handlers[vector].handler = handler;
}

unsigned int interrupt_alloc(void (*handler)(void *), void *arg)
{
	for (unsigned int vector = FIRST_DEVICE_VECTOR; vector < SPURIOUS_VECTOR; vector++) {
		if (!handlers[vector].handler) {
			interrupt_set(vector, handler, arg);
			return vector;
		}
	}
	return 0;
}

/** Gives the frame to go on with: the same, or a copy on the thread's kernel stack if it is to be
 * preempted. */
struct frame *interrupt_dispatch(struct frame *frame)
{
	unsigned int vector = (unsigned int)frame->vector;
	struct frame *copy;

	if (vector == SPURIOUS_VECTOR)
		return frame;
	interrupt_count++;
	in_interrupt = true;
	if (handlers[vector].handler)
		handlers[vector].handler(handlers[vector].arg);
	else
		kprintf("refguest: interrupt %u without a handler\n", vector);
	in_interrupt = false;
	lapic_eoi();
	if (!sched_wants_preemption(frame))
		return frame;
	copy = (struct frame *)current->kernel_stack_top - 1;
	memcpy(copy, frame, sizeof(*copy));
	return copy;
}
