/* SPDX-License-Identifier: BSD-3-Clause */
/* Every way to go wrong that a test asks for by name; what comes after it must not be reached. */
#include <assert.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <uio/uio.h>

extern long app_counter;
extern void app_fill(char *to, int value, size_t n);
extern int app_call(int (*fn)(int), int value);

static const char constant[16] = "constant";
static char data[64];
static volatile int zero;
static volatile int sink;
static char *volatile null_pointer;

static int deeper(int n)
{
	volatile char room[256];

	room[0] = (char)n;
	return deeper(n + 1) + room[0];
}

__attribute__((noinline)) static void smash(void *volatile *frame)
{
	for (int i = 0; i < 8; i++)
		frame[i] = (void *)0x4141414141414141;
}

__attribute__((noinline)) static void smash_return(void)
{
	void *volatile frame[2];

	smash(frame);
}

__attribute__((noinline)) static void smash_return_null(void)
{
	void *volatile *frame = __builtin_frame_address(0);

	frame[1] = NULL;
}

static int faulty_callback(int n)
{
	return *(volatile int *)(uintptr_t)n;
}

static int compare_badly(const void *a, const void *b)
{
	(void)a, (void)b;
	return *(volatile int *)0x10;
}

static void write_text(void)
{
	*(volatile char *)(uintptr_t)write_text = 0;
}

static void write_kernel_text(void)
{
	*(volatile char *)(uintptr_t)app_fill = 0;
}

static void write_constant(void)
{
	*(volatile char *)(uintptr_t)constant = 0;
}

/* The read-only slot behind this program's own call of app_fill(). */
static void write_got(void)
{
	const unsigned char *stub = (const unsigned char *)(uintptr_t)app_fill;
	int distance;

	memcpy(&distance, stub + 2, sizeof(distance));
	*(void *volatile *)(uintptr_t)(stub + 6 + distance) = NULL;
}

static void call(const void *address)
{
	void (*fn)(void);

	memcpy(&fn, &address, sizeof(fn));
	fn();
}

static void use_stack_as_code(void)
{
	char code[16] = {(char)0xc3};

	call(code);
}

static void use_heap_as_code(void)
{
	char *code = malloc(16);

	*code = (char)0xc3;
	call(code);
}

static void lose_stack(void)
{
	__asm__ volatile("mov $0x123456789, %%rsp; push %%rax" ::: "memory");
}

static void mix_registers(void)
{
	/* Direction flag, floating-point control, callee-saved registers, frame pointer: all of
	 * them wrong. */
	static const unsigned int control = 0x0000;

	__asm__ volatile(
		"std; ldmxcsr %0; fninit; xor %%ebp, %%ebp; xor %%ebx, %%ebx; xor %%r12d, %%r12d; "
		"xor %%r15d, %%r15d; mov %%rbp, (%%rbx)"
		:
		: "m"(control)
		: "memory", "rbx", "r12", "r15");
}

static void endless_allocation(void)
{
	size_t n = 0;

	while (malloc(10000))
		n++;
	printf("refused beyond %d MB\n", (int)(n / 100));
	abort();
}

static void hold_everything(void)
{
	for (int i = 0; i < 10; i++) {
		char *block = malloc(5000);

		memset(block, i, 5000);
		uio_open("/proc/self/status", O_RDONLY, 0);
		if (i % 2)
			free(block);
	}
	*null_pointer = 1;
}

/* Damages what lies around its blocks, as an overflow does, then ends with a fault. */
static void overflow_heap(void)
{
	char *block[20];

	for (int i = 0; i < 20; i++)
		block[i] = malloc(24);
	for (int i = 0; i < 20; i++)
		memset(block[i] - 8, 0x41, 8);
	*null_pointer = 1;
}

static void jump_out(void)
{
	jmp_buf nowhere;

	memset(&nowhere, 0x41, sizeof(nowhere));
	longjmp(nowhere, 1);
}

static void exit_in_handler(void)
{
	puts("handler");
	exit(9);
}

static const struct {
	const char *name;
	void (*run)(void);
} simple[] = {
	{"write text", write_text},
	{"write kernel text", write_kernel_text},
	{"write constant", write_constant},
	{"write got", write_got},
	{"stack as code", use_stack_as_code},
	{"heap as code", use_heap_as_code},
	{"smash return", smash_return},
	{"return to null", smash_return_null},
	{"lose stack", lose_stack},
	{"mix registers", mix_registers},
	{"endless allocation", endless_allocation},
	{"hold everything", hold_everything},
	{"overflow heap", overflow_heap},
	{"longjmp out", jump_out},
};

static void by_statement(const char *what, int argc)
{
	if (!strcmp(what, "null write"))
		*null_pointer = 1;
	else if (!strcmp(what, "null read"))
		sink = *null_pointer;
	else if (!strcmp(what, "non-canonical"))
		*(volatile char *)0x8000000000000000 = 1;
	else if (!strcmp(what, "jump to data"))
		call(data);
	else if (!strcmp(what, "jump to null"))
		call(NULL);
	else if (!strcmp(what, "jump non-canonical"))
		call((void *)0x4141414141414141);
	else if (!strcmp(what, "ud2"))
		__asm__ volatile("ud2");
	else if (!strcmp(what, "int3"))
		__asm__ volatile("int3");
	else if (!strcmp(what, "divide"))
		sink = argc / zero;
	else if (!strcmp(what, "privileged"))
		__asm__ volatile("hlt");
	else if (!strcmp(what, "stack overflow"))
		sink = deeper(0);
	else if (!strcmp(what, "abort"))
		abort();
	else if (!strcmp(what, "assert"))
		assert(argc == 100);
	else if (!strcmp(what, "endless loop"))
		for (;;)
			;
	else if (!strcmp(what, "endless output"))
		for (;;)
			puts("more and more");
	else if (!strcmp(what, "endless sleep"))
		uio_sleep_ns(1000000000000000000);
	else if (!strcmp(what, "bad pointer to kernel"))
		app_fill((char *)0x10, 1, 100);
	else if (!strcmp(what, "bad pointer to uIO"))
		uio_write(1, (void *)0x10, 100);
	else if (!strcmp(what, "bad path to uIO"))
		uio_open((char *)0x10, 0, 0);
	else if (!strcmp(what, "bad buffer to uIO"))
		uio_read(0, (void *)(uintptr_t)constant, 10);
	else if (!strcmp(what, "bad format"))
		printf("%s", (char *)0x10);
	else if (!strcmp(what, "fault in callback"))
		sink = app_call(faulty_callback, 0x10);
	else if (!strcmp(what, "fault in qsort"))
		qsort(data, 8, 8, compare_badly);
	else if (!strcmp(what, "free twice")) {
		char *p = malloc(10);

		free(p);
		*(volatile char *)0x20 = *p;
	}
}

int main(int argc, char **argv)
{
	char what[64] = "";

	for (int i = 1; i < argc; i++)
		strcat(strcat(what, i > 1 ? " " : ""), argv[i]);
	printf("before\n");
	app_counter++;
	if (!strcmp(what, "exit"))
		exit(7);
	if (!strcmp(what, "exit in handler"))
		atexit(exit_in_handler);
	if (!strcmp(what, "polite")) {
		while (!uio_interrupted())
			uio_sleep_ns(1000000);
		printf("interrupted by %d\n", uio_interrupted());
		return 11;
	}
	for (size_t i = 0; i < sizeof(simple) / sizeof(simple[0]); i++)
		if (!strcmp(simple[i].name, what))
			simple[i].run();
	by_statement(what, argc);
	printf("after\n");
	return 3;
}
