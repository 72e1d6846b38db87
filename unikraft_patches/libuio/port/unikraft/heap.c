/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Small blocks of heap memory. Unikraft's default allocator takes whole pages
 * for each malloc(), which would make libuio's many small objects cost 4 KiB
 * each; so blocks up to 1 KiB are cut from pages here, in powers of two with
 * a list of free blocks per size. Larger ones are pages of their own. A page
 * returns to the allocator when its last block is free.
 */
#include <uk/alloc.h>

#include "unikraft.h"

#define SIZES     6u /* 32 .. 1024 bytes, header included */
#define SMALLEST  32u
#define BIG       0xffffu
#define SLAB_DATA 64u /* offset of the first block; the header lies before it */

/* In front of every block, which keeps it aligned to 16 bytes. */
struct block {
	uint16_t size_index; /* BIG: not from a slab */
	uint16_t pad[3];
	union {
		struct block *next; /* while free */
		size_t pages;       /* of a BIG one */
	};
};
_Static_assert(sizeof(struct block) == 16, "alignment of what follows");

struct slab {
	struct slab *next, *prev; /* of those with free blocks */
	struct block *free;
	uint32_t used;
	uint32_t listed;
};
_Static_assert(sizeof(struct slab) <= SLAB_DATA, "header fits");

static struct slab *partial[SIZES];
static size_t pages_held;

void uio_heap_count(ssize_t pages)
{
	pages_held += (size_t)pages;
}

size_t uio_port_held(void)
{
	return pages_held * UIO_PAGE_SIZE;
}

static void *take_pages(size_t n)
{
	void *mem = uk_palloc(uk_alloc_get_default(), n);

	if (mem)
		uio_heap_count((ssize_t)n);
	return mem;
}

static void give_pages(void *mem, size_t n)
{
	uk_pfree(uk_alloc_get_default(), mem, n);
	uio_heap_count(-(ssize_t)n);
}

static void list_add(struct slab *s, unsigned int index)
{
	s->prev = NULL;
	s->next = partial[index];
	if (s->next)
		s->next->prev = s;
	partial[index] = s;
	s->listed = 1;
}

static void list_remove(struct slab *s, unsigned int index)
{
	if (s->prev)
		s->prev->next = s->next;
	else
		partial[index] = s->next;
	if (s->next)
		s->next->prev = s->prev;
	s->listed = 0;
}

static struct slab *new_slab(unsigned int index)
{
	struct slab *s = take_pages(1);
	size_t step = (size_t)SMALLEST << index;

	if (!s)
		return NULL;
	s->free = NULL;
	s->used = 0;
	for (size_t at = SLAB_DATA; at + step <= UIO_PAGE_SIZE; at += step) {
		struct block *b = (struct block *)((char *)s + at);

		b->size_index = (uint16_t)index;
		b->next = s->free;
		s->free = b;
	}
	list_add(s, index);
	return s;
}

static void *alloc_big(size_t size)
{
	struct block *b;
	size_t pages;

	if (size > SIZE_MAX - sizeof(*b) - UIO_PAGE_SIZE)
		return NULL;
	pages = (size + sizeof(*b) + UIO_PAGE_SIZE - 1) / UIO_PAGE_SIZE;
	b = take_pages(pages);
	if (!b)
		return NULL;
	b->size_index = BIG;
	b->pages = pages;
	return b + 1;
}

void *uio_port_alloc(size_t size)
{
	unsigned int index = 0;
	struct block *b;
	struct slab *s;

	if (size > ((size_t)SMALLEST << (SIZES - 1)) - sizeof(*b))
		return alloc_big(size);
	while (((size_t)SMALLEST << index) < size + sizeof(*b))
		index++;
	s = partial[index] ? partial[index] : new_slab(index);
	if (!s)
		return NULL;
	b = s->free;
	s->free = b->next;
	s->used++;
	if (!s->free)
		list_remove(s, index);
	return b + 1;
}

void uio_port_free(void *ptr)
{
	struct block *b = (struct block *)ptr - 1;
	struct slab *s;

	if (!ptr)
		return;
	if (b->size_index == BIG) {
		give_pages(b, b->pages);
		return;
	}
	s = (struct slab *)((uintptr_t)b & ~(uintptr_t)(UIO_PAGE_SIZE - 1));
	b->next = s->free;
	s->free = b;
	if (!s->listed)
		list_add(s, b->size_index);
	if (--s->used == 0) {
		list_remove(s, b->size_index);
		give_pages(s, 1);
	}
}
