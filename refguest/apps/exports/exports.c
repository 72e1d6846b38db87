/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * An application with a thousand functions, export_000 to export_999, for overlays that import many
 * names. It does nothing else.
 */
#include <stdio.h>
#include <unistd.h>

#define ONE(n)                                                                                     \
	long export_##n(long value);                                                               \
	long export_##n(long value)                                                                \
	{                                                                                          \
		return value + 1##n;                                                               \
	}
#define TEN(n)                                                                                     \
	ONE(n##0)                                                                                  \
	ONE(n##1) ONE(n##2) ONE(n##3) ONE(n##4) ONE(n##5) ONE(n##6) ONE(n##7) ONE(n##8) ONE(n##9)
#define HUNDRED(n)                                                                                 \
	TEN(n##0)                                                                                  \
	TEN(n##1) TEN(n##2) TEN(n##3) TEN(n##4) TEN(n##5) TEN(n##6) TEN(n##7) TEN(n##8) TEN(n##9)

HUNDRED(0)
HUNDRED(1)
HUNDRED(2)
HUNDRED(3)
HUNDRED(4)
HUNDRED(5)
HUNDRED(6)
HUNDRED(7)
HUNDRED(8)
HUNDRED(9)

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("exports: started\n");
	for (;;)
		pause();
}
