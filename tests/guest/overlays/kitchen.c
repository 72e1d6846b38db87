/* SPDX-License-Identifier: BSD-3-Clause */
/* All that ordinary C has and a loader may trip over; prints one line for each. */
// uio: name = "kitchen"
// uio: version = "1.0"
// uio: description = "use every kind of section and symbol"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern void set_count(long value);
extern volatile long count; /* the application's own */

static int twice(int x)
{
	return 2 * x;
}

static int square(int x)
{
	return x * x;
}

static int (*const table[])(int) = {twice, square};
static const char *const words[] = {"zero", "one", "two"};
static int zeroed[5000]; /* .bss, more than a page */
static int initialised[] = {1, 2, 3};
int common_symbol; /* COMMON with -fcommon */

static int ready;
__attribute__((constructor)) static void construct(void)
{
	ready = 1;
}

static int compare(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

int main(int argc, char **argv)
{
	int sum = 0, numbers[] = {3, 1, 2};
	char *heap = malloc(100000), text[64];

	printf("constructor %d\n", ready);
	printf("table %d %d\n", table[0](21), table[1](5));
	printf("words %s %s\n", words[1], words[2]);
	for (unsigned int i = 0; i < sizeof(zeroed) / sizeof(*zeroed); i++)
		sum += zeroed[i]++;
	printf("bss %d, data %d\n", sum, initialised[0]++ + initialised[2]);
	qsort(numbers, 3, sizeof(*numbers), compare);
	printf("qsort %d %d %d\n", numbers[0], numbers[1], numbers[2]);
	if (heap) {
		memset(heap, 'x', 100000);
		printf("heap %c\n", heap[99999]);
	}
	snprintf(text, sizeof(text), "%s-%05.1f", "float", 3.25);
	printf("%s\n", text);
	set_count(5000);
	printf("count %d\n", count >= 5000);
	printf("args %d %s\n", argc, argc > 1 ? argv[1] : "none");
	fprintf(stderr, "to stderr\n");
	return 7;
}
