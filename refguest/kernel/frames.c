/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Physical frames: one bit per frame, set while it is in use or no RAM. Ordinary requests search
 * upwards; the arena takes frames from the top, so that the large pages it makes the page tables
 * split are few.
 */
#include "memory.h"

#include <string.h>

#include "cpu.h"
#include "print.h"

#define KERNEL_START 0x100000ull

static uint64_t *used; /* bit set: not to be had */
static size_t frame_count;
static size_t total, left;
static size_t low_hint;  /* no free frame below, except hidden ones */
static size_t high_hint; /* no free frame at or above */
static uintptr_t hidden_end;

static bool is_used(size_t frame)
{
	return used[frame / 64] >> (frame % 64) & 1;
}

static void set_used(size_t frame, bool value)
{
	if (value)
		used[frame / 64] |= 1ull << (frame % 64);
	else
		used[frame / 64] &= ~(1ull << (frame % 64));
}

static bool is_hidden(uintptr_t address)
{
	return address >= ARENA_BASE && address < ARENA_END;
}

void frames_init(const struct hvm_start_info *info)
{
	const struct hvm_memmap_entry *map = (const void *)info->memmap;
	uint64_t top = 0;
	size_t bytes, first;

	for (uint32_t i = 0; i < info->memmap_entries; i++) {
		if (map[i].type == HVM_MEMMAP_RAM && map[i].addr + map[i].size > top)
			top = map[i].addr + map[i].size;
	}
	frame_count = top / PAGE_SIZE;
	bytes = (frame_count / 64 + 1) * 8;
	used = (uint64_t *)__image_end;
	memset(used, 0xff, bytes);
	first = ((uintptr_t)used + bytes + PAGE_MASK) / PAGE_SIZE;

	for (uint32_t i = 0; i < info->memmap_entries; i++) {
		size_t frame = (map[i].addr + PAGE_MASK) / PAGE_SIZE;
		size_t end = (map[i].addr + map[i].size) / PAGE_SIZE;

		if (map[i].type != HVM_MEMMAP_RAM || map[i].addr + map[i].size <= KERNEL_START)
			continue;
		total += end - frame;
		for (frame = frame < first ? first : frame; frame < end; frame++) {
			set_used(frame, false);
			left++;
		}
		if (end * PAGE_SIZE > ARENA_BASE && map[i].addr <= ARENA_BASE)
			hidden_end = end * PAGE_SIZE < ARENA_END ? end * PAGE_SIZE : ARENA_END;
	}
	low_hint = first;
	high_hint = frame_count;
}

/** First run of n free frames in [from, end); end if there is none. */
static size_t find_run(size_t from, size_t end, size_t n)
{
	size_t run = 0;

	for (size_t frame = from; frame < end;) {
		if (frame % 64 == 0 && used[frame / 64] == ~0ull) {
			run = 0;
			frame += 64;
			continue;
		}
		if (frame % 64 == 0 && used[frame / 64] == 0 && run + 64 < n && frame + 64 <= end) {
			run += 64;
			frame += 64;
			continue;
		}
		run = is_used(frame) ? 0 : run + 1;
		frame++;
		if (run == n)
			return frame - n;
	}
	return end;
}

uintptr_t frames_alloc(size_t n)
{
	size_t arena = ARENA_BASE / PAGE_SIZE, beyond = ARENA_END / PAGE_SIZE;
	size_t end = frame_count < arena ? frame_count : arena;
	size_t start;

	if (!n || n > left)
		return 0;
	start = find_run(low_hint, end, n);
	if (start == end && frame_count > beyond) {
		start = find_run(low_hint > beyond ? low_hint : beyond, frame_count, n);
		end = frame_count;
	}
	if (start == end)
		return 0;
	for (size_t i = 0; i < n; i++)
		set_used(start + i, true);
	left -= n;
	if (n == 1 && end != frame_count)
		low_hint = start + 1;
	return start * PAGE_SIZE;
}

void frames_free(uintptr_t address, size_t n)
{
	size_t start = address / PAGE_SIZE;

	for (size_t i = 0; i < n; i++) {
		if (!is_used(start + i))
			panic("frame %lx freed twice", address + i * PAGE_SIZE);
		set_used(start + i, false);
	}
	left += n;
	if (start < low_hint)
		low_hint = start;
	if (start + n > high_hint)
		high_hint = start + n;
}

uintptr_t frame_take(void)
{
	size_t frame;
	uint64_t *entry;

	if (hidden_end) {
		size_t end = hidden_end / PAGE_SIZE;

		frame = find_run(ARENA_BASE / PAGE_SIZE, end, 1);
		if (frame != end) {
			set_used(frame, true);
			left--;
			return frame * PAGE_SIZE;
		}
	}
	for (frame = high_hint; frame > 0; frame--) {
		if (frame % 64 == 0 && used[frame / 64 - 1] == ~0ull) {
			frame -= 63;
			continue;
		}
		if (is_used(frame - 1) || is_hidden((frame - 1) * PAGE_SIZE))
			continue;
		/* Take it first: splitting a large page may need a frame itself. */
		set_used(frame - 1, true);
		left--;
		high_hint = frame - 1;
		entry = page_entry((frame - 1) * PAGE_SIZE, true);
		if (!entry) {
			frames_free((frame - 1) * PAGE_SIZE, 1);
			return 0;
		}
		page_set(entry, (frame - 1) * PAGE_SIZE, 0);
		return (frame - 1) * PAGE_SIZE;
	}
	return 0;
}

void frame_give(uintptr_t frame)
{
	if (!is_hidden(frame))
		*page_entry(frame, false) = frame | PTE_RW;
	frames_free(frame, 1);
}

size_t frames_total(void)
{
	return total;
}

size_t frames_left(void)
{
	return left;
}

bool frames_are_ram(uintptr_t address, size_t size)
{
	uintptr_t end = address + size;

	return address >= (uintptr_t)__image_end && end > address &&
	       end <= frame_count * PAGE_SIZE && (end <= ARENA_BASE || address >= ARENA_END);
}
