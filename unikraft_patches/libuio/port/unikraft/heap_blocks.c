/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A walk of the heap that the application, its C library and the kernel share:
 * the buddy allocator (ukallocbbuddy), whose malloc() takes whole pages for
 * each block and begins them with a record of it. Both layouts are of Unikraft
 * 0.17 and private to its libraries; what does not look like them is refused
 * as unknown. Pages that were taken as pages (libuio's own among them) have no
 * such record and are not told.
 */
#include <errno.h>
#include <string.h>
#include <uk/alloc.h>
#include <uk/alloc_impl.h>

#include "unikraft.h"

#if CONFIG_LIBUKBOOT_INITBBUDDY && !CONFIG_LIBUKALLOC_IFSTATS_PERLIB

#define LISTS     52u /* of free chunks, one for each power of two */
#define REGIONS   64u /* more would be a loop */
#define WORD_BITS 64u

/* In front of a block of uk_malloc() and uk_memalign(). */
struct record {
	size_t size; /* as it was asked for */
	unsigned long pages;
	void *base; /* of the pages */
};
#define RECORD_SIZE 32u

struct chunk {
	struct chunk *next, **pprev;
	unsigned int level;
};

struct region {
	struct region *next;
	unsigned long first_page, pages;
	unsigned long bitmap_size;
	unsigned long *bitmap; /* set: allocated */
};

struct buddy {
	unsigned long free_pages;
	struct chunk *free_head[LISTS];
	struct chunk free_tail[LISTS];
	struct region *regions;
};

static bool is_readable(const void *p, size_t size)
{
	return uio_port_readable((uintptr_t)p) && uio_port_readable((uintptr_t)p + size - 1);
}

/** Whether this is what ukallocbbuddy makes: each region begins with its record and bitmap. */
static bool region_is_valid(const struct region *r)
{
	return (uintptr_t)r % UIO_PAGE_SIZE == 0 && is_readable(r, sizeof(*r)) &&
	       r->bitmap == (const unsigned long *)(r + 1) && r->pages > 0 &&
	       r->first_page % UIO_PAGE_SIZE == 0 && r->first_page > (uintptr_t)r &&
	       r->bitmap_size >= r->pages / 8 &&
	       (uintptr_t)r->bitmap + r->bitmap_size == r->first_page;
}

static bool is_allocated(const struct region *r, size_t page)
{
	return r->bitmap[page / WORD_BITS] >> (page % WORD_BITS) & 1;
}

/** How many pages the allocator takes for so many. */
static size_t power_of_two(size_t n)
{
	return n <= 1 ? 1 : (size_t)1 << (WORD_BITS - (unsigned int)__builtin_clzl(n - 1));
}

static size_t pages_for(size_t size)
{
	return (size + UIO_PAGE_SIZE - 1) / UIO_PAGE_SIZE;
}

/** The block whose pages begin here; pages it takes, or 0: none does. */
static size_t block_at(const struct region *r, size_t page, struct uio_block *out)
{
	uintptr_t base = r->first_page + page * UIO_PAGE_SIZE;
	const struct record *record = (const struct record *)base;
	size_t slot;

	if (!is_readable(record, sizeof(*record)) || (uintptr_t)record->base != base ||
	    record->pages == 0 || record->pages > r->pages - page ||
	    record->size > record->pages * UIO_PAGE_SIZE - sizeof(*record))
		return 0;
	slot = power_of_two(record->pages);
	if (slot > r->pages - page)
		return 0;
	for (size_t i = 1; i < slot; i++) {
		if (!is_allocated(r, page + i))
			return 0;
	}
	out->address = base + RECORD_SIZE;
	/* One that was asked for at a page's beginning has the record a page before it. */
	if (record->pages != pages_for(record->size + RECORD_SIZE) &&
	    record->pages == pages_for(record->size + UIO_PAGE_SIZE))
		out->address = base + UIO_PAGE_SIZE;
	out->size = record->size;
	out->slot = slot * UIO_PAGE_SIZE;
	return slot;
}

static size_t region_blocks(const struct region *r, struct uio_block *out, size_t max, size_t n)
{
	size_t page = 0;

	while (page < r->pages) {
		struct uio_block block;
		size_t slot = is_allocated(r, page) ? block_at(r, page, &block) : 0;

		if (slot) {
			if (n < max)
				out[n] = block;
			n++;
		}
		page += slot ? slot : 1;
	}
	return n;
}

ssize_t uio_port_heap_blocks(struct uio_block *out, size_t max)
{
	const struct uk_alloc *a = uk_alloc_get_default();
	const struct buddy *buddy = (const struct buddy *)a->priv;
	unsigned int regions = 0;
	size_t n = 0;

	if (a->malloc != uk_malloc_ifpages || !is_readable(buddy, sizeof(*buddy)))
		return -ENOSYS;
	for (const struct region *r = buddy->regions; r; r = r->next) {
		if (!region_is_valid(r) || regions++ > REGIONS)
			return -ENOSYS;
		n = region_blocks(r, out, max, n);
	}
	return (ssize_t)n;
}

#else

ssize_t uio_port_heap_blocks(struct uio_block *out __unused, size_t max __unused)
{
	return -ENOSYS;
}

#endif
