/* SPDX-License-Identifier: BSD-3-Clause */
/* How long calls over the border of the protection domain take; nanoseconds each, as JSON. */
// uio: name = "gate_cost"
// uio: version = "1"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <uio/uio.h>

extern long sum10(long a, long b, long c, long d, long e, long f, long g, long h, long i, long j);
extern int call(int (*fn)(int), int value);

#define ROUNDS 20000

static volatile long sink;

__attribute__((noinline)) static int own(int value)
{
	return value + (int)sink;
}

#define MEASURE(name, statement)                                                                   \
	do {                                                                                       \
		unsigned long long start = uio_now_ns();                                           \
		for (int i = 0; i < ROUNDS; i++)                                                   \
			statement;                                                                 \
		printf("\"%s\": %.1f, ", name, (double)(uio_now_ns() - start) / ROUNDS);           \
	} while (0)

int main(void)
{
	char text[16] = "a few bytes";

	printf("{");
	MEASURE("own function", sink = own(i));
	MEASURE("ungated strlen", sink = (long)strlen(text));
	MEASURE("gated sum10", sink = sum10(1, 2, 3, 4, 5, 6, 7, 8, 9, i));
	MEASURE("gated call with callback", sink = call(own, i));
	printf("\"rounds\": %d}\n", ROUNDS);
	return 0;
}
