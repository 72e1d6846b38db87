/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Memory: physical frames, page tables, heap, and the arena for overlays.
 *
 * All RAM is mapped at its own address, readable and writable, never executable. Two kinds of
 * frames are not: those that lie where the arena is (machines with more than 1.75 GiB), and those
 * that the arena takes. So nothing can be written through a second address that may be executed at
 * the first, nor under another protection key.
 */
#ifndef REFGUEST_MEMORY_H
#define REFGUEST_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "boot.h"

#define PAGE_SIZE  4096ul
#define PAGE_MASK  (PAGE_SIZE - 1)
#define LARGE_PAGE (2ul << 20)

#define ARENA_BASE 0x70000000ul
#define ARENA_SIZE 0x10000000ul
#define ARENA_END  (ARENA_BASE + ARENA_SIZE)

#define PTE_PRESENT  1ul
#define PTE_WRITE    2ul
#define PTE_USER     4ul
#define PTE_UNCACHED 0x18ul
#define PTE_ACCESSED 0x60ul /* and dirty: the CPU's to set */
#define PTE_LARGE    0x80ul
#define PTE_OWNED    0x200ul /* ours: the entry holds a frame, present or not */
#define PTE_NX       (1ul << 63)
#define PTE_FRAME    0x000ffffffffff000ul

/*
 * Protection keys govern "user" pages alone. Everything that can be written is such a page and has
 * the kernel's key, except the CPU's own tables and interrupt stacks (link.ld); the image's text
 * and constants are not, so that they can always be read.
 */
#define PTE_KEY(key)  ((uint64_t)(key) << 59)
#define PTE_KEY_MASK  PTE_KEY(15)
#define KERNEL_KEY    1u
#define PTE_KEYED     (PTE_USER | PTE_KEY(KERNEL_KEY))
#define PTE_CPU_STACK (PTE_PRESENT | PTE_WRITE | PTE_NX | PTE_OWNED)

#define PTE_RW (PTE_PRESENT | PTE_WRITE | PTE_NX | PTE_OWNED | PTE_KEYED)
#define PTE_R  (PTE_PRESENT | PTE_NX | PTE_OWNED)
#define PTE_RX (PTE_PRESENT | PTE_OWNED)

/* frames.c */
void frames_init(const struct hvm_start_info *info);
/** n frames in a row, mapped at their own address, not zeroed; 0 when there are none. */
uintptr_t frames_alloc(size_t n);
void frames_free(uintptr_t address, size_t n);
/** One frame for the arena: unmapped at its own address, or never mapped there. */
uintptr_t frame_take(void);
void frame_give(uintptr_t frame);
size_t frames_total(void);
size_t frames_left(void);
bool frames_are_ram(uintptr_t address, size_t size);

/* paging.c */
void paging_init(const struct hvm_start_info *info);
/** The 4 KiB entry for va; missing tables are made (create) and large pages split. NULL: none, or
 * no memory. */
uint64_t *page_entry(uintptr_t va, bool create);
bool page_is_present(uintptr_t va);
/** Change what entry says of va. What was not there, or stays as it is, the CPU has nothing old of.
 */
void page_set(uint64_t *entry, uintptr_t va, uint64_t value);
/** Give pages that are mapped at their own address the rights of flags. -ENOMEM. */
int page_protect(uintptr_t va, size_t pages, uint64_t flags);
/** Make a device's registers accessible. */
void *page_map_device(uint64_t address, size_t size);

/* arena.c: as uio_port_map() and so on, with PROT_* bits 1 read, 2 write, 4 execute */
int arena_map(uintptr_t va, size_t pages, unsigned int prot);
int arena_protect(uintptr_t va, size_t pages, unsigned int prot);
int arena_unmap(uintptr_t va, size_t pages);
/** Give mapped pages a protection key, 0 to 15. */
int arena_tag(uintptr_t va, size_t pages, unsigned int key);
/** Flags for PROT_* bits; false if writable and executable. */
bool page_flags(unsigned int prot, uint64_t *flags);

/* heap.c */
void *heap_alloc(size_t size);
void *heap_zalloc(size_t size);
void heap_free(void *ptr);

static inline size_t page_count(size_t bytes)
{
	return (bytes + PAGE_MASK) / PAGE_SIZE;
}

#endif
