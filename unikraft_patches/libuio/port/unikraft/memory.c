/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Pages. Overlays live in a window of addresses below 2 GiB, beside the
 * kernel's text, that nothing else uses; libuio's stacks lie at its upper
 * end, each above an unmapped page.
 *
 * The pages behind it are pages of the system heap, mapped a second time:
 * with or without ukvmem the heap has laid claim to all frames there are, so
 * only memory that it has handed out may be used. Frames for page tables come
 * from the page table's own frame allocator, which keeps some back; when they
 * run out it is given a piece of the heap.
 */
#include <errno.h>
#include <string.h>
#include <uk/alloc.h>
#include <uk/falloc.h>
#include <uk/plat/paging.h>
#include <uk/print.h>

#include "keys.h"

#define ARENA_PAGES   (UIO_ARENA_SIZE / UIO_PAGE_SIZE)
#define GROUP_PAGES   512u /* pages behind one last-level page table */
#define ARENA_GROUPS  (ARENA_PAGES / GROUP_PAGES)
#define STACK_PAGES   ((size_t)CONFIG_LIBUIO_STACK_WINDOW_KB * 1024 / UIO_PAGE_SIZE)
#define WINDOW_SIZE   (UIO_ARENA_SIZE + STACK_PAGES * UIO_PAGE_SIZE)
#define WINDOW_TOP    0x80000000ul /* 32-bit sign-extended relocations end here */
#define WINDOW_BOTTOM 0x02000000ul
#define LARGE_PAGE    ((uintptr_t)GROUP_PAGES * UIO_PAGE_SIZE)
#define TABLE_REFILL  16u /* pages given to the page table's frame allocator at a time */

_Static_assert(UIO_ARENA_SIZE % (GROUP_PAGES * UIO_PAGE_SIZE) == 0, "whole page tables");

static uintptr_t window; /* arena first, then stacks; 0: none found */

/* The heap page behind each page of the window, NULL where unmapped. One table per group of pages,
 * allocated with the first of them. */
static void **backing[ARENA_GROUPS + (STACK_PAGES + GROUP_PAGES - 1) / GROUP_PAGES];

/* One bit per page of the stack window: guard pages are taken, but not mapped. */
static uint8_t stack_taken[(STACK_PAGES + 7) / 8];

static bool range_is_free(struct uk_pagetable *pt, uintptr_t base, size_t size)
{
	uintptr_t va = base;

	while (va < base + size) {
		unsigned int level = PAGE_LEVEL;
		__pte_t pte;

		if (ukplat_pt_walk(pt, va, &level, NULL, &pte) != 0 ||
		    PT_Lx_PTE_PRESENT(pte, level))
			return false;
		va = (va & ~(PAGE_Lx_SIZE(level) - 1)) + PAGE_Lx_SIZE(level);
	}
	return true;
}

int uio_memory_init(void)
{
	struct uk_pagetable *pt = ukplat_pt_get_active();
	uintptr_t base = (WINDOW_TOP - WINDOW_SIZE) & ~(LARGE_PAGE - 1);

	if (!pt)
		return -ENOMEM;
	for (; base >= WINDOW_BOTTOM; base -= LARGE_PAGE) {
		if (range_is_free(pt, base, WINDOW_SIZE)) {
			window = base;
			return 0;
		}
	}
	return -ENOMEM;
}

bool uio_memory_in_arena(uintptr_t va)
{
	return window != 0 && va - window < UIO_ARENA_SIZE;
}

bool uio_memory_is_arena(uintptr_t va, size_t pages)
{
	return window != 0 && va % UIO_PAGE_SIZE == 0 && va >= window && pages > 0 &&
	       pages <= ARENA_PAGES && va - window <= UIO_ARENA_SIZE - pages * UIO_PAGE_SIZE;
}

void uio_port_arena(uintptr_t *base, size_t *size)
{
	*base = window;
	*size = window != 0 ? UIO_ARENA_SIZE : 0;
}

static unsigned long to_attr(unsigned int prot)
{
	unsigned long attr = PAGE_ATTR_PROT_READ;

	if (prot & UIO_PROT_WRITE)
		attr |= PAGE_ATTR_PROT_WRITE;
	if (prot & UIO_PROT_EXEC)
		attr |= PAGE_ATTR_PROT_EXEC;
	return attr;
}

/** The physical address behind a mapped virtual one, or __PADDR_INV. */
static __paddr_t physical(uintptr_t va)
{
	unsigned int level = PAGE_LEVEL;
	__pte_t pte;

	if (ukplat_pt_walk(ukplat_pt_get_active(), va, &level, NULL, &pte) != 0 ||
	    !PT_Lx_PTE_PRESENT(pte, level))
		return __PADDR_INV;
	return PT_Lx_PTE_PADDR(pte, level) + (va & (PAGE_Lx_SIZE(level) - 1));
}

