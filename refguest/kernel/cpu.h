/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The processor: special instructions, descriptor tables, the saved state of interrupted code,
 * extended (FPU) state.
 */
#ifndef REFGUEST_CPU_H
#define REFGUEST_CPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* In pages that no protection key covers (link.ld): constant from paging_init() on; stacks. */
#define CPU_TABLE __attribute__((section(".cpu.tables,\"aw\",@nobits#")))
#define CPU_STACK __attribute__((section(".cpu.stacks,\"aw\",@nobits#")))

#define FRAME_SYSCALL 0x100 /* leave by the short way */
#define FRAME_FULL    0x101 /* all registers count: leave by iretq */

#define RFLAGS_IF 0x200u
#define RFLAGS_DF 0x400u
#define RFLAGS_TF 0x100u
#define RFLAGS_AC 0x40000u

/** What entry.S saves of interrupted code; layout known there. */
struct frame {
	uint64_t pkru;
	uint64_t r15, r14, r13, r12, r11, r10, r9, r8;
	uint64_t rbp, rdi, rsi, rdx, rcx, rbx, rax;
	uint64_t vector, error; /* of a system call: its number */
	uint64_t rip, cs, rflags, rsp, ss;
};
_Static_assert(offsetof(struct frame, vector) == 128, "entry.S");
_Static_assert(offsetof(struct frame, rip) == 144, "entry.S");

extern bool cpu_has_pku;       /* CR4.PKE is on */
extern uint64_t syscall_stack; /* where syscall_entry goes */
extern size_t cpu_xstate_size; /* of one thread's extended state */

void cpu_init(void);
/** Extended state as the CPU has it after reset, PKRU open. */
void cpu_xstate_init(void *area);
void cpu_xstate_save(void *area);
void cpu_xstate_restore(const void *area);
void cpu_set_fs(uint64_t base);
/** Where interrupt frames are laid down: used to leave preemption. */
struct frame *cpu_interrupt_frame(void);

static inline void outb(uint16_t port, uint8_t value)
{
	__asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline void outw(uint16_t port, uint16_t value)
{
	__asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port));
}

static inline void outl(uint16_t port, uint32_t value)
{
	__asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}

static inline uint8_t inb(uint16_t port)
{
	uint8_t value;

	__asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static inline uint16_t inw(uint16_t port)
{
	uint16_t value;

	__asm__ volatile("inw %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static inline uint32_t inl(uint16_t port)
{
	uint32_t value;

	__asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static inline void wrmsr(uint32_t msr, uint64_t value)
{
	__asm__ volatile("wrmsr" : : "c"(msr), "a"((uint32_t)value), "d"(value >> 32) : "memory");
}

static inline uint64_t rdmsr(uint32_t msr)
{
	uint32_t low, high;

	__asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
	return low | (uint64_t)high << 32;
}

static inline uint64_t rdtsc(void)
{
	uint32_t low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high) : : "memory");
	return low | (uint64_t)high << 32;
}

static inline void cpuid(uint32_t leaf, uint32_t sub, uint32_t out[4])
{
	__asm__ volatile("cpuid"
			 : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3])
			 : "a"(leaf), "c"(sub));
}

static inline uint64_t read_cr2(void)
{
	uint64_t value;

	__asm__ volatile("movq %%cr2, %0" : "=r"(value));
	return value;
}

static inline uint64_t read_cr3(void)
{
	uint64_t value;

	__asm__ volatile("movq %%cr3, %0" : "=r"(value));
	return value;
}

static inline void write_cr3(uint64_t value)
{
	__asm__ volatile("movq %0, %%cr3" : : "r"(value) : "memory");
}

static inline uint64_t read_cr4(void)
{
	uint64_t value;

	__asm__ volatile("movq %%cr4, %0" : "=r"(value));
	return value;
}

static inline void write_cr4(uint64_t value)
{
	__asm__ volatile("movq %0, %%cr4" : : "r"(value) : "memory");
}

static inline uint32_t cpu_get_pkru(void)
{
	uint32_t value = 0, high;

	if (cpu_has_pku)
		__asm__ volatile("rdpkru" : "=a"(value), "=d"(high) : "c"(0));
	return value;
}

static inline void cpu_set_pkru(uint32_t value)
{
	if (cpu_has_pku)
		__asm__ volatile("wrpkru" : : "a"(value), "c"(0), "d"(0) : "memory");
}

static inline void invlpg(uintptr_t va)
{
	__asm__ volatile("invlpg (%0)" : : "r"(va) : "memory");
}

/** Interrupts off; gives what irq_restore() needs. */
static inline uint64_t irq_save(void)
{
	uint64_t flags;

	__asm__ volatile("pushfq; popq %0; cli" : "=r"(flags) : : "memory");
	return flags;
}

static inline void irq_restore(uint64_t flags)
{
	if (flags & RFLAGS_IF)
		__asm__ volatile("sti" : : : "memory");
}

#endif
