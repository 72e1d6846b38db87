/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A stand-in for a kernel, as a static Linux program: maps an image that
 * overlays.link made for it, fills its slots and runs it like the guest would.
 *
 *   overlay_kernel [-g NAME] IMAGE [ARG…]
 *
 * With -g the slot of function NAME gets gate() instead, which ends the
 * program with status 42: a call that went past the slot would not.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct header {
	char magic[8];
	uint8_t hash[32], build_id[20];
	uint32_t size;
	uint64_t base, entry;
	uint32_t nseg, nimport, ninit, nfini;
	char name[64];
	uint8_t policy[32];
} __attribute__((packed));

struct segment {
	uint32_t offset, file_size, mem_size, prot;
};

struct import {
	uint64_t target;
	uint32_t slot, kind;
};

extern const char back[];
__asm__(".text\nback:\n\tjmp *%r11\n");

/* What the overlays of the tests import. */
struct pair {
	int a;
	long b;
};
enum mode { MODE_ONE, MODE_TWO };
typedef int (*callback)(int);

long counter = 5;
int table[4] = {10, 20, 30, 40};
const char *const banner = "kernel";
struct pair pair = {1, 2};

void set_count(long value)
{
	counter = value;
	printf("count %ld\n", value);
}

long add(long a, long b)
{
	return a + b;
}

struct pair twice(const struct pair *p)
{
	return (struct pair){2 * p->a, 2 * p->b};
}

int apply(callback fn, int value)
{
	return fn(value);
}

double halve(double x, enum mode mode)
{
	return mode == MODE_ONE ? x / 2 : x / 4;
}

int sum(int n, ...)
{
	va_list ap;
	int total = 0;

	va_start(ap, n);
	while (n--)
		total += va_arg(ap, int);
	va_end(ap);
	return total;
}

int uio_libc_puts(const char *text)
{
	return printf("uio: %s\n", text);
}

static void gate(void)
{
	printf("gate\n");
	fflush(stdout);
	_exit(42);
}

/* Keeps these in the program, and in its symbol table. */
void *const kept[] = {memcpy,         memset,  memmove,    memcmp,          strlen,
		      strtol,         malloc,  free,       qsort,           puts,
		      putchar,        fprintf, snprintf,   (void *)&stderr, write,
		      abort,          exit,    calloc,     fputs,           (void *)fwrite,
		      (void *)strcmp, atoi,    (void *)abs};

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "overlay_kernel: %s\n", what);
	exit(99);
}

int main(int argc, char **argv)
{
	const char *gated = NULL;

	if (argc > 3 && !strcmp(argv[1], "-g")) {
		gated = argv[2];
		argv += 2;
		argc -= 2;
	}
	if (argc < 2)
		die("usage");

	FILE *file = fopen(argv[1], "rb");
	static uint8_t image[1 << 20];
	if (!file)
		die("no image");
	size_t got = fread(image, 1, sizeof image, file);
	fclose(file);

	struct header *h = (void *)image;
	struct segment *seg = (void *)(h + 1);
	struct import *imp = (void *)(seg + h->nseg);
	uint64_t *calls = (void *)(imp + h->nimport);
	uint8_t *data = (void *)(calls + h->ninit + h->nfini);
	if (memcmp(h->magic, "\0uIOIMG1", 8))
		die("magic");
	char *base = mmap((void *)h->base, h->size, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	if (base != (void *)h->base)
		die("base is taken");
	for (uint32_t i = 0; i < h->nseg; i++) {
		if (data + seg[i].file_size > image + got)
			die("cut off");
		memcpy(base + seg[i].offset, data, seg[i].file_size);
		data += seg[i].file_size;
	}
	if (data != image + got)
		die("trailing bytes");
	for (uint32_t i = 0; i < h->nimport; i++) {
		uint64_t target = imp[i].target;
		if (gated && target == strtoull(gated, NULL, 16))
			target = (uint64_t)gate;
		if (imp[i].kind ==
		    3) /* whoever calls the overlay's functions: all have the same rights here */
			target = (uint64_t)back;
		memcpy(base + imp[i].slot, &target, sizeof target);
	}
	for (uint32_t i = 0; i < h->nseg; i++) {
		int prot = (seg[i].prot & 1 ? PROT_READ : 0) | (seg[i].prot & 2 ? PROT_WRITE : 0) |
			   (seg[i].prot & 4 ? PROT_EXEC : 0);
		size_t pages = (seg[i].mem_size + 4095u) & ~(size_t)4095;
		if (mprotect(base + seg[i].offset, pages, prot))
			die("mprotect");
	}
	for (uint32_t i = 0; i < h->ninit; i++)
		((void (*)(void))calls[i])();
	int status = ((int (*)(int, char **))h->entry)(argc - 1, argv + 1);
	for (uint32_t i = h->nfini; i--;)
		((void (*)(void))calls[h->ninit + i])();
	fflush(stdout);
	return status;
}
