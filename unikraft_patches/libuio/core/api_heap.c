/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Memory of a command: what its overlay allocates by malloc() and its kin is
 * counted against the limit of its policy and freed when the command ends.
 */

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "overlay_impl.h"

/* Without a limit of its own a command leaves this part of the heap to the application. */
#define RESERVE_SHARE 16u
#define RESERVE_STEP  65536u
#define BLOCK_MAGIC   0x4f49757600000000ull
#define FIRST_BLOCKS  16u

/*
 * What is known of a block. These lie in libuio's own memory, not beside the
 * block, where an overlay's overflow would damage them.
 */
struct uio_heap_block {
	uintptr_t user; /* what the overlay has; 0: the entry is free */
	void *start;    /* what the port gave */
	size_t size;
	size_t next_free; /* index + 1 */
};

/* In front of each block: where in the table it is. Believed only if the table agrees. */
struct prefix {
	uint64_t index, magic;
};
_Static_assert(sizeof(struct prefix) == 16, "keeps the alignment");

static struct prefix *prefix_of(uintptr_t user)
{
	return (struct prefix *)user - 1;
}

static bool is_allowed(const struct uio_run *run, size_t size)
{
	size_t after = run->heap_bytes + size, total = 0, left = 0;

	if (after < size || size > PTRDIFF_MAX)
		return false;
	if (run->heap_limit)
		return after <= run->heap_limit;
	if (after / RESERVE_STEP == run->heap_bytes / RESERVE_STEP)
		return true;
	uio_port_meminfo(&total, &left);
	return left >= size && left - size >= total / RESERVE_SHARE;
}

static bool grow(struct uio_run *run)
{
	size_t n = run->nheap ? 2 * run->nheap : FIRST_BLOCKS;
	struct uio_heap_block *table = uio_port_alloc(n * sizeof(*table));

	if (!table)
		return false;
	if (run->nheap)
		memcpy(table, run->heap, run->nheap * sizeof(*table));
	for (size_t i = run->nheap; i < n; i++)
		table[i] = (struct uio_heap_block){.next_free = i + 1 < n ? i + 2 : 0};
	uio_port_free(run->heap);
	run->heap = table;
	run->heap_free = run->nheap + 1;
	run->nheap = n;
	return true;
}

void *uio_heap_alloc(struct uio_run *run, size_t size, size_t align)
{
	struct uio_heap_block *b;
	size_t index;
	void *start;

	if (align < 16)
		align = 16;
	if (align > UIO_PAGE_SIZE || !is_allowed(run, size) || (!run->heap_free && !grow(run)))
		return NULL;
	start = uio_port_alloc(size + sizeof(struct prefix) + align - 16);
	if (!start)
		return NULL;
	index = run->heap_free - 1;
	b = &run->heap[index];
	run->heap_free = b->next_free;
	b->start = start;
	b->size = size;
	b->user = ((uintptr_t)start + sizeof(struct prefix) + align - 1) & ~(align - 1);
	*prefix_of(b->user) = (struct prefix){.index = index, .magic = BLOCK_MAGIC};
	run->heap_bytes += size;
	return (void *)b->user;
}

static struct uio_heap_block *block_of(const struct uio_run *run, const void *p)
{
	const struct prefix *prefix = prefix_of((uintptr_t)p);

	if ((uintptr_t)p % 16 || prefix->magic != BLOCK_MAGIC || prefix->index >= run->nheap ||
	    run->heap[prefix->index].user != (uintptr_t)p)
		return NULL;
	return &run->heap[prefix->index];
}

bool uio_heap_owns(const struct uio_run *run, const void *p)
{
	return block_of(run, p) != NULL;
}

size_t uio_heap_size(const struct uio_run *run, const void *p)
{
	return block_of(run, p)->size;
}

void uio_heap_free(struct uio_run *run, void *p)
{
	struct uio_heap_block *b = block_of(run, p);

	if (!b)
		return; /* overwritten meanwhile: it goes with the command */
	run->heap_bytes -= b->size;
	uio_port_free(b->start);
	*b = (struct uio_heap_block){.next_free = run->heap_free};
	run->heap_free = (size_t)(b - run->heap) + 1;
}

void uio_heap_free_all(struct uio_run *run)
{
	for (size_t i = 0; i < run->nheap; i++)
		if (run->heap[i].user)
			uio_port_free(run->heap[i].start);
	uio_port_free(run->heap);
	run->heap = NULL;
	run->nheap = run->heap_free = 0;
}
