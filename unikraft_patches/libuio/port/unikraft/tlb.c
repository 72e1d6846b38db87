/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * QEMU's emulation keeps translations of addresses in a table whose size it
 * chooses anew at each flush, by how full the table was (at least 100 ms after
 * the last choice it shrinks what is less than 30 % full), and at no other
 * time. Unikraft flushes nothing while it runs, libuio does: pages of commands
 * come and go, and each WRPKRU is a flush to QEMU. An overlay on an otherwise
 * idle machine would so leave the application with a table for a few dozen
 * pages, for good: nginx lost an eighth to a third of its speed.
 *
 * So as soon as nothing of uIO runs, the table is made full and flushed until it
 * has a good size again. On real CPUs, under KVM, nothing of this is done.
 */
#include <uk/plat/common/sections.h>
#include <uk/plat/paging.h>

#include "unikraft.h"

/* What fills more than 70 % of a table doubles it: from its smallest size, 64, to 1024. */
#define FEWEST 64u
#define MOST   512u

/* Within 100 ms of the last time nothing has shrunk; the guest's clock may be slow. */
#define AGAIN_NS 20000000u

#define CPUID_HYPERVISOR 0x40000000u

static const volatile char *pages; /* MOST of them, side by side; NULL: there is a real CPU */
static bool flushed;
static uint64_t settled_ns;

static bool is_emulated(void)
{
	__u32 eax, b, c, d;

	ukarch_x86_cpuid(CPUID_HYPERVISOR, 0, &eax, &b, &c, &d);
	return b == 0x54474354 && c == 0x43544743 && d == 0x47435447; /* "TCGTCGTCGTCG" */
}

void uio_tlb_init(void)
{
	uintptr_t va;

	if (!is_emulated())
		return;
	/* The memory from the kernel on, as the direct map shows it. */
	va = (uintptr_t)ukplat_page_kmap(ukplat_pt_get_active(), __BASE_ADDR, MOST, 0);
	for (unsigned int i = 0; i < MOST; i++)
		if (!uio_port_readable(va + i * UIO_PAGE_SIZE))
			return;
	pages = (const volatile char *)va;
}

void uio_tlb_flushed(void)
{
	flushed = true;
}

void uio_port_rest(void)
{
	uint64_t now;

	if (!pages || !flushed)
		return;
	now = uio_port_ns();
	if (settled_ns && now - settled_ns < AGAIN_NS)
		return;
	flushed = false;
	settled_ns = now;
	for (unsigned int n = FEWEST; n <= MOST; n *= 2) {
		for (unsigned int i = 0; i < n; i++)
			(void)pages[i * UIO_PAGE_SIZE];
		ukarch_tlb_flush();
	}
}