bool uio_port_readable(uintptr_t va)
{
	/* ukplat_pt_walk() asserts that the address is one that the CPU would take. */
	return ukarch_vaddr_isvalid(va) && physical(va) != __PADDR_INV;
}

/** Heap pages, touched, so that there are frames behind them. */
static void *heap_pages(size_t n)
{
	char *mem = uk_palloc(uk_alloc_get_default(), n);

	if (mem)
		memset(mem, 0, n * UIO_PAGE_SIZE);
	return mem;
}

static bool is_contiguous(void *mem, size_t pages)
{
	__paddr_t first = physical((uintptr_t)mem);

	for (size_t i = 1; i < pages; i++) {
		if (physical((uintptr_t)mem + i * UIO_PAGE_SIZE) != first + i * UIO_PAGE_SIZE)
			return false;
	}
	return first != __PADDR_INV;
}

/** Map one page at va; feeds the page table's allocator when that has run dry. */
static int map_frame(uintptr_t va, __paddr_t frame, unsigned long attr)
{
	struct uk_pagetable *pt = ukplat_pt_get_active();
	int rc = ukplat_page_map(pt, va, frame, 1, attr, PAGE_FLAG_FORCE_SIZE);
	void *more;

	uio_tlb_flushed();
	if (rc != -ENOMEM)
		return rc;
	more = heap_pages(TABLE_REFILL);
	if (!more)
		return rc;
	if (!is_contiguous(more, TABLE_REFILL) ||
	    ukplat_pt_add_mem(pt, physical((uintptr_t)more), TABLE_REFILL * UIO_PAGE_SIZE) != 0) {
		uk_pfree(uk_alloc_get_default(), more, TABLE_REFILL);
		return rc;
	}
	return ukplat_page_map(pt, va, frame, 1, attr, PAGE_FLAG_FORCE_SIZE);
}

/** Where the heap page behind window page i is kept; NULL: no memory for the table. */
static void **backing_of(size_t i, bool create)
{
	void ***group = &backing[i / GROUP_PAGES];

	if (!*group && create) {
		*group = heap_pages(GROUP_PAGES * sizeof(void *) / UIO_PAGE_SIZE);
		if (!*group)
			return NULL;
	}
	return *group ? &(*group)[i % GROUP_PAGES] : NULL;
}

static void unmap_page(size_t i)
{
	void **slot = backing_of(i, false);

	if (!slot || !*slot)
		return;
	uio_tlb_flushed();
	ukplat_page_unmap(ukplat_pt_get_active(), window + i * UIO_PAGE_SIZE, 1,
			  PAGE_FLAG_KEEP_FRAMES | PAGE_FLAG_FORCE_SIZE);
	uk_pfree(uk_alloc_get_default(), *slot, 1);
	*slot = NULL;
}

#if CONFIG_LIBUIO_DOMAIN

/** What is read-only there has a key, too: overlays shall not read one another's constants. */
static void own_key(size_t i)
{
	void **slot = backing_of(i, false);

	if (uio_keys_on && i < ARENA_PAGES && slot && *slot)
		uio_sweep_tag(window + i * UIO_PAGE_SIZE, 1, UIO_KEY_KERNEL);
}

void uio_memory_own_keys(void)
{
	for (size_t i = 0; i < ARENA_PAGES; i += backing[i / GROUP_PAGES] ? 1 : GROUP_PAGES)
		own_key(i);
}

#else

static void own_key(size_t i)
{
	(void)i;
}

#endif

static int map_page(size_t i, unsigned long attr)
{
	void **slot = backing_of(i, true);
	int rc;

	if (!slot)
		return -ENOMEM;
	if (*slot)
		return -EINVAL;
	*slot = heap_pages(1);
	if (!*slot)
		return -ENOMEM;
	rc = map_frame(window + i * UIO_PAGE_SIZE, physical((uintptr_t)*slot), attr);
	if (rc != 0) {
		uk_pfree(uk_alloc_get_default(), *slot, 1);
		*slot = NULL;
	}
	own_key(i);
	return rc;
}

static int map_pages(size_t first, size_t pages, unsigned long attr)
{
	for (size_t i = 0; i < pages; i++) {
		int rc = map_page(first + i, attr);

		if (rc != 0) {
			while (i-- > 0)
				unmap_page(first + i);
			return rc;
		}
	}
	return 0;
}

/** Whether [va, va + pages) lies in the arena and the rights make sense. */
static bool arguments_are_valid(uintptr_t va, size_t pages, unsigned int prot)
{
	return uio_memory_is_arena(va, pages) &&
	       (prot & (UIO_PROT_WRITE | UIO_PROT_EXEC)) != (UIO_PROT_WRITE | UIO_PROT_EXEC);
}

