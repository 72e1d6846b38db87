/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Protection keys, switched on early if the CPU has them. Unikraft's own
 * option for them stops the boot on CPUs without; here they stay optional.
 * It must happen before the size of the threads' extended state is computed
 * (a constructor, after the early table), since XSAVE then keeps PKRU too.
 */
#include <uk/boot/earlytab.h>
#include <x86/cpu.h>

#include "unikraft.h"

#define CPUID_1_ECX_OSXSAVE (1u << 27)
#define CPUID_7_ECX_PKU     (1u << 3)
#define CPUID_D_EAX_PKRU    (1u << 9)
#define CR4_PKE             (1ul << 22)
#define XCR0_PKRU           (1u << 9)

static int enable_protection_keys(struct ukplat_bootinfo *bi __unused)
{
	__u32 eax, ebx, ecx, edx;
	unsigned long cr4;

	ukarch_x86_cpuid(1, 0, &eax, &ebx, &ecx, &edx);
	if (!(ecx & CPUID_1_ECX_OSXSAVE))
		return 0;
	ukarch_x86_cpuid(7, 0, &eax, &ebx, &ecx, &edx);
	if (!(ecx & CPUID_7_ECX_PKU))
		return 0;
	ukarch_x86_cpuid(0xd, 0, &eax, &ebx, &ecx, &edx);
	if (!(eax & CPUID_D_EAX_PKRU))
		return 0;

	__asm__ __volatile__("mov %%cr4, %0" : "=r"(cr4));
	__asm__ __volatile__("mov %0, %%cr4" : : "r"(cr4 | CR4_PKE));
	__asm__ __volatile__("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
	__asm__ __volatile__("xsetbv" : : "a"(eax | XCR0_PKRU), "d"(edx), "c"(0));
	return 0;
}
UK_BOOT_EARLYTAB_ENTRY(enable_protection_keys, UK_PRIO_LATEST);
