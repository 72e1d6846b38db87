/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The arena: 256 MiB of addresses just below 2 GiB, in reach of 32-bit relocations, where overlays
 * are mapped frame by frame.
 */
#include <errno.h>
#include <string.h>

#include "cpu.h"
#include "memory.h"

bool page_flags(unsigned int prot, uint64_t *flags)
{
	if ((prot & 6) == 6)
		return false;
	*flags = PTE_OWNED | PTE_KEYED;
	if (prot)
		*flags |= PTE_PRESENT;
	if (prot & 2)
		*flags |= PTE_WRITE;
	if (!(prot & 4))
		*flags |= PTE_NX;
	return true;
}

static bool is_range(uintptr_t va, size_t pages)
{
	return va % PAGE_SIZE == 0 && va >= ARENA_BASE && va < ARENA_END && pages &&
	       pages <= (ARENA_END - va) / PAGE_SIZE;
}

/** Are all the pages mapped, or none of them? */
static bool is_all(uintptr_t va, size_t pages, bool mapped)
{
	for (size_t i = 0; i < pages; i++) {
		uint64_t *entry = page_entry(va + i * PAGE_SIZE, false);

		if ((entry && *entry & PTE_OWNED) != mapped)
			return false;
	}
	return true;
}

int arena_unmap(uintptr_t va, size_t pages)
{
	if (!is_range(va, pages) || !is_all(va, pages, true))
		return -EINVAL;
	for (; pages; pages--, va += PAGE_SIZE) {
		uint64_t *entry = page_entry(va, false);
		uintptr_t frame = *entry & PTE_FRAME;

		page_set(entry, va, 0);
		frame_give(frame);
	}
	return 0;
}

int arena_map(uintptr_t va, size_t pages, unsigned int prot)
{
	uint64_t flags;

	if (!is_range(va, pages) || !page_flags(prot, &flags) || !is_all(va, pages, false))
		return -EINVAL;
	for (size_t i = 0; i < pages; i++) {
		uintptr_t page = va + i * PAGE_SIZE;
		uint64_t *entry = page_entry(page, true);
		uintptr_t frame = entry ? frame_take() : 0;

		if (!frame) {
			if (i)
				arena_unmap(va, i);
			return -ENOMEM;
		}
		page_set(entry, page, frame | PTE_RW);
		memset((void *)page, 0, PAGE_SIZE);
		page_set(entry, page, frame | flags);
	}
	return 0;
}

int arena_protect(uintptr_t va, size_t pages, unsigned int prot)
{
	uint64_t flags;

	if (!is_range(va, pages) || !page_flags(prot, &flags) || !is_all(va, pages, true))
		return -EINVAL;
	for (; pages; pages--, va += PAGE_SIZE) {
		uint64_t *entry = page_entry(va, false);

		page_set(entry, va,
			 (*entry & (PTE_FRAME | PTE_KEY_MASK)) | (flags & ~PTE_KEY_MASK));
	}
	return 0;
}

int arena_tag(uintptr_t va, size_t pages, unsigned int key)
{
	if (!is_range(va, pages) || key > 15 || !is_all(va, pages, true))
		return -EINVAL;
	for (; pages; pages--, va += PAGE_SIZE) {
		uint64_t *entry = page_entry(va, false);

		page_set(entry, va, (*entry & ~PTE_KEY_MASK) | PTE_KEY(key));
	}
	return 0;
}
