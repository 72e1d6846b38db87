/* SPDX-License-Identifier: BSD-3-Clause */
/* What no overlay shall get away with; the argument says which. Without one it behaves. */
// uio: name = "hostile"
// uio: version = "1"
// uio: memory = "8M"
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern long secret, *on_heap, *on_stack;
extern void *uio_runs;
extern unsigned long *uio_gate_table;
extern int call(int (*fn)(int), int value);
extern void fill(void *to, int value, size_t n);
/* Of Unikraft; what it returns begins with the root's address. */
extern unsigned long **ukplat_pt_get_active(void) __attribute__((weak));

static volatile long sink;
static char data[64] = {(char)0xc3};
static jmp_buf nowhere;

#define WRITE(address) (*(volatile long *)(address) = 5)
#define READ(address)  (sink = *(const volatile long *)(address))

static void page_table(unsigned long *root)
{
	if (!root && ukplat_pt_get_active)
		root = *ukplat_pt_get_active();
	if ((root[0] & 7) != 7)
		_exit(99);
	WRITE(&root[300]);
}

static void jump(const void *to)
{
	((void (*)(void))to)();
}

__attribute__((noinline)) static int deep(int n)
{
	volatile char room[500];

	room[0] = (char)n;
	return deep(n + 1) + room[0];
}

__attribute__((noinline)) static void smash(void)
{
	void *volatile *frame = __builtin_frame_address(0);

	frame[1] = (void *)0x1234567;
}

static int faults(int value)
{
	WRITE(&secret);
	return value;
}

__attribute__((noinline, naked)) static void unaligned(void)
{
	__asm__("movaps 1(%rsp), %xmm0; ret");
}

__attribute__((noinline, naked)) static void other_stack(void)
{
	/* Calls the kernel with a stack pointer that is in the application's memory. */
	__asm__("movq on_stack, %rsp; andq $-16, %rsp; call getpid; ret");
}

static int child(int value)
{
	return value;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	unsigned long number = argc > 2 ? strtoul(argv[2], NULL, 0) : 0;

	if (!strcmp(what, "data"))
		WRITE(&secret);
	else if (!strcmp(what, "heap"))
		WRITE(on_heap);
	else if (!strcmp(what, "stack"))
		WRITE(on_stack);
	else if (!strcmp(what, "page-table"))
		page_table((unsigned long *)number);
	else if (!strcmp(what, "kernel-text"))
		WRITE(call);
	else if (!strcmp(what, "own-text"))
		WRITE(main);
	else if (!strcmp(what, "mmio"))
		WRITE(number);
	else if (!strcmp(what, "runs"))
		WRITE(&uio_runs);
	else if (!strcmp(what, "gates"))
		WRITE(uio_gate_table);
	else if (!strcmp(what, "kernel-stack"))
		/* Of its own run: below its stack and that one's guard. */
		WRITE((unsigned long)__builtin_frame_address(0) - 0x26000);
	else if (!strcmp(what, "other"))
		WRITE(number);
	else if (!strcmp(what, "other-read"))
		READ(number);
	else if (!strcmp(what, "null"))
		WRITE(8);
	else if (!strcmp(what, "non-canonical"))
		WRITE(0x8000000000000000);
	else if (!strcmp(what, "jump-data"))
		jump(data);
	else if (!strcmp(what, "jump-null"))
		jump(NULL);
	else if (!strcmp(what, "ud2"))
		__asm__ volatile("ud2");
	else if (!strcmp(what, "divide"))
		__asm__ volatile("xorl %%edx, %%edx; divl %0" ::"r"((unsigned int)number)
				 : "rax", "rdx");
	else if (!strcmp(what, "overflow"))
		return deep(0);
	else if (!strcmp(what, "gp"))
		jump((void *)0x8000000000000000);
	else if (!strcmp(what, "unaligned"))
		unaligned();
	else if (!strcmp(what, "other-stack"))
		other_stack();
	else if (!strcmp(what, "bad-pointer"))
		fill((void *)16, 0, 8);
	else if (!strcmp(what, "bad-string"))
		return atoi((char *)16);
	else if (!strcmp(what, "bad-copy"))
		memcpy(on_heap, "harm", 5);
	else if (!strcmp(what, "bad-read"))
		return (int)read(0, on_heap, 8);
	else if (!strcmp(what, "callback"))
		return call(faults, 1);
	else if (!strcmp(what, "loop"))
		for (;;)
			__asm__ volatile("");
	else if (!strcmp(what, "output"))
		for (;;)
			puts("and so on, and so on, and so on, and so on, and so on, and so on");
	else if (!strcmp(what, "allocation"))
		for (;;)
			memset(malloc(100000), 1, 100000);
	else if (!strcmp(what, "abort"))
		abort();
	else if (!strcmp(what, "longjmp"))
		longjmp(nowhere, 1);
	else if (!strcmp(what, "smash"))
		smash();
	else if (!strcmp(what, "free-twice")) {
		char *volatile p = malloc(10);

		free(p);
		free(p);
	} else if (!strcmp(what, "free-wild"))
		free(&data[16]);
	return call(child, 40) == 41 ? 7 : 1;
}
