/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Lets the application's own allocator give out blocks that nobody frees, and prints where the last
 * one is: `leaker COUNT SIZE`; or frees one again: `leaker free ADDRESS`.
 */
// uio: name = "leaker"
// uio: version = "1.0"
// uio: usage = "COUNT SIZE | free ADDRESS"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* malloc() itself is libuio's for an overlay; these are musl's own names for the application's. */
extern void *__libc_malloc(size_t size) __attribute__((weak));
extern void __libc_free(void *p) __attribute__((weak));

/* Without musl, what Unikraft's malloc() is. */
struct uk_alloc;
extern struct uk_alloc *_uk_alloc_head __attribute__((weak));
extern void *uk_malloc_ifpages(struct uk_alloc *a, size_t size) __attribute__((weak));
extern void uk_free_ifpages(struct uk_alloc *a, void *p) __attribute__((weak));

static void *take(size_t size)
{
	return __libc_malloc ? __libc_malloc(size) : uk_malloc_ifpages(_uk_alloc_head, size);
}

static void give(void *p)
{
	if (__libc_free)
		__libc_free(p);
	else
		uk_free_ifpages(_uk_alloc_head, p);
}

int main(int argc, char **argv)
{
	void *last = NULL;

	if (argc != 3)
		return 2;
	if (!strcmp(argv[1], "free")) {
		give((void *)strtoul(argv[2], NULL, 0));
		return 0;
	}
	for (long i = strtol(argv[1], NULL, 10); i > 0; i--)
		last = take(strtoul(argv[2], NULL, 10));
	printf("%p\n", last);
	return !last;
}
