/* SPDX-License-Identifier: BSD-3-Clause */
/* Memory of libuio: the kernel's heap, whole frames for devices, the arena. */
#include <errno.h>
#include <string.h>

#include <uio/port.h>

#include "cpu.h"
#include "memory.h"

void *uio_port_alloc(size_t size)
{
	return heap_alloc(size);
}

void uio_port_free(void *ptr)
{
	heap_free(ptr);
}

void *uio_port_dma_alloc(size_t size)
{
	return (void *)frames_alloc(page_count(size));
}

void uio_port_dma_free(void *ptr, size_t size)
{
	if (ptr)
		frames_free((uintptr_t)ptr, page_count(size));
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
