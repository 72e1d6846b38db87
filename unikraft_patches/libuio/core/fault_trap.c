/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The trap hook: a CPU exception in a thread that is inside an overlay ends
 * that overlay. Runs in trap context with interrupts off, so this file uses
 * nothing but integer registers and its own memory (list it as |isr).
 */

#include "overlay_impl.h"
#include "probe.h"

enum { TRAP_NMI = 2, TRAP_MACHINE_CHECK = 18 };
enum { REG_RAX = 0, REG_RSI = 4, REG_RDI = 5, REG_RBP = 6 };
#define PAGE_KEY       0x20ull /* of a page fault: a protection key forbade it */
#define STACK_STEP_MAX (256ull << 20)
#define FLAGS_UNWANTED 0x44500ull /* AC, NT, DF, TF */

struct uio_run *uio_runs;

struct uio_run *uio_run_self(void)
{
	struct uio_thread *self = uio_port_thread_self();

	for (struct uio_run *run = uio_runs; run; run = run->border.next)
		if (run->thread == self)
			return run;
	return NULL;
}

uintptr_t uio_overlay_kernel_sp(void)
{
	const struct uio_run *run = uio_run_self();

	return run && run->active && run->border.pkru ? run->border.kernel_sp : 0;
}

static bool in_stack(const struct uio_run *run, uint64_t address, uint64_t size)
{
	return address % 8 == 0 &&
	       ((address >= run->border.stack_low && address < run->stack_high &&
		 run->stack_high - address >= size) ||
		(address >= run->kernel_stack_low && address < run->kernel_stack_top &&
		 run->kernel_stack_top - address >= size));
}

static uint64_t word_at(uint64_t address)
{
	return *(const volatile uint64_t *)(uintptr_t)address;
}

static bool is_text(const struct uio_run *run, uint64_t ip)
{
	struct uio_image image;

	if (uio_resident_has(run->resident, ip, UIO_PROT_EXEC))
		return true;
	uio_port_image(&image);
	return ip >= image.text_start && ip < image.text_end;
}

void uio_run_backtrace(const struct uio_run *run, struct uio_fault *fault)
{
	uint64_t frame = fault->trap.regs[REG_RBP];
	uint32_t n = 0;

	/* A jump into nowhere, or a function without a frame: who called is on top of the stack. */
	if (in_stack(run, fault->trap.sp, 8)) {
		uint64_t top = word_at(fault->trap.sp);

		if (!is_text(run, fault->trap.ip) ||
		    uio_resident_has(run->resident, top, UIO_PROT_EXEC))
			fault->backtrace[n++] = top;
	}
	while (n < UIO_FAULT_DEPTH && in_stack(run, frame, 16)) {
		uint64_t outer = word_at(frame), back = word_at(frame + 8);

		if (!outer)
			break; /* entered from libuio */
		fault->backtrace[n++] = back;
		if (outer <= frame)
			break; /* frames go upwards only: no circles */
		frame = outer;
	}
	fault->depth = n;
}

static bool is_guard(uintptr_t low, uint64_t address)
{
	return address < low && low - address <= UIO_STACK_GUARD * UIO_PAGE_SIZE;
}

/* The guard was touched; or the stack pointer is below it all, after a step over the guard. */
static bool is_overflow(const struct uio_run *run, const struct uio_trap *trap)
{
	if (trap->kind != UIO_TRAP_READ && trap->kind != UIO_TRAP_WRITE)
		return false;
	if (is_guard(run->border.stack_low, trap->address) ||
	    (run->kernel_stack_low && is_guard(run->kernel_stack_low, trap->address)))
		return true;
	if (run->probing) /* with the overlay's rights, on the kernel's stack (gate.c) */
		return false;
	if (trap->sp >= run->border.stack_low || run->border.stack_low - trap->sp > STACK_STEP_MAX)
		return false;
	/* On the kernel's stack it may rightly be, but not with the overlay's rights. */
	return trap->error_code & PAGE_KEY || trap->sp < run->kernel_stack_low ||
	       trap->sp >= run->kernel_stack_top;
}

/*
 * The application still has a function of an overlay that is gone, and calls
 * it: nothing is there. It gets 0.
 */
static bool is_stale_call(struct uio_trap *trap)
{
	uintptr_t base;
	size_t size;

	uio_port_arena(&base, &size);
	if (trap->kind != UIO_TRAP_EXECUTE || trap->ip != trap->address ||
	    trap->ip - base >= size || uio_resident_at(trap->ip))
		return false;
	trap->ip = word_at(trap->sp);
	trap->sp += sizeof(uint64_t);
	trap->regs[REG_RAX] = 0;
	return true;
}

bool uio_run_trap(struct uio_trap *trap)
{
	struct uio_run *run = uio_run_self();
	uint64_t *to;
	const uint64_t *from = trap->regs;

	if (uio_probe_trap(trap))
		return true;
	if (trap->vector == TRAP_NMI || trap->vector == TRAP_MACHINE_CHECK)
		return false;
	if (!run || !run->active)
		return is_stale_call(trap);
	run->active = false; /* a second fault on the way out is the kernel's own */
	run->fault.trap.kind = trap->kind;
	run->fault.trap.vector = trap->vector;
	run->fault.trap.error_code = trap->error_code;
	run->fault.trap.address = trap->address;
	run->fault.trap.ip = trap->ip;
	run->fault.trap.sp = trap->sp;
	run->fault.trap.flags = trap->flags;
	to = run->fault.trap.regs;
	for (unsigned int i = 0; i < UIO_TRAP_NREGS; i++)
		to[i] = from[i];
	if (is_overflow(run, trap) || trap->ip == (uintptr_t)uio_border_bad)
		run->fault.trap.kind = UIO_TRAP_STACK;
	uio_run_backtrace(run, &run->fault);
	trap->ip = (uintptr_t)uio_run_unwind;
	trap->sp = run->border.saved_sp;
	trap->flags &= ~FLAGS_UNWANTED;
	trap->regs[REG_RDI] = (uintptr_t)run;
	trap->regs[REG_RSI] = UIO_RUN_FAULT;
	return true;
}
