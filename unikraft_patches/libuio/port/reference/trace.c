/* SPDX-License-Identifier: BSD-3-Clause */
/* What attaching programs to functions needs: writing into the text, and keeping the CPU. */
#include <errno.h>
#include <string.h>

#include <uio/port.h>

#include "boot.h"
#include "cpu.h"
#include "memory.h"
#include "sched.h"

#define CR0_WP 0x10000ul

volatile uint32_t uio_port_hold; /* sched.c looks at it */

unsigned int uio_port_thread_id(void)
{
	return current->id;
}

/* With CR0.WP off the kernel writes to read-only pages; no page ever is writable and executable,
 * and writing CR0 makes the CPU forget what it has fetched. */
int uio_port_text_write(uintptr_t va, const void *bytes, size_t len)
{
	uint64_t flags, cr0;

	if (va < (uintptr_t)__text_start || va >= (uintptr_t)__text_end || !len || len > 8 ||
	    len > (uintptr_t)__text_end - va)
		return -EINVAL;
	flags = irq_save();
	__asm__ volatile("movq %%cr0, %0" : "=r"(cr0));
	__asm__ volatile("movq %0, %%cr0" : : "r"(cr0 & ~CR0_WP) : "memory");
	memcpy((void *)va, bytes, len);
	__asm__ volatile("movq %0, %%cr0" : : "r"(cr0 | CR0_WP) : "memory");
	irq_restore(flags);
	return 0;
}
