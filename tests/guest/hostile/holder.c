/* SPDX-License-Identifier: BSD-3-Clause */
/* Stays in its domain until its input ends, and says whether what it holds is still its own. */
// uio: name = "holder"
// uio: version = "1"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#ifndef NUMBER
#define NUMBER 0
#endif

extern int call(int (*fn)(int), int value);

static volatile long held = NUMBER;

static int through(int value)
{
	return value + (int)held;
}

int main(int argc, char **argv)
{
	char byte;

	printf("%p\n", (void *)&held);
	fflush(stdout);
	while (read(0, &byte, 1) > 0)
		;
	if (argc > 1) /* the address of another's */
		*(volatile long *)strtoul(argv[1], NULL, 0) = -1;
	printf("%d\n", call(through, 0));
	return held == NUMBER ? 7 : 1;
}
