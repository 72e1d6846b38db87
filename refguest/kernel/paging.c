/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Page tables: RAM at its own address in 2 MiB pages, split where single pages need other rights;
 * the image in 4 KiB pages by section; nothing at address 0.
 */
#include "memory.h"

#include <errno.h>
#include <string.h>

#include "cpu.h"
#include "print.h"

#define TABLE_FLAGS (PTE_PRESENT | PTE_WRITE | PTE_USER)

static uint64_t *root;

static uint64_t *new_table(void)
{
	uint64_t *table = (uint64_t *)frames_alloc(1);

	if (table)
		memset(table, 0, PAGE_SIZE);
	return table;
}

static uint64_t *next_table(uint64_t *entry, bool create)
{
	uint64_t *table;

	if (*entry & PTE_PRESENT)
		return (uint64_t *)(*entry & PTE_FRAME);
	if (!create)
		return NULL;
	table = new_table();
	if (table)
		*entry = (uint64_t)table | TABLE_FLAGS;
	return table;
}

/** The 2 MiB entry for va. */
static uint64_t *large_entry(uintptr_t va, bool create)
{
	uint64_t *table = next_table(&root[va >> 39 & 511], create);

	if (table)
		table = next_table(&table[va >> 30 & 511], create);
	return table ? &table[va >> 21 & 511] : NULL;
}

static bool is_large(const uint64_t *entry)
{
	return (*entry & (PTE_PRESENT | PTE_LARGE)) == (PTE_PRESENT | PTE_LARGE);
}

uint64_t *page_entry(uintptr_t va, bool create)
{
	uint64_t *entry = large_entry(va, create);
	uint64_t *table;

	if (!entry)
		return NULL;
	if (is_large(entry)) {
		uint64_t leaf = *entry & ~PTE_LARGE;

		table = new_table();
		if (!table)
			return NULL;
		for (unsigned int i = 0; i < 512; i++)
			table[i] = leaf + i * PAGE_SIZE;
		*entry = (uint64_t)table | TABLE_FLAGS;
		invlpg(va);
	} else {
		table = next_table(entry, create);
		if (!table)
			return NULL;
	}
	return &table[va >> 12 & 511];
}

void page_set(uint64_t *entry, uintptr_t va, uint64_t value)
{
	uint64_t old = *entry;

	if (!((old ^ value) & ~PTE_ACCESSED))
		return;
	*entry = value;
	if (old & PTE_PRESENT)
		invlpg(va);
}

bool page_is_present(uintptr_t va)
{
	uint64_t *entry = va >> 47 ? NULL : large_entry(va, false);

	if (entry && !is_large(entry)) {
		uint64_t *table = next_table(entry, false);

		entry = table ? &table[va >> 12 & 511] : NULL;
	}
	return entry && *entry & PTE_PRESENT;
}

static void map_range(uint64_t address, uint64_t end, uint64_t flags)
{
	while (address < end) {
		uint64_t step = PAGE_SIZE;
		uint64_t *entry = large_entry(address, true);

		if (entry && address % LARGE_PAGE == 0 && end - address >= LARGE_PAGE && !*entry) {
			*entry = address | flags | PTE_LARGE;
			step = LARGE_PAGE;
		} else {
			entry = entry ? page_entry(address, true) : NULL;
			if (!entry)
				panic("no memory for page tables");
			*entry = address | flags;
		}
		address += step;
	}
}

static void map_ram(uint64_t address, uint64_t end)
{
	if (address < PAGE_SIZE)
		address = PAGE_SIZE;
	if (end > ARENA_BASE && address < ARENA_END) {
		if (address < ARENA_BASE)
			map_range(address, ARENA_BASE, PTE_RW);
		address = ARENA_END;
	}
	if (address < end)
		map_range(address, end, PTE_RW);
}

static uint64_t image_flags(const uint8_t *p)
{
	if (p < __text_start || (p >= __cpu_tables && p < __cpu_stacks))
		return PTE_R;
	if (p < __text_end)
		return PTE_RX;
	return p >= __cpu_stacks && p < __cpu_end ? PTE_CPU_STACK : PTE_RW;
}

void paging_init(const struct hvm_start_info *info)
{
	const struct hvm_memmap_entry *map = (const void *)info->memmap;

	root = new_table();
	for (uint32_t i = 0; i < info->memmap_entries; i++) {
		if (map[i].type == HVM_MEMMAP_RAM)
			map_ram((map[i].addr + PAGE_MASK) & ~PAGE_MASK,
				(map[i].addr + map[i].size) & ~PAGE_MASK);
	}
	for (uint8_t *p = __image_start; p < __image_end; p += PAGE_SIZE) {
		uint64_t flags = image_flags(p);
		uint64_t *entry = page_entry((uintptr_t)p, true);

		if (!entry)
			panic("no memory for page tables");
		*entry = (uint64_t)p | flags;
	}
	write_cr3((uint64_t)root);
}

int page_protect(uintptr_t va, size_t pages, uint64_t flags)
{
	uintptr_t end = va + pages * PAGE_SIZE;

	while (va < end) {
		uint64_t *entry = large_entry(va, false);

		if (entry && is_large(entry) &&
		    (*entry & ~(PTE_FRAME | PTE_LARGE | PTE_ACCESSED)) == flags) {
			va = (va | (LARGE_PAGE - 1)) + 1;
			continue;
		}
		entry = page_entry(va, true);
		if (!entry)
			return -ENOMEM;
		page_set(entry, va, va | flags);
		va += PAGE_SIZE;
	}
	return 0;
}

void *page_map_device(uint64_t address, size_t size)
{
	uint64_t first = address & ~PAGE_MASK;
	uint64_t end = (address + size + PAGE_MASK) & ~PAGE_MASK;

	for (; first < end; first += PAGE_SIZE) {
		uint64_t *entry = page_entry(first, true);

		if (!entry)
			panic("no memory for page tables");
		*entry = first | PTE_PRESENT | PTE_WRITE | PTE_NX | PTE_UNCACHED | PTE_KEYED;
		invlpg(first);
	}
	return (void *)address;
}
