/* SPDX-License-Identifier: BSD-3-Clause */
/* A program with something of everything that a loader has to get right. It says what it finds
 * wrong. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uio/uio.h>

extern long app_counter;
extern char app_text[];
extern long app_sum(long a, long b, long c, long d, long e, long f, long g, long h);
extern int app_call(int (*fn)(int), int value);
extern void not_there(void) __attribute__((weak));
extern int no_variable __attribute__((weak));

#define CHECK(what)                                                                                \
	do {                                                                                       \
		if (!(what)) {                                                                     \
			printf("wrong: %s (line %d)\n", #what, __LINE__);                          \
			failures++;                                                                \
		}                                                                                  \
	} while (0)

static int failures;

static int twice(int x)
{
	return 2 * x;
}

static int thrice(int x)
{
	return 3 * x;
}

static int (*const table[])(int) = {twice, thrice, abs};
static const char *const words[] = {"zero", "one", "two"};
static const char *pointer = "pointed at";
static long *counter = &app_counter;
static char *text_from_two = app_text + 2;
static char zeroes[20000];
static int aligned __attribute__((aligned(1024))) = 9;
int common_one;
long common_array[100] __attribute__((common, aligned(64)));
static int order;
static int first, second, third;

__attribute__((constructor(300))) static void construct_second(void)
{
	second = ++order;
}

__attribute__((constructor(200))) static void construct_first(void)
{
	first = ++order;
}

__attribute__((constructor)) static void construct_third(void)
{
	third = ++order;
}

__attribute__((destructor)) static void destruct(void)
{
	*counter += 1000;
}

__attribute__((noinline)) static const char *name_of(int n)
{
	switch (n) {
	case 0:
		return "nought";
	case 1:
		return "ace";
	case 2:
		return "deuce";
	case 3:
		return "trey";
	case 4:
		return "four";
	case 5:
		return "five";
	default:
		return "many";
	}
}

static int compare(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

static void check_data(void)
{
	CHECK(first == 1 && second == 2 && third == 3);
	CHECK(table[0](21) == 42 && table[1](14) == 42 && table[2](-42) == 42);
	CHECK(strcmp(words[2], "two") == 0 && strcmp(pointer, "pointed at") == 0);
	CHECK(counter == &app_counter && strcmp(text_from_two, "xt of the application") == 0);
	for (size_t i = 0; i < sizeof(zeroes); i++)
		failures += zeroes[i] != 0;
	memset(zeroes, 0, sizeof(zeroes));
	CHECK(aligned == 9 && (uintptr_t)&aligned % 1024 == 0);
	CHECK((uintptr_t)common_array % 64 == 0 && common_array[99] == 0);
	common_array[99] = 0;
}

static void check_calls(char **argv)
{
	int numbers[] = {5, 3, 9, 1};
	char text[32];
	double half = 0.5;

	CHECK(app_sum(1, 2, 3, 4, 5, 6, 7, 8) == 204);
	CHECK(app_call(twice, 20) == 41);
	qsort(numbers, 4, sizeof(numbers[0]), compare);
	CHECK(numbers[0] == 1 && numbers[3] == 9);
	CHECK(!not_there && !&no_variable);
	if (not_there)
		not_there();
	snprintf(text, sizeof(text), "%s %d %.2f", name_of(3), 7, half * 3);
	CHECK(strcmp(text, "trey 7 1.50") == 0);
	CHECK(strcmp(argv[1], "argument") == 0 && argv[2] == NULL);
	CHECK(strcmp(getenv("WORD"), "blue") == 0 && !getenv("NOTHING"));
}

static void check_memory(void)
{
	char *p = malloc(10), *q = calloc(100, 100), *s;

	CHECK(p && q && q[9999] == 0);
	strcpy(p, "heap");
	p = realloc(p, 100000);
	CHECK(strcmp(p, "heap") == 0);
	s = strdup("copied");
	CHECK(strcmp(s, "copied") == 0);
	free(s);
	free(q);
	CHECK(((uintptr_t)aligned_alloc(256, 512) & 255) == 0);
	/* p is left to the end of the command */
}

int main(int argc, char **argv, char **envp)
{
	(void)envp;
	CHECK(argc == 2);
	check_data();
	check_calls(argv);
	check_memory();
	common_one++;
	app_counter++;
	fprintf(stderr, "%d failures\n", failures);
	fputs("all ", stdout);
	puts(failures ? "wrong" : "right");
	putchar('.');
	return failures ? 1 : 42;
}
