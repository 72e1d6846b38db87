/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Protection keys in the page tables. They matter for pages with the user bit
 * at all levels only, which Unikraft never sets; ring 3 does not exist here, so
 * setting it changes nothing else. All levels get it where a leaf has; what is
 * read-only stays without, readable and executable for everybody.
 *
 * Also called in page faults: no vector registers here.
 */
#include <errno.h>
#include <uk/plat/paging.h>

#include "keys.h"

#define KEY_SHIFT 59
#define KEYED(n)  (X86_PTE_US | (__pte_t)(n) << KEY_SHIFT)
#define CR4_PGE   (1ul << 7)
#define TOP       (PT_LEVELS - 1)

static __pte_t *table_at(__paddr_t frame)
{
	return (__pte_t *)ukplat_page_kmap(ukplat_pt_get_active(), frame, 1, 0);
}

static __pte_t *root(void)
{
	return (__pte_t *)ukplat_pt_get_active()->pt_vbase;
}

static bool is_leaf(__pte_t pte, unsigned int level)
{
	return PAGE_Lx_HAS(level) && PAGE_Lx_IS(pte, level);
}

/* The CPU sets bits of its own there at any time. */
static void add(__pte_t *entry, __pte_t bits)
{
	__atomic_fetch_or(entry, bits, __ATOMIC_RELAXED);
}

/** A leaf that has the user bit has its key already. */
static bool cover(__pte_t *leaf)
{
	if (!(*leaf & X86_PTE_RW) || *leaf & X86_PTE_US)
		return false;
	*leaf &= ~X86_PTE_MPK_MASK;
	add(leaf, KEYED(UIO_KEY_KERNEL));
	return true;
}

static void cover_table(__pte_t *table, unsigned int level)
{
	for (unsigned int i = 0; i < PT_Lx_PTES(level); i++) {
		__pte_t pte = table[i];

		if (!PT_Lx_PTE_PRESENT(pte, level))
			continue;
		if (is_leaf(pte, level)) {
			cover(&table[i]);
		} else {
			add(&table[i], X86_PTE_US);
			cover_table(table_at(PT_Lx_PTE_PADDR(pte, level)), level - 1);
		}
	}
}

static void flush_all(void)
{
	unsigned long cr4;

	__asm__ __volatile__("mov %%cr4, %0" : "=r"(cr4));
	if (cr4 & CR4_PGE) {
		/* Of global pages, too. */
		__asm__ __volatile__("mov %0, %%cr4" : : "r"(cr4 & ~CR4_PGE));
		__asm__ __volatile__("mov %0, %%cr4" : : "r"(cr4));
	}
	ukarch_tlb_flush();
	uio_tlb_flushed();
}

void uio_sweep_all(void)
{
	cover_table(root(), TOP);
	flush_all();
}

/** The leaf of an address, with the user bit at all levels above; its level. NULL: none. */
static __pte_t *leaf_of(uintptr_t va, unsigned int *level)
{
	__pte_t *table = root();

	for (*level = TOP;; --*level) {
		__pte_t *entry = &table[PT_Lx_IDX(va, *level)];
		__pte_t pte = *entry;

		if (!PT_Lx_PTE_PRESENT(pte, *level))
			return NULL;
		if (is_leaf(pte, *level))
			return entry;
		if (!(pte & X86_PTE_US))
			add(entry, X86_PTE_US);
		table = table_at(PT_Lx_PTE_PADDR(pte, *level));
	}
}

void uio_sweep_range(uintptr_t va, size_t bytes)
{
	uintptr_t last = va + bytes - 1, next;

	for (; bytes && va <= last; va = next) {
		unsigned int level;
		__pte_t *leaf = leaf_of(va, &level);

		if (leaf && cover(leaf))
			ukarch_tlb_flush_entry(va);
		next = (va | (PAGE_Lx_SIZE(level) - 1)) + 1;
		if (next < va)
			return; /* the end of all addresses */
	}
}

/** Does it for all pages, or none. */
static int set(uintptr_t va, size_t pages, __pte_t bits)
{
	unsigned int level;

	uio_tlb_flushed();
	for (size_t i = 0; i < pages; i++)
		if (!leaf_of(va + i * UIO_PAGE_SIZE, &level) || level != PAGE_LEVEL)
			return -EINVAL;
	for (size_t i = 0; i < pages; i++) {
		__pte_t *leaf = leaf_of(va + i * UIO_PAGE_SIZE, &level);

		*leaf = (*leaf & ~(X86_PTE_US | X86_PTE_MPK_MASK)) | bits;
		ukarch_tlb_flush_entry(va + i * UIO_PAGE_SIZE);
	}
	return 0;
}

int uio_sweep_tag(uintptr_t va, size_t pages, unsigned int key)
{
	return set(va, pages, KEYED(key));
}

void uio_sweep_untag(uintptr_t va, size_t pages)
{
	set(va, pages, 0);
}
