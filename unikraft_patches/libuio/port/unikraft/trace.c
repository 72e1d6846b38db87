/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What attaching programs to functions needs: writing into the text. Where
 * there is room in functions, entries.lds.S gathers; that nobody is preempted
 * meanwhile, preempt.c sees to.
 */
#include <errno.h>
#include <string.h>
#include <uk/plat/common/sections.h>
#include <uk/plat/lcpu.h>

#include "unikraft.h"

#define CR0_WP 0x10000ul

volatile uint32_t uio_port_hold; /* preempt.c looks at it */

/* apptext.lds.S */
extern const char uio_app_etext[];

/*
 * With CR0.WP off the kernel writes to read-only pages, wherever the page
 * tables come from (boot, ukvmem) and whatever key a page has; no page ever is
 * writable and executable. Writing CR0 makes the CPU forget what it has
 * fetched. There is one CPU.
 */
int uio_port_text_write(uintptr_t va, const void *bytes, size_t len)
{
	unsigned long flags, cr0;

	if (va < __TEXT || va >= (uintptr_t)uio_app_etext || !len || len > 8 ||
	    len > (uintptr_t)uio_app_etext - va)
		return -EINVAL;
	flags = ukplat_lcpu_save_irqf();
	__asm__ __volatile__("movq %%cr0, %0" : "=r"(cr0));
	__asm__ __volatile__("movq %0, %%cr0" : : "r"(cr0 & ~CR0_WP) : "memory");
	memcpy((void *)va, bytes, len);
	__asm__ __volatile__("movq %0, %%cr0" : : "r"(cr0) : "memory");
	ukplat_lcpu_restore_irqf(flags);
	return 0;
}
