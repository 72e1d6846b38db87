/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * CPU exceptions of the hosted port: signals, turned into port.h's traps, on
 * an alternate stack; what the hook decides is put into the interrupted
 * thread's registers.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <string.h>
#include <ucontext.h>

#include "hosted.h"

static uio_trap_hook trap_hook;

void uio_port_trap_hook(uio_trap_hook hook)
{
	trap_hook = hook;
}

/* In the order of port.h's regs. */
static const int registers[UIO_TRAP_NREGS] = {
	REG_RAX, REG_RBX, REG_RCX, REG_RDX, REG_RSI, REG_RDI, REG_RBP, REG_R8,
	REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15,
};

static enum uio_trap_kind kind_of(unsigned int vector, uint64_t error_code)
{
	switch (vector) {
	case 0:
		return UIO_TRAP_DIVIDE;
	case 6:
		return UIO_TRAP_INVALID_OPCODE;
	case 12:
		return UIO_TRAP_STACK;
	case 13:
		return UIO_TRAP_PROTECTION;
	case 14:
		return error_code & 16  ? UIO_TRAP_EXECUTE
		       : error_code & 2 ? UIO_TRAP_WRITE
					: UIO_TRAP_READ;
	case 17:
		return UIO_TRAP_ALIGNMENT;
	default:
		return UIO_TRAP_OTHER;
	}
}

static void handler(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	greg_t *regs = uc->uc_mcontext.gregs;
	struct uio_trap trap = {
		.vector = (unsigned int)regs[REG_TRAPNO],
		.error_code = (uint64_t)regs[REG_ERR],
		.address = (uint64_t)regs[REG_CR2],
		.ip = (uint64_t)regs[REG_RIP],
		.sp = (uint64_t)regs[REG_RSP],
		.flags = (uint64_t)regs[REG_EFL],
	};

	trap.kind = kind_of(trap.vector, trap.error_code);
	if (trap.vector != 14)
		trap.address = 0;
	for (int i = 0; i < UIO_TRAP_NREGS; i++)
		trap.regs[i] = (uint64_t)regs[registers[i]];

	/* si_code <= 0: a signal that somebody sent, not a trap. */
	if (info->si_code > 0 && trap_hook != NULL && trap_hook(&trap)) {
		regs[REG_RIP] = (greg_t)trap.ip;
		regs[REG_RSP] = (greg_t)trap.sp;
		for (int i = 0; i < UIO_TRAP_NREGS; i++)
			regs[registers[i]] = (greg_t)trap.regs[i];
		return;
	}
	/* Not an overlay's: die of it. */
	signal(sig, SIG_DFL);
	if (info->si_code <= 0)
		raise(sig);
}

void hosted_traps_init(void)
{
	static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP};
	struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK};

	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		sigaction(signals[i], &action, NULL);
}
