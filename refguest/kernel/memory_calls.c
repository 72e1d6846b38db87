/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Memory for the application: anonymous mappings are frames in a row at their own address, so that
 * nothing is ever faulted in. There is no program break: the C library then uses mappings. Files
 * are mapped by copying, privately.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "memory.h"
#include "ramfs.h"
#include "syscall.h"

long sys_brk(const uint64_t *a)
{
	(void)a;
	return 0;
}

static void release(uintptr_t address, size_t pages)
{
	page_protect(address, pages, PTE_RW);
	frames_free(address, pages);
}

long sys_mmap(const uint64_t *a)
{
	size_t pages = page_count(a[1]);
	unsigned int prot = (unsigned int)a[2] & 7;
	int flags = (int)a[3];
	struct file *file = NULL;
	uintptr_t address;
	uint64_t page_rights;

	if (!pages || pages > frames_total())
		return pages ? -ENOMEM : -EINVAL;
	if (!page_flags(prot, &page_rights))
		return -EACCES;
	if (!(flags & MAP_ANONYMOUS)) {
		file = file_get((int)a[4]);
		if (!file)
			return -EBADF;
		if (flags & MAP_SHARED && prot & PROT_WRITE)
			return -ENODEV;
	}
	if (flags & MAP_FIXED) {
		address = a[0];
		if (address % PAGE_SIZE || !frames_are_ram(address, pages * PAGE_SIZE))
			return -ENOMEM;
		page_protect(address, pages, PTE_RW);
	} else {
		address = frames_alloc(pages);
		if (!address)
			return -ENOMEM;
	}
	memset((void *)address, 0, pages * PAGE_SIZE);
	if (file)
		node_read(file->node, (void *)address, a[1], a[5]);
	if (page_protect(address, pages, page_rights) < 0) {
		release(address, pages);
		return -ENOMEM;
	}
	return (long)address;
}

long sys_munmap(const uint64_t *a)
{
	size_t pages = page_count(a[1]);

	if (a[0] % PAGE_SIZE || !pages || !frames_are_ram(a[0], pages * PAGE_SIZE))
		return -EINVAL;
	release(a[0], pages);
	return 0;
}

long sys_mprotect(const uint64_t *a)
{
	size_t pages = page_count(a[1]);
	uint64_t flags;

	if (a[0] % PAGE_SIZE || !frames_are_ram(a[0], pages * PAGE_SIZE))
		return pages ? -EINVAL : 0;
	if (!page_flags((unsigned int)a[2] & 7, &flags))
		return -EACCES;
	return page_protect(a[0], pages, flags);
}

long sys_madvise(const uint64_t *a)
{
	if (a[2] == MADV_DONTNEED && frames_are_ram(a[0], a[1]))
		memset((void *)a[0], 0, a[1]);
	return 0;
}

long sys_mremap(const uint64_t *a)
{
	size_t old = page_count(a[1]), new = page_count(a[2]);
	uintptr_t address;

	if (a[0] % PAGE_SIZE || !old || !new || !frames_are_ram(a[0], old * PAGE_SIZE) || a[3] & 2)
		return -EINVAL;
	if (new <= old) {
		if (new < old)
			release(a[0] + new *PAGE_SIZE, old - new);
		return (long)a[0];
	}
	address = a[3] & 1 ? frames_alloc(new) : 0;
	if (!address)
		return -ENOMEM;
	memcpy((void *)address, (void *)a[0], old * PAGE_SIZE);
	memset((void *)(address + old * PAGE_SIZE), 0, (new - old) * PAGE_SIZE);
	release(a[0], old);
	return (long)address;
}
