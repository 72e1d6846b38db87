/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Memory of a command: what its overlay allocates by malloc() and its kin lies
 * in pages of the overlay's own, is counted against the limit of its policy
 * and freed when the command ends. What is known of the blocks lies in libuio's
 * memory, where no overflow of an overlay's reaches it.
 */

#include <errno.h>
#include <string.h>

#include "overlay_impl.h"

/* Without a limit of its own a command leaves this part of the heap to the application. */
#define RESERVE_SHARE 16u
#define RESERVE_STEP  65536u
#define SLAB_PAGES    4u
#define PIECES_MAX    (SLAB_PAGES * UIO_PAGE_SIZE / 16)
#define FIRST_SLABS   8u

static const uint16_t classes[UIO_HEAP_CLASSES] = {16,  32,  48,  64,  96,   128, 192,
						   256, 384, 512, 768, 1024, 2048};

/* Pages that are one block, or are cut into pieces of one size. */
struct uio_slab {
	uintptr_t va;
	size_t pages, piece; /* bytes of a block */
	unsigned int class;
	unsigned int count, used;      /* of pieces */
	struct uio_slab *next, **link; /* with free pieces */
	uint64_t taken[PIECES_MAX / 64];
};

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

/* ---- the slabs of a run, by their addresses ---- */

