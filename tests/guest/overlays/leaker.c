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

/* musl's own names: malloc() itself is libuio's for an overlay. */
extern void *__libc_malloc(size_t size);
extern void __libc_free(void *p);

int main(int argc, char **argv)
{
	void *last = NULL;

	if (argc != 3)
		return 2;
	if (!strcmp(argv[1], "free")) {
		__libc_free((void *)strtoul(argv[2], NULL, 0));
		return 0;
	}
	for (long i = strtol(argv[1], NULL, 10); i > 0; i--)
		last = __libc_malloc(strtoul(argv[2], NULL, 10));
	printf("%p\n", last);
	return !last;
}
