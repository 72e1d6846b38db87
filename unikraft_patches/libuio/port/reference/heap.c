/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The application's heap is musl's "mallocng" (1.2.1 and later). Its bookkeeping is walked here as
 * that version lays it out: areas of slot groups' descriptors, each group with up to 32 slots of
 * one size. What does not look like it is refused as unknown.
 */
#include <errno.h>
#include <string.h>

#include <uio/port.h>

#include "memory.h"

#define UNIT      16u
#define IB        4u /* bytes at a slot's end that belong to the allocator */
#define AREAS_MAX 65536u

struct group;

struct descriptor {
	struct descriptor *prev, *next;
	struct group *mem;
	volatile int avail_mask, freed_mask;
	uint64_t last : 5, freeable : 1, sizeclass : 6, pages : 52;
};

struct group {
	struct descriptor *meta;
	uint8_t active : 5;
	uint8_t pad[UNIT - sizeof(struct descriptor *) - 1];
	uint8_t storage[];
};

struct area {
	uint64_t check;
	struct area *next;
	int nslots;
	struct descriptor slots[];
};

struct context {
	uint64_t secret;
	int init_done;
	unsigned int mmap_counter;
	struct descriptor *free_head, *avail;
	size_t avail_count, avail_areas_count, alloc_shift;
	struct area *area_head, *area_tail;
};

extern const struct context __malloc_context __attribute__((weak));
extern const uint16_t __malloc_size_classes[48] __attribute__((weak));
extern volatile int __malloc_lock[1] __attribute__((weak));

/** The block in a slot that is in use; false: the slot makes no sense. */
static bool block_in(const uint8_t *slot, size_t stride, struct uio_block *out)
{
	const uint8_t *p = slot, *end = slot + stride - IB;
	uint16_t offset;
	uint32_t reserved;

	/* A block may begin further on in its slot; then the slot's header says by how much. */
	if (slot[-3] >> 5 == 7) {
		memcpy(&offset, slot - 2, sizeof(offset));
		p += (size_t)offset * UNIT;
	}
	if (p >= end)
		return false;
	reserved = p[-3] >> 5;
	if (reserved == 6) /* a group of smaller slots lies in it */
		return false;
	if (reserved == 5)
		memcpy(&reserved, end - 4, sizeof(reserved));
	if (reserved > (size_t)(end - p))
		return false;
	*out = (struct uio_block){(uintptr_t)p, (size_t)(end - p) - reserved, stride};
	return true;
}

static ssize_t group_blocks(const struct descriptor *d, struct uio_block *out, size_t max, size_t n)
{
	uint32_t unused = (uint32_t)d->avail_mask | (uint32_t)d->freed_mask;
	size_t stride;

	if (!frames_are_ram((uintptr_t)d->mem & ~PAGE_MASK, PAGE_SIZE) || d->mem->meta != d)
		return -ENOSYS;
	if (!d->last && d->pages)
		stride = d->pages * PAGE_SIZE - UNIT;
	else if (d->sizeclass < 48)
		stride = (size_t)UNIT * __malloc_size_classes[d->sizeclass];
	else
		return -ENOSYS;
	for (unsigned int i = 0; i <= d->last; i++) {
		struct uio_block block;

		if (unused >> i & 1)
			continue;
		if (!block_in(d->mem->storage + i * stride, stride, &block))
			continue;
		if (n < max)
			out[n] = block;
		n++;
	}
	return (ssize_t)n;
}

ssize_t uio_port_heap_blocks(struct uio_block *out, size_t max)
{
	const struct context *c = &__malloc_context;
	unsigned int areas = 0;
	ssize_t n = 0;

	if (!c || !__malloc_size_classes)
		return -ENOSYS;
	if (!c->init_done)
		return 0;
	if (__malloc_lock && __malloc_lock[0])
		return -EAGAIN;
	for (const struct area *area = c->area_head; area; area = area->next) {
		if (!frames_are_ram((uintptr_t)area, PAGE_SIZE) || area->check != c->secret ||
		    area->nslots > (int)(PAGE_SIZE / sizeof(struct descriptor)) ||
		    areas++ > AREAS_MAX)
			return -ENOSYS;
		for (int i = 0; i < area->nslots && n >= 0; i++) {
			const struct descriptor *d = &area->slots[i];

			if (d->mem)
				n = group_blocks(d, out, max, (size_t)n);
		}
		if (n < 0)
			return n;
	}
	return n;
}
