/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Descriptor tables with one IST stack per kind of entry, the system-call MSRs, and the extended
 * state of threads, whose size and parts (AVX, AVX-512, PKRU) come from CPUID. PKU is switched on
 * where the CPU has it; nothing uses it by itself.
 */
#include "cpu.h"
#include "print.h"

#include <string.h>

#define MSR_STAR    0xc0000081
#define MSR_LSTAR   0xc0000082
#define MSR_SFMASK  0xc0000084
#define MSR_FS_BASE 0xc0000100

#define CR4_FSGSBASE (1u << 16)
#define CR4_OSXSAVE  (1u << 18)
#define CR4_PKE      (1u << 22)

/* x87, SSE, AVX, AVX-512 (three parts), PKRU */
#define XCR0_WANTED 0x2e7u
#define XCR0_PKRU   0x200u

#define IST_SIZE 16384

enum ist { IST_INTERRUPT = 1, IST_TRAP, IST_DOUBLE_FAULT, IST_NMI, IST_COUNT = IST_NMI };

struct tss {
	uint32_t reserved0;
	uint64_t rsp[3];
	uint64_t reserved1;
	uint64_t ist[7];
	uint64_t reserved2;
	uint16_t reserved3, iomap;
} __attribute__((packed));

struct gate {
	uint16_t offset_low, selector;
	uint8_t ist, type;
	uint16_t offset_middle;
	uint32_t offset_high, reserved;
};
_Static_assert(sizeof(struct gate) == 16, "IDT");

struct table_register {
	uint16_t limit;
	uint64_t base;
} __attribute__((packed));

CPU_TABLE bool cpu_has_pku;
uint64_t syscall_stack;
uint64_t syscall_rsp;
CPU_TABLE static uint64_t gdt[5];
CPU_TABLE static struct tss tss;
CPU_TABLE static struct gate idt[256];
CPU_STACK static uint8_t ist_stacks[IST_COUNT][IST_SIZE] __attribute__((aligned(4096)));

size_t cpu_xstate_size = 512;
static uint64_t xcr0;
static bool has_fsgsbase;

extern const uint8_t vector_stubs[], syscall_entry[];

static void set_gate(unsigned int vector, enum ist ist)
{
	uint64_t address = (uint64_t)(vector_stubs + 16 * vector);

	idt[vector] = (struct gate){
		.offset_low = (uint16_t)address,
		.selector = 8,
		.ist = ist,
		.type = 0x8e,
		.offset_middle = (uint16_t)(address >> 16),
		.offset_high = (uint32_t)(address >> 32),
	};
}

static void tables_init(void)
{
	uint64_t base = (uint64_t)&tss;
	struct table_register reg;

	for (unsigned int i = 0; i < IST_COUNT; i++)
		tss.ist[i] = (uint64_t)(ist_stacks[i] + IST_SIZE);
	tss.iomap = sizeof(tss);

	gdt[1] = 0x00af9b000000ffff;
	gdt[2] = 0x00cf93000000ffff;
	gdt[3] = (sizeof(tss) - 1) | (base & 0xffffff) << 16 | 0x89ull << 40 |
		 (base >> 24 & 0xff) << 56;
	gdt[4] = base >> 32;
	reg = (struct table_register){sizeof(gdt) - 1, (uint64_t)gdt};
	__asm__ volatile("lgdt %0; ltr %w1" : : "m"(reg), "r"(24) : "memory");

	for (unsigned int i = 0; i < 256; i++)
		set_gate(i, i < 32 ? IST_TRAP : IST_INTERRUPT);
	set_gate(2, IST_NMI);
	set_gate(8, IST_DOUBLE_FAULT);
	set_gate(18, IST_DOUBLE_FAULT);
	reg = (struct table_register){sizeof(idt) - 1, (uint64_t)idt};
	__asm__ volatile("lidt %0" : : "m"(reg));
}

static void xstate_setup(void)
{
	uint32_t r[4];
	uint64_t supported;

	cpuid(1, 0, r);
	if (!(r[2] & 1u << 26))
		return;
	write_cr4(read_cr4() | CR4_OSXSAVE);
	cpuid(0xd, 0, r);
	supported = r[0] | (uint64_t)r[3] << 32;
	xcr0 = supported & XCR0_WANTED;
	__asm__ volatile("xsetbv" : : "c"(0), "a"((uint32_t)xcr0), "d"(xcr0 >> 32));
	cpuid(0xd, 0, r);
	cpu_xstate_size = r[1];
}

void cpu_init(void)
{
	uint32_t r[4];

	tables_init();
	xstate_setup();

	cpuid(0, 0, r);
	if (r[0] >= 7) {
		cpuid(7, 0, r);
		if (r[1] & 1) {
			write_cr4(read_cr4() | CR4_FSGSBASE);
			has_fsgsbase = true;
		}
		/* Only where XSAVE keeps PKRU per thread. */
		if (r[2] & 1u << 3 && xcr0 & XCR0_PKRU) {
			write_cr4(read_cr4() | CR4_PKE);
			cpu_has_pku = true;
			__asm__ volatile("wrpkru" : : "a"(0), "c"(0), "d"(0));
		}
	}

	/* syscall loads CS from STAR[47:32] and SS from the next: both are ring 0's. */
	wrmsr(MSR_STAR, (uint64_t)8 << 32);
	wrmsr(MSR_LSTAR, (uint64_t)syscall_entry);
	wrmsr(MSR_SFMASK, RFLAGS_IF | RFLAGS_DF | RFLAGS_TF | RFLAGS_AC);
}

void cpu_xstate_init(void *area)
{
	memset(area, 0, cpu_xstate_size);
	((uint16_t *)area)[0] = 0x37f;  /* FCW */
	((uint32_t *)area)[6] = 0x1f80; /* MXCSR */
}

void cpu_xstate_save(void *area)
{
	if (xcr0)
		__asm__ volatile("xsave64 (%0)" : : "r"(area), "a"(-1), "d"(-1) : "memory");
	else
		__asm__ volatile("fxsave64 (%0)" : : "r"(area) : "memory");
}

void cpu_xstate_restore(const void *area)
{
	if (xcr0)
		__asm__ volatile("xrstor64 (%0)" : : "r"(area), "a"(-1), "d"(-1) : "memory");
	else
		__asm__ volatile("fxrstor64 (%0)" : : "r"(area) : "memory");
}

void cpu_set_fs(uint64_t base)
{
	if (has_fsgsbase)
		__asm__ volatile("wrfsbase %0" : : "r"(base));
	else
		wrmsr(MSR_FS_BASE, base);
}

struct frame *cpu_interrupt_frame(void)
{
	return (struct frame *)(ist_stacks[IST_INTERRUPT - 1] + IST_SIZE) - 1;
}
