/* SPDX-License-Identifier: BSD-3-Clause */
/* Memory of libuio: the kernel's heap, whole frames for devices, the arena. */
#include <errno.h>
#include <string.h>

#include <uio/port.h>

#include "cpu.h"
#include "memory.h"

#define HEADER 16u /* in front of a block: its size; keeps the alignment */

static size_t held;

void *uio_port_alloc(size_t size)
{
	size_t *block = size < SIZE_MAX - HEADER ? heap_alloc(size + HEADER) : NULL;

	if (!block)
		return NULL;
	*block = size + HEADER;
	held += *block;
	return (uint8_t *)block + HEADER;
}

void uio_port_free(void *ptr)
{
	size_t *block;

	if (!ptr)
		return;
	block = (size_t *)((uint8_t *)ptr - HEADER);
	held -= *block;
	heap_free(block);
}

void *uio_port_dma_alloc(size_t size)
{
	void *ptr = (void *)frames_alloc(page_count(size));

	if (ptr)
		held += page_count(size) * PAGE_SIZE;
	return ptr;
}

void uio_port_dma_free(void *ptr, size_t size)
{
	if (!ptr)
		return;
	held -= page_count(size) * PAGE_SIZE;
	frames_free((uintptr_t)ptr, page_count(size));
}

size_t uio_port_held(void)
{
	return held;
}

void uio_port_meminfo(size_t *total, size_t *free_bytes)
{
	*total = frames_total() * PAGE_SIZE;
	*free_bytes = frames_left() * PAGE_SIZE;
}

bool uio_port_readable(uintptr_t va)
{
	return page_is_present(va);
}

void uio_port_arena(uintptr_t *base, size_t *size)
{
	*base = ARENA_BASE;
	*size = ARENA_SIZE;
}

int uio_port_map(uintptr_t va, size_t pages, unsigned int prot)
{
	return arena_map(va, pages, prot);
}

int uio_port_protect(uintptr_t va, size_t pages, unsigned int prot)
{
	return arena_protect(va, pages, prot);
}

unsigned int uio_port_keys(void)
{
	return cpu_has_pku ? 16 : 0;
}

int uio_port_tag(uintptr_t va, size_t pages, unsigned int key)
{
	return cpu_has_pku ? arena_tag(va, pages, key) : -ENOTSUP;
}

int uio_port_unmap(uintptr_t va, size_t pages)
{
	return arena_unmap(va, pages);
}
