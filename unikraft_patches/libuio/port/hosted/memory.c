/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Memory of the hosted port: a counted heap with a limit, an arena of real
 * pages beside the executable's text, and what the executable says of itself.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hosted.h"

#define HEAP_LIMIT (64u << 20)
#define HEADER     16u
#define PAGES      (HOSTED_ARENA_SIZE / UIO_PAGE_SIZE)

static size_t heap_used;
static bool arena_ready;
static bool mapped[PAGES];

void *uio_port_alloc(size_t size)
{
	if (size > HEAP_LIMIT - HEADER || size + HEADER > HEAP_LIMIT - heap_used)
		return NULL;
	size_t *p = malloc(size + HEADER);
	if (p == NULL)
		return NULL;
	*p = size + HEADER;
	heap_used += size + HEADER;
	return (char *)p + HEADER;
}

void uio_port_free(void *ptr)
{
	if (ptr == NULL)
		return;
	size_t *p = (size_t *)(void *)((char *)ptr - HEADER);
	heap_used -= *p;
	free(p);
}

size_t uio_port_held(void)
{
	return heap_used;
}

void *uio_port_dma_alloc(size_t size)
{
	return aligned_alloc(UIO_PAGE_SIZE,
			     (size + UIO_PAGE_SIZE - 1) & ~(size_t)(UIO_PAGE_SIZE - 1));
}

void uio_port_dma_free(void *ptr, size_t size)
{
	(void)size;
	free(ptr);
}

void uio_port_meminfo(size_t *total, size_t *free_bytes)
{
	*total = HEAP_LIMIT;
	*free_bytes = HEAP_LIMIT - heap_used;
}

/* ---- the arena ---- */

void uio_port_arena(uintptr_t *base, size_t *size)
{
	if (!arena_ready) {
		void *p = mmap((void *)HOSTED_ARENA_BASE, HOSTED_ARENA_SIZE, PROT_NONE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE,
			       -1, 0);
		if (p != (void *)HOSTED_ARENA_BASE) {
			perror("uio-hosted: the arena's addresses are in use");
			exit(1);
		}
		arena_ready = true;
	}
	*base = HOSTED_ARENA_BASE;
	*size = HOSTED_ARENA_SIZE;
}

/* The index of the first page, or -EINVAL. */
static long first_page(uintptr_t va, size_t pages)
{
	if (!arena_ready || va % UIO_PAGE_SIZE != 0 || !hosted_in_arena(va) || pages == 0)
		return -EINVAL;
	size_t first = (va - HOSTED_ARENA_BASE) / UIO_PAGE_SIZE;
	return pages > PAGES - first ? -EINVAL : (long)first;
}

static int protection(unsigned int prot)
{
	if ((prot & UIO_PROT_WRITE) && (prot & UIO_PROT_EXEC))
		return -EINVAL;
	return (prot & UIO_PROT_READ ? PROT_READ : 0) | (prot & UIO_PROT_WRITE ? PROT_WRITE : 0) |
	       (prot & UIO_PROT_EXEC ? PROT_EXEC : 0);
}

static bool all_are(long first, size_t pages, bool state)
{
	for (size_t i = 0; i < pages; i++)
		if (mapped[(size_t)first + i] != state)
			return false;
	return true;
}

int uio_port_map(uintptr_t va, size_t pages, unsigned int prot)
{
	long first = first_page(va, pages);
	int rights = protection(prot);

	if (first < 0 || rights < 0 || !all_are(first, pages, false))
		return -EINVAL;
	if (mmap((void *)va, pages * UIO_PAGE_SIZE, rights, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
		 -1, 0) == MAP_FAILED)
		return -ENOMEM;
	memset(mapped + first, 1, pages);
	return 0;
}

int uio_port_protect(uintptr_t va, size_t pages, unsigned int prot)
{
	long first = first_page(va, pages);
	int rights = protection(prot);

	if (first < 0 || rights < 0 || !all_are(first, pages, true))
		return -EINVAL;
	return mprotect((void *)va, pages * UIO_PAGE_SIZE, rights) < 0 ? -errno : 0;
}

int uio_port_unmap(uintptr_t va, size_t pages)
{
	long first = first_page(va, pages);

	if (first < 0 || !all_are(first, pages, true))
		return -EINVAL;
	if (mmap((void *)va, pages * UIO_PAGE_SIZE, PROT_NONE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
		return -errno;
	memset(mapped + first, 0, pages);
	return 0;
}

/* ---- the executable ---- */

static void find_build_id(const Elf64_Phdr *ph, struct uio_image *out)
{
	const uint8_t *p = (const uint8_t *)ph->p_vaddr, *end = p + ph->p_memsz;

	while (end - p >= (long)sizeof(Elf64_Nhdr)) {
		const Elf64_Nhdr *note = (const void *)p;
		const uint8_t *name = p + sizeof(*note);
		const uint8_t *desc = name + ((note->n_namesz + 3u) & ~3u);
		if (note->n_type == NT_GNU_BUILD_ID && note->n_namesz == 4 &&
		    memcmp(name, "GNU", 4) == 0) {
			out->build_id = desc;
			out->build_id_len = note->n_descsz;
		}
		p = desc + ((note->n_descsz + 3u) & ~3u);
	}
}

void uio_port_image(struct uio_image *out)
{
	const Elf64_Phdr *ph = (const void *)getauxval(AT_PHDR);
	unsigned long n = getauxval(AT_PHNUM);

	*out = (struct uio_image){.base = UINTPTR_MAX, .kernel = "hosted 1"};
	for (unsigned long i = 0; i < n; i++, ph++) {
		uintptr_t start = ph->p_vaddr & ~(uintptr_t)(UIO_PAGE_SIZE - 1);
		uintptr_t end = (ph->p_vaddr + ph->p_memsz + UIO_PAGE_SIZE - 1) &
				~(uintptr_t)(UIO_PAGE_SIZE - 1);
		if (ph->p_type == PT_NOTE)
			find_build_id(ph, out);
		if (ph->p_type != PT_LOAD)
			continue;
		if (start < out->base)
			out->base = start;
		if (end > out->end)
			out->end = end;
		if (ph->p_flags & PF_X) {
			out->text_start = start;
			out->text_end = end;
		}
	}
}

void uio_port_log(const char *text, size_t len)
{
	if (write(STDERR_FILENO, text, len) < 0)
		return; /* nobody reads it: nothing to be done */
}
