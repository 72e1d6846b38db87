/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Protection keys for the core's domain. Nothing of them is switched on before
 * the first pages are given a key, that is when the first overlay is loaded.
 * Then everything that can be written becomes the kernel's (sweep.c), and
 * interrupts come over entry.S.
 *
 * PKRU is 0 wherever threads are switched: whoever leaves an overlay has raised
 * it, gates as well as interrupts, which keep it in their frame. So it is no
 * part of the threads' extended state (XCR0). It must not be: the state would
 * grow to 2.6 KiB, and Unikraft has room for 832 bytes on the stack of system
 * calls that keep it (clone(); UKARCH_ECTX_SIZE).
 *
 * What is mapped later is covered at that moment: all of Unikraft maps pages
 * with two functions, which the linker leads over here (--wrap). Also in page
 * faults, so no vector registers.
 */
#include <errno.h>
#include <uk/plat/lcpu.h>
#include <uk/plat/paging.h>

#include "keys.h"

#define KEYS            16u
#define CPUID_7_ECX_PKU (1u << 3)
#define CR4_SMEP        (1ul << 20)
#define CR4_SMAP        (1ul << 21)
#define CR4_PKE         (1ul << 22)

bool uio_keys_on;

int __real_ukplat_page_mapx(struct uk_pagetable *pt, __vaddr_t va, __paddr_t pa,
			    unsigned long pages, unsigned long attr, unsigned long flags,
			    struct ukplat_page_mapx *mapx);
int __wrap_ukplat_page_mapx(struct uk_pagetable *pt, __vaddr_t va, __paddr_t pa,
			    unsigned long pages, unsigned long attr, unsigned long flags,
			    struct ukplat_page_mapx *mapx);
int __real_ukplat_page_set_attr(struct uk_pagetable *pt, __vaddr_t va, unsigned long pages,
				unsigned long attr, unsigned long flags);
int __wrap_ukplat_page_set_attr(struct uk_pagetable *pt, __vaddr_t va, unsigned long pages,
				unsigned long attr, unsigned long flags);

static unsigned long wrapped; /* calls that came over here */

static void cover(const struct uk_pagetable *pt, __vaddr_t va, unsigned long pages,
		  unsigned long flags)
{
	wrapped++;
	if (!uio_keys_on || pt != ukplat_pt_get_active())
		return;
	if (va == __VADDR_ANY)
		uio_sweep_all();
	else
		uio_sweep_range(va, pages * PAGE_Lx_SIZE(PAGE_FLAG_SIZE_TO_LEVEL(flags)));
}

int __wrap_ukplat_page_mapx(struct uk_pagetable *pt, __vaddr_t va, __paddr_t pa,
			    unsigned long pages, unsigned long attr, unsigned long flags,
			    struct ukplat_page_mapx *mapx)
{
	int rc = __real_ukplat_page_mapx(pt, va, pa, pages, attr, flags, mapx);

	cover(pt, va, pages, flags); /* a failure may come half way */
	return rc;
}

int __wrap_ukplat_page_set_attr(struct uk_pagetable *pt, __vaddr_t va, unsigned long pages,
				unsigned long attr, unsigned long flags)
{
	int rc = __real_ukplat_page_set_attr(pt, va, pages, attr, flags);

	cover(pt, va, pages, flags);
	return rc;
}

static unsigned long read_cr4(void)
{
	unsigned long cr4;

	__asm__ __volatile__("mov %%cr4, %0" : "=r"(cr4));
	return cr4;
}

unsigned int uio_port_keys(void)
{
	__u32 eax, ebx, ecx, edx;

	ukarch_x86_cpuid(0, 0, &eax, &ebx, &ecx, &edx);
	if (eax < 7)
		return 0;
	ukarch_x86_cpuid(7, 0, &eax, &ebx, &ecx, &edx);
	/* Ring 0 has to be able to use pages with the user bit; descriptor tables are one CPU's. */
	if (!(ecx & CPUID_7_ECX_PKU) || read_cr4() & (CR4_SMEP | CR4_SMAP) ||
	    ukplat_lcpu_count() != 1)
		return 0;
	return KEYS;
}

static int switch_on(void)
{
	unsigned long before = wrapped, flags;
	int rc;

	rc = uio_descriptors_make();
	if (rc != 0)
		return rc;
	if (wrapped == before)
		return -ENOTSUP; /* the linker did not do as it was told: pages would escape */
	flags = ukplat_lcpu_save_irqf();
	__asm__ __volatile__("mov %0, %%cr4" : : "r"(read_cr4() | CR4_PKE) : "memory");
	__asm__ __volatile__("wrpkru" : : "a"(0), "c"(0), "d"(0) : "memory");
	uio_sweep_all();
	uio_descriptors_use();
	uio_keys_on = true;
	uio_memory_own_keys();
	ukplat_lcpu_restore_irqf(flags);
	return 0;
}

int uio_port_tag(uintptr_t va, size_t pages, unsigned int key)
{
	int rc = 0;

	if (!uio_memory_is_arena(va, pages) || key >= KEYS)
		return -EINVAL;
	if (!uio_port_keys())
		return -ENOTSUP;
	if (!uio_keys_on)
		rc = switch_on();
	return rc != 0 ? rc : uio_sweep_tag(va, pages, key);
}
