/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The kernel's heap. Small requests come from pages cut into pieces of one size, large ones are
 * whole frames; both carry a header at the start of their first page, by which heap_free() knows
 * them. The application's heap is the C library's own.
 */
#include <string.h>

#include "cpu.h"
#include "memory.h"
#include "print.h"

#define SMALL_MAGIC 0x736d616c6c686561ull
#define LARGE_MAGIC 0x6c61726765686561ull

static const uint16_t sizes[] = {16,  32,  48,  64,  96,   128,  192, 256,
				 336, 448, 576, 800, 1008, 1344, 2016};
#define CLASSES (sizeof(sizes) / sizeof(sizes[0]))

struct piece {
	struct piece *next;
};

struct block {
	uint64_t magic;
	size_t pages;               /* large */
	struct block *next, **link; /* small: list of pages with free pieces */
	struct piece *free;
	uint32_t class, in_use;
};
#define HEADER 64
_Static_assert(sizeof(struct block) <= HEADER, "header");

static struct block *partial[CLASSES];

static void list_add(struct block *block)
{
	struct block **head = &partial[block->class];

	block->next = *head;
	block->link = head;
	if (*head)
		(*head)->link = &block->next;
	*head = block;
}

static void list_remove(struct block *block)
{
	*block->link = block->next;
	if (block->next)
		block->next->link = block->link;
}

static struct block *new_small(unsigned int class)
{
	struct block *block = (struct block *)frames_alloc(1);
	size_t size = sizes[class];

	if (!block)
		return NULL;
	*block = (struct block){.magic = SMALL_MAGIC, .class = class};
	for (size_t at = HEADER + (PAGE_SIZE - HEADER) / size * size; at > HEADER;) {
		struct piece *piece;

		at -= size;
		piece = (struct piece *)((char *)block + at);
		piece->next = block->free;
		block->free = piece;
	}
	list_add(block);
	return block;
}

static void *alloc_small(unsigned int class)
{
	struct block *block = partial[class] ? partial[class] : new_small(class);
	struct piece *piece;

	if (!block)
		return NULL;
	piece = block->free;
	block->free = piece->next;
	block->in_use++;
	if (!block->free)
		list_remove(block);
	return piece;
}

static void *alloc_large(size_t size)
{
	size_t pages = page_count(size + HEADER);
	struct block *block = (struct block *)frames_alloc(pages);

	if (!block)
		return NULL;
	*block = (struct block){.magic = LARGE_MAGIC, .pages = pages};
	return (char *)block + HEADER;
}

void *heap_alloc(size_t size)
{
	unsigned int class = 0;

	if (size > sizes[CLASSES - 1])
		return size > SIZE_MAX / 2 ? NULL : alloc_large(size);
	while (sizes[class] < size)
		class ++;
	return alloc_small(class);
}

void *heap_zalloc(size_t size)
{
	void *ptr = heap_alloc(size);

	return ptr ? memset(ptr, 0, size) : NULL;
}

void heap_free(void *ptr)
{
	struct block *block = (struct block *)((uintptr_t)ptr & ~PAGE_MASK);
	struct piece *piece = ptr;

	if (!ptr)
		return;
	if (block->magic == LARGE_MAGIC) {
		block->magic = 0;
		frames_free((uintptr_t)block, block->pages);
		return;
	}
	if (block->magic != SMALL_MAGIC)
		panic("heap_free(%p): no such memory", ptr);
	if (!block->free)
		list_add(block);
	piece->next = block->free;
	block->free = piece;
	/* One empty page per size stays, so that a lone alloc and free in turn does not make pages.
	 */
	if (--block->in_use == 0 && (partial[block->class] != block || block->next)) {
		list_remove(block);
		block->magic = 0;
		frames_free((uintptr_t)block, 1);
	}
}
