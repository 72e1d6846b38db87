/* SPDX-License-Identifier: BSD-3-Clause */
/* Memory through the port. */
#include <errno.h>
#include <string.h>

#include "selftest.h"

void *map_code(const void *code, size_t len)
{
	uintptr_t base;
	size_t size;

	uio_port_arena(&base, &size);
	base += size / 2;
	if (uio_port_map(base, 1, UIO_PROT_READ | UIO_PROT_WRITE) < 0)
		return NULL;
	memcpy((void *)base, code, len);
	uio_port_protect(base, 1, UIO_PROT_READ | UIO_PROT_EXEC);
	return (void *)base;
}

void unmap_code(void *code)
{
	uio_port_unmap((uintptr_t)code, 1);
}

bool test_image(void)
{
	struct uio_image image;
	uintptr_t here = (uintptr_t)test_image;

	uio_port_image(&image);
	CHECK(image.text_start <= here && here < image.text_end);
	CHECK(image.base <= image.text_start && image.text_end <= image.end);
	CHECK(image.build_id_len == 20);
	CHECK(image.slide == 0 && image.kernel);
	return true;
}

bool test_heap(void)
{
	static void *pieces[2000];
	size_t total, before, after;

	uio_port_free(uio_port_alloc(1));
	uio_port_meminfo(&total, &before);
	CHECK(before > 0 && before < total);
	for (int round = 0; round < 3; round++) {
		for (size_t i = 0; i < 2000; i++) {
			size_t size = 1 + i * 7 % 5000;

			pieces[i] = uio_port_alloc(size);
			CHECK(pieces[i] && (uintptr_t)pieces[i] % 16 == 0);
			memset(pieces[i], (int)i, size);
		}
		for (size_t i = 0; i < 2000; i++) {
			size_t size = 1 + i * 7 % 5000, at = size * 3 / 4;

			CHECK(((uint8_t *)pieces[i])[at] == (uint8_t)i);
			uio_port_free(pieces[i]);
		}
	}
	uio_port_meminfo(&total, &after);
	/* One empty page per size may stay. */
	CHECK(after <= before && before - after <= 16 * UIO_PAGE_SIZE);
	CHECK(!uio_port_alloc(total));
	return true;
}

bool test_arena(void)
{
	uintptr_t base;
	size_t size, total, before, after;
	volatile uint8_t *page;

	uio_port_arena(&base, &size);
	CHECK(size >= 64u << 20 && base + size <= 1ull << 31);
	CHECK(uio_port_map(base - UIO_PAGE_SIZE, 1, UIO_PROT_READ) == -EINVAL);
	CHECK(uio_port_map(base + size, 1, UIO_PROT_READ) == -EINVAL);
	CHECK(uio_port_map(base + size - UIO_PAGE_SIZE, 2, UIO_PROT_READ) == -EINVAL);
	CHECK(uio_port_map(base + 1, 1, UIO_PROT_READ) == -EINVAL);
	CHECK(uio_port_map(base, 0, UIO_PROT_READ) == -EINVAL);
	CHECK(uio_port_map(base, 1, UIO_PROT_WRITE | UIO_PROT_EXEC) == -EINVAL);
	CHECK(uio_port_unmap(base, 1) == -EINVAL);
	CHECK(uio_port_protect(base, 1, UIO_PROT_READ) == -EINVAL);

	/* The first round makes page tables, which stay. */
	CHECK(uio_port_map(base, 600, UIO_PROT_READ | UIO_PROT_WRITE) == 0);
	CHECK(uio_port_unmap(base, 600) == 0);
	uio_port_meminfo(&total, &before);
	for (int round = 0; round < 200; round++) {
		CHECK(uio_port_map(base, 600, UIO_PROT_READ | UIO_PROT_WRITE) == 0);
		CHECK(uio_port_map(base + 599 * UIO_PAGE_SIZE, 2, UIO_PROT_READ) == -EINVAL);
		page = (volatile uint8_t *)base + (round * 3 % 600) * UIO_PAGE_SIZE;
		CHECK(page[0] == 0 && page[4095] == 0);
		page[0] = page[4095] = 0xa5;
		CHECK(uio_port_protect(base, 600, UIO_PROT_READ | UIO_PROT_EXEC) == 0);
		CHECK(page[0] == 0xa5);
		CHECK(uio_port_unmap(base, 600) == 0);
	}
	uio_port_meminfo(&total, &after);
	CHECK(before == after);
	return true;
}

bool test_arena_exhaustion(void)
{
	uintptr_t base;
	size_t size, total, before, after;
	size_t pages = 0;

	uio_port_arena(&base, &size);
	uio_port_meminfo(&total, &before);
	if (size < before)
		return true; /* all of the arena fits: nothing runs out */
	CHECK(uio_port_map(base, size / UIO_PAGE_SIZE, UIO_PROT_READ) == -ENOMEM);
	while (uio_port_map(base + pages * UIO_PAGE_SIZE, 16, UIO_PROT_READ) == 0)
		pages += 16;
	CHECK(pages > 0 && uio_port_unmap(base, pages) == 0);
	/* What is not given back are page tables: one per 2 MiB of memory and of the arena used. */
	uio_port_meminfo(&total, &after);
	CHECK(before - after <= 2 * (before >> 21) * UIO_PAGE_SIZE + 4 * UIO_PAGE_SIZE);
	return true;
}