/* The index of the first slab that begins above p. */
static size_t above(const struct uio_run *run, uintptr_t p)
{
	size_t low = 0, high = run->nslabs;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (run->slabs[middle]->va <= p)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static struct uio_slab *slab_of(const struct uio_run *run, const void *p)
{
	size_t i = above(run, (uintptr_t)p);
	struct uio_slab *s = i ? run->slabs[i - 1] : NULL;

	return s && (uintptr_t)p - s->va < s->pages * UIO_PAGE_SIZE ? s : NULL;
}

static bool list(struct uio_run *run, struct uio_slab *s)
{
	size_t n = run->slab_room ? 2 * run->slab_room : FIRST_SLABS, i;

	if (run->nslabs == run->slab_room) {
		struct uio_slab **table = uio_port_alloc(n * sizeof(struct uio_slab *));

		if (!table)
			return false;
		if (run->nslabs)
			memcpy(table, run->slabs, run->nslabs * sizeof(struct uio_slab *));
		uio_port_free(run->slabs);
		run->slabs = table;
		run->slab_room = n;
	}
	i = above(run, s->va);
	memmove(run->slabs + i + 1, run->slabs + i, (run->nslabs - i) * sizeof(struct uio_slab *));
	run->slabs[i] = s;
	run->nslabs++;
	return true;
}

static void free_slab(struct uio_slab *s)
{
	uio_port_unmap(s->va, s->pages);
	uio_arena_release(s->va);
	uio_port_free(s);
}

static void unlist(struct uio_run *run, struct uio_slab *s)
{
	size_t i = above(run, s->va) - 1;

	run->nslabs--;
	memmove(run->slabs + i, run->slabs + i + 1, (run->nslabs - i) * sizeof(struct uio_slab *));
	free_slab(s);
}

static uintptr_t map(const struct uio_run *run, size_t pages)
{
	uintptr_t va;
	int rc;

	while (!(va = uio_arena_take(pages)))
		if (!uio_resident_evict())
			return 0;
	do {
		rc = uio_port_map(va, pages, UIO_PROT_READ | UIO_PROT_WRITE);
	} while (rc == -ENOMEM && uio_resident_evict());
	if (!rc && !uio_domain_tag(run->resident, va, pages))
		return va;
	if (!rc)
		uio_port_unmap(va, pages);
	uio_arena_release(va);
	return 0;
}

static struct uio_slab *new_slab(struct uio_run *run, size_t pages, size_t piece)
{
	struct uio_slab *s = uio_port_alloc(sizeof(*s));

	if (!s)
		return NULL;
	memset(s, 0, sizeof(*s));
	s->pages = pages;
	s->piece = piece;
	s->count = (unsigned int)(pages * UIO_PAGE_SIZE / piece);
	s->va = map(run, pages);
	if (s->va && list(run, s))
		return s;
	if (s->va) {
		free_slab(s);
		return NULL;
	}
	uio_port_free(s);
	return NULL;
}

/* ---- small blocks ---- */

static void link_slab(struct uio_run *run, struct uio_slab *s)
{
	struct uio_slab **head = &run->partial[s->class];

	s->next = *head;
	s->link = head;
	if (s->next)
		s->next->link = &s->next;
	*head = s;
}

static void unlink_slab(struct uio_slab *s)
{
	*s->link = s->next;
	if (s->next)
		s->next->link = s->link;
}

static void *alloc_small(struct uio_run *run, unsigned int class)
{
	struct uio_slab *s = run->partial[class];
	unsigned int i = 0;

	if (!s) {
		s = new_slab(run, SLAB_PAGES, classes[class]);
		if (!s)
			return NULL;
		s->class = class;
		link_slab(run, s);
	}
	while (!~s->taken[i])
		i++;
	i = 64 * i + (unsigned int)__builtin_ctzll(~s->taken[i]);
	s->taken[i / 64] |= 1ull << i % 64;
	if (++s->used == s->count)
		unlink_slab(s);
	run->heap_bytes += s->piece;
	return (void *)(s->va + i * s->piece);
}

static void free_small(struct uio_run *run, struct uio_slab *s, size_t i)
{
	s->taken[i / 64] &= ~(1ull << i % 64);
	run->heap_bytes -= s->piece;
	if (s->used-- == s->count)
		link_slab(run, s);
	/* One empty slab of each size stays. */
	if (!s->used && (run->partial[s->class] != s || s->next)) {
		unlink_slab(s);
		unlist(run, s);
	}
}

static void *alloc_large(struct uio_run *run, size_t size)
{
	size_t pages = UIO_PAGES(size);
	struct uio_slab *s = new_slab(run, pages, pages * UIO_PAGE_SIZE);

	if (!s)
		return NULL;
	s->class = UIO_HEAP_CLASSES;
	s->used = 1;
	s->taken[0] = 1;
	run->heap_bytes += s->piece;
	return (void *)s->va;
}

/* ---- what the rest of libuio sees ---- */

void *uio_heap_alloc(struct uio_run *run, size_t size, size_t align)
{
	unsigned int class = 0;

	run = run->owner;
	if (align > UIO_PAGE_SIZE || !is_allowed(run, size))
		return NULL;
	while (class < UIO_HEAP_CLASSES &&
	       (classes[class] < size || (align && classes[class] % align)))
		class ++;
	return class < UIO_HEAP_CLASSES ? alloc_small(run, class)
					: alloc_large(run, size ? size : 1);
}

bool uio_heap_owns(const struct uio_run *run, const void *p)
{
	return slab_of(run->owner, p) != NULL;
}

/* The index of the block that begins at p; -1: there is none. */
static long index_of(const struct uio_slab *s, const void *p)
{
	size_t offset = (uintptr_t)p - s->va, i = offset / s->piece;

	return offset % s->piece || i >= s->count || !(s->taken[i / 64] >> i % 64 & 1) ? -1
										       : (long)i;
}

size_t uio_heap_size(const struct uio_run *run, const void *p)
{
	const struct uio_slab *s = slab_of(run->owner, p);

	return s && index_of(s, p) >= 0 ? s->piece : 0;
}

bool uio_heap_free(struct uio_run *run, void *p)
{
	struct uio_slab *s = slab_of(run->owner, p);
	long i = s ? index_of(s, p) : -1;

	run = run->owner;
	if (i < 0)
		return false;
	if (s->class < UIO_HEAP_CLASSES) {
		free_small(run, s, (size_t)i);
	} else {
		run->heap_bytes -= s->piece;
		unlist(run, s);
	}
	return true;
}

/* ---- libuio's own memory that a command holds ---- */

struct uio_held {
	struct uio_held *next, **link;
	uint64_t content[];
};

void *uio_run_hold(struct uio_run *run, size_t size)
{
	struct uio_held *h = uio_port_alloc(sizeof(*h) + size);

	run = run->owner;
	if (!h)
		return NULL;
	h->next = run->held;
	h->link = &run->held;
	if (h->next)
		h->next->link = &h->next;
	run->held = h;
	return h->content;
}

void uio_run_drop(void *p)
{
	struct uio_held *h = (struct uio_held *)((char *)p - offsetof(struct uio_held, content));

	*h->link = h->next;
	if (h->next)
		h->next->link = h->link;
	uio_port_free(h);
}

void uio_heap_free_all(struct uio_run *run)
{
	for (size_t i = 0; i < run->nslabs; i++)
		free_slab(run->slabs[i]);
	uio_port_free(run->slabs);
	run->slabs = NULL;
	run->nslabs = run->slab_room = 0;
	while (run->held)
		uio_run_drop(run->held->content);
}
