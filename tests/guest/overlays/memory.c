/* SPDX-License-Identifier: BSD-3-Clause */
/* Writes memory of the kernel to standard output: ADDRESS LENGTH, in hexadecimal. */
// uio: name = "memory"
// uio: version = "1"
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
	const char *from = argc == 3 ? (const char *)strtoul(argv[1], NULL, 16) : NULL;
	size_t length = argc == 3 ? strtoul(argv[2], NULL, 16) : 0;

	return from == NULL || fwrite(from, 1, length, stdout) != length;
}
