/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Who has which addresses of the arena: a sorted list of the ranges in use.
 * The upper half belongs to the host, which assigns addresses to images it
 * pushes; the lower one to pulled overlays and to stacks.
 */

#include <errno.h>

#include "overlay_impl.h"

struct range {
	struct range *next;
	uintptr_t start, end;
};

static struct range *ranges; /* ascending */

void uio_overlay_arena(struct uio_arena *out)
{
	uintptr_t base = 0;
	size_t size = 0;

	uio_port_arena(&base, &size);
	size -= size % (2 * UIO_PAGE_SIZE);
	out->base = base;
	out->size = size;
	out->push_base = base + size / 2;
	out->push_size = size / 2;
}

static int insert(struct range **at, uintptr_t start, uintptr_t end)
{
	struct range *r = uio_port_alloc(sizeof(*r));

	if (!r)
		return -ENOMEM;
	*r = (struct range){.next = *at, .start = start, .end = end};
	*at = r;
	return 0;
}

uintptr_t uio_arena_take(size_t pages)
{
	struct uio_arena arena;
	struct range **at = &ranges;
	uintptr_t start;

	uio_overlay_arena(&arena);
	if (!pages || pages > (arena.size - arena.push_size) / UIO_PAGE_SIZE)
		return 0;
	/* The first gap that is large enough. */
	for (start = arena.base; *at && (*at)->start < arena.push_base; at = &(*at)->next) {
		if ((*at)->start - start >= pages * UIO_PAGE_SIZE)
			break;
		start = (*at)->end;
	}
	if (start >= arena.push_base || arena.push_base - start < pages * UIO_PAGE_SIZE)
		return 0;
	return insert(at, start, start + pages * UIO_PAGE_SIZE) ? 0 : start;
}

int uio_arena_claim(uintptr_t va, size_t pages)
{
	struct uio_arena arena;
	struct range **at = &ranges;

	uio_overlay_arena(&arena);
	if (va % UIO_PAGE_SIZE || va < arena.push_base || !pages ||
	    va - arena.push_base >= arena.push_size ||
	    pages > (arena.push_size - (va - arena.push_base)) / UIO_PAGE_SIZE)
		return -EINVAL;
	while (*at && (*at)->end <= va)
		at = &(*at)->next;
	if (*at && (*at)->start < va + pages * UIO_PAGE_SIZE)
		return -EBUSY;
	return insert(at, va, va + pages * UIO_PAGE_SIZE);
}

void uio_arena_release(uintptr_t va)
{
	for (struct range **at = &ranges; *at; at = &(*at)->next) {
		struct range *r = *at;

		if (r->start == va) {
			*at = r->next;
			uio_port_free(r);
			return;
		}
	}
}
