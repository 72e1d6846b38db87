/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The way of interrupts from the PIC, which is what Unikraft uses, to the
 * CPU. It leads through a pin of the local APIC, and Unikraft expects that the
 * firmware has opened it ("virtual wire"). SeaBIOS does so on machines with
 * PCI; nobody does on QEMU's microvm under TCG, where without this no
 * interrupt would ever arrive, of the timer neither.
 */
#include <uk/asm/apic.h>
#include <uk/essentials.h>
#include <uk/init.h>
#include <uk/plat/paging.h>
#include <x86/cpu.h>

#define CPUID_EDX_APIC (1u << 9)

#define BASE_ADDRESS 0xfffff000u

#define REGISTER_SPURIOUS 0xf0u
#define REGISTER_LINT0    0x350u
#define LINT_MASKED       (1u << 16)
#define LINT_FROM_PIC     0x700u /* ExtINT */

static int open_pin(struct uk_init_ctx *ctx __unused)
{
	struct uk_pagetable *pt = ukplat_pt_get_active();
	uint32_t eax, ebx, ecx, edx;
	volatile uint32_t *spurious, *lint0;
	uintptr_t base;

	ukarch_x86_cpuid(1, 0, &eax, &ebx, &ecx, &edx);
	if (!(edx & CPUID_EDX_APIC))
		return 0;
	rdmsr(APIC_MSR_BASE, &eax, &edx);
	/* Switched off it lets the PIC through. Who has chosen x2APIC knows what he does. */
	if (!(eax & APIC_BASE_EN) || (eax & APIC_BASE_EXTD))
		return 0;
	base = ukplat_page_kmap(pt, eax & BASE_ADDRESS, 1, 0);
	if (base == __VADDR_INV)
		return 0;
	spurious = (volatile uint32_t *)(base + REGISTER_SPURIOUS);
	lint0 = (volatile uint32_t *)(base + REGISTER_LINT0);
	if (*lint0 & LINT_MASKED) {
		*spurious |= APIC_SVR_EN; /* or real ones do not unmask anything */
		*lint0 = LINT_FROM_PIC;
	}
	ukplat_page_kunmap(pt, base, 1, 0);
	return 0;
}
uk_early_initcall(open_pin, 0x0);
