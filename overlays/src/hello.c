/* SPDX-License-Identifier: BSD-3-Clause */
/* Greets. The smallest overlay: an ordinary C program. */
// uio: name = "hello"
// uio: version = "1.0"
// uio: description = "greet the world, or whoever is named"
// uio: usage = "[NAME…]"
#include <stdio.h>

int main(int argc, char **argv)
{
	if (argc < 2) {
		puts("Hello, world!");
		return 0;
	}
	printf("Hello");
	for (int i = 1; i < argc; i++)
		printf("%s %s", i == 1 ? "," : "", argv[i]);
	puts("!");
	return 0;
}
