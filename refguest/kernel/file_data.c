/* SPDX-License-Identifier: BSD-3-Clause */
/* What is in a file: pages, holes, or a device. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "lapic.h"
#include "memory.h"
#include "print.h"
#include "ramfs.h"
#include "syscall.h"

static ssize_t device_read(enum device device, void *buf, size_t len)
{
	switch (device) {
	case DEVICE_ZERO:
		memset(buf, 0, len);
		return (ssize_t)len;
	case DEVICE_RANDOM:
		random_bytes(buf, len);
		return (ssize_t)len;
	default:
		return 0; /* nobody types at the serial console */
	}
}

ssize_t node_read(struct node *node, void *buf, size_t len, uint64_t offset)
{
	uint8_t *out = buf;

	if (S_ISDIR(node->mode))
		return -EISDIR;
	if (node->device)
		return device_read(node->device, buf, len);
	if (offset >= node->size)
		return 0;
	if (len > node->size - offset)
		len = node->size - offset;
	for (size_t left = len; left;) {
		size_t index = offset / PAGE_SIZE, at = offset % PAGE_SIZE;
		size_t n = left < PAGE_SIZE - at ? left : PAGE_SIZE - at;

		if (index < node->page_slots && node->pages[index])
			memcpy(out, node->pages[index] + at, n);
		else
			memset(out, 0, n);
		out += n;
		offset += n;
		left -= n;
	}
	return (ssize_t)len;
}

static int grow_slots(struct node *node, size_t want)
{
	size_t slots = node->page_slots ? node->page_slots : 4;
	uint8_t **pages;

	while (slots < want)
		slots *= 2;
	if (slots == node->page_slots)
		return 0;
	pages = heap_zalloc(slots * sizeof(*pages));
	if (!pages)
		return -ENOSPC;
	if (node->page_slots)
		memcpy(pages, node->pages, node->page_slots * sizeof(*pages));
	heap_free(node->pages);
	node->pages = pages;
	node->page_slots = slots;
	return 0;
}

ssize_t node_write(struct node *node, const void *buf, size_t len, uint64_t offset)
{
	const uint8_t *in = buf;
	size_t done = 0;

	if (S_ISDIR(node->mode))
		return -EISDIR;
	if (node->device) {
		if (node->device == DEVICE_CONSOLE)
			serial_write(buf, len);
		return (ssize_t)len;
	}
	if (offset + len < offset || (offset + len) / PAGE_SIZE > frames_total())
		return -EFBIG;
	while (done < len) {
		size_t index = offset / PAGE_SIZE, at = offset % PAGE_SIZE;
		size_t n = len - done < PAGE_SIZE - at ? len - done : PAGE_SIZE - at;

		if (grow_slots(node, index + 1) < 0)
			break;
		if (!node->pages[index]) {
			node->pages[index] = (uint8_t *)frames_alloc(1);
			if (!node->pages[index])
				break;
			memset(node->pages[index], 0, PAGE_SIZE);
		}
		memcpy(node->pages[index] + at, in + done, n);
		done += n;
		offset += n;
		if (offset > node->size)
			node->size = offset;
	}
	node->mtime_ns = clock_wall_base + clock_ns();
	return done || !len ? (ssize_t)done : -ENOSPC;
}

int node_truncate(struct node *node, uint64_t size)
{
	size_t keep = page_count(size);

	if (S_ISDIR(node->mode))
		return size ? -EISDIR : 0;
	if (size / PAGE_SIZE > frames_total())
		return -EFBIG;
	for (size_t i = keep; i < node->page_slots; i++) {
		if (node->pages[i])
			frames_free((uintptr_t)node->pages[i], 1);
		node->pages[i] = NULL;
	}
	/* What lies behind the end must read as zero if the file grows again. */
	if (size % PAGE_SIZE && keep <= node->page_slots && node->pages[keep - 1])
		memset(node->pages[keep - 1] + size % PAGE_SIZE, 0, PAGE_SIZE - size % PAGE_SIZE);
	node->size = size;
	node->mtime_ns = clock_wall_base + clock_ns();
	return 0;
}