int uio_port_map(uintptr_t va, size_t pages, unsigned int prot)
{
	if (!arguments_are_valid(va, pages, prot))
		return -EINVAL;
	return map_pages((va - window) / UIO_PAGE_SIZE, pages, to_attr(prot));
}

int uio_port_protect(uintptr_t va, size_t pages, unsigned int prot)
{
	if (!arguments_are_valid(va, pages, prot))
		return -EINVAL;
	for (size_t i = 0; i < pages; i++) {
		void **slot = backing_of((va - window) / UIO_PAGE_SIZE + i, false);

		if (!slot || !*slot)
			return -EINVAL;
	}
	uio_tlb_flushed();
	return ukplat_page_set_attr(ukplat_pt_get_active(), va, pages, to_attr(prot),
				    PAGE_FLAG_FORCE_SIZE);
}

int uio_port_unmap(uintptr_t va, size_t pages)
{
	if (!arguments_are_valid(va, pages, UIO_PROT_READ))
		return -EINVAL;
	for (size_t i = 0; i < pages; i++)
		unmap_page((va - window) / UIO_PAGE_SIZE + i);
	return 0;
}

static bool stack_bit(size_t i)
{
	return stack_taken[i / 8] >> (i % 8) & 1;
}

static void stack_mark(size_t first, size_t n, bool taken)
{
	for (size_t i = first; i < first + n; i++) {
		if (taken)
			stack_taken[i / 8] |= (uint8_t)(1u << (i % 8));
		else
			stack_taken[i / 8] &= (uint8_t) ~(1u << (i % 8));
	}
}

void *uio_memory_stack_alloc(size_t size)
{
	size_t pages = (size + UIO_PAGE_SIZE - 1) / UIO_PAGE_SIZE;
	size_t run = 0;

	for (size_t i = 0; i < STACK_PAGES; i++) {
		size_t first = i - pages; /* the guard page, once run is long enough */

		run = stack_bit(i) ? 0 : run + 1;
		if (run < pages + 1)
			continue;
		if (map_pages(ARENA_PAGES + first + 1, pages, to_attr(UIO_PROT_WRITE)) != 0)
			return NULL;
		stack_mark(first, pages + 1, true);
		return (void *)(window + (ARENA_PAGES + first + 1) * UIO_PAGE_SIZE);
	}
	return NULL;
}

void uio_memory_stack_free(void *base)
{
	size_t first = ((uintptr_t)base - window) / UIO_PAGE_SIZE;
	size_t pages = 0;

	/* The next stack's guard page, or a free one, has nothing behind it. */
	for (; first + pages < ARENA_PAGES + STACK_PAGES; pages++) {
		void **slot = backing_of(first + pages, false);

		if (!slot || !*slot)
			break;
		unmap_page(first + pages);
	}
	stack_mark(first - ARENA_PAGES - 1, pages + 1, false);
}

void *uio_port_dma_alloc(size_t size)
{
	struct uk_pagetable *pt = ukplat_pt_get_active();
	size_t pages = (size + UIO_PAGE_SIZE - 1) / UIO_PAGE_SIZE;
	__paddr_t frames = __PADDR_ANY;
	void *mem = heap_pages(pages);

	if (mem && is_contiguous(mem, pages)) {
		uio_heap_count((ssize_t)pages);
		return mem;
	}
	if (mem)
		uk_pfree(uk_alloc_get_default(), mem, pages);

	/* A heap that is paged in on demand is rarely contiguous; frames and the direct map are. */
	if (pt->fa->falloc(pt->fa, &frames, pages, 0) != 0)
		return NULL;
	uio_heap_count((ssize_t)pages);
	return (void *)ukplat_page_kmap(pt, frames, pages, 0);
}

void uio_port_dma_free(void *ptr, size_t size)
{
	struct uk_pagetable *pt = ukplat_pt_get_active();
	size_t pages = (size + UIO_PAGE_SIZE - 1) / UIO_PAGE_SIZE;
	__paddr_t frames;

	if (!ptr)
		return;
	uio_heap_count(-(ssize_t)pages);
	/* The upper half of the address space holds nothing but the direct map. */
	if ((intptr_t)ptr > 0) {
		uk_pfree(uk_alloc_get_default(), ptr, pages);
		return;
	}
	frames = physical((uintptr_t)ptr);
	ukplat_page_kunmap(pt, (uintptr_t)ptr, pages, 0);
	pt->fa->ffree(pt->fa, frames, pages);
}

void uio_port_meminfo(size_t *total, size_t *free_bytes)
{
	struct uk_pagetable *pt = ukplat_pt_get_active();
	__ssz available = uk_alloc_availmem(uk_alloc_get_default());

	*total = pt->fa->total_memory;
	*free_bytes = available > 0 ? (size_t)available : 0;
}
