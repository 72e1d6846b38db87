/* SPDX-License-Identifier: BSD-3-Clause */
/* Writes so many KiB of text to standard output, as fast as it is taken. */
// uio: name = "hose"
// uio: version = "1.0"
// uio: description = "write a lot"
// uio: usage = "KIB"
#include <stdlib.h>
#include <string.h>

#include <uio/uio.h>

static char block[64 * 1024];

int main(int argc, char **argv)
{
	long left = argc > 1 ? strtol(argv[1], NULL, 10) * 1024 : 0;

	memset(block, 'x', sizeof(block));
	for (size_t i = 63; i < sizeof(block); i += 64)
		block[i] = '\n';
	while (left > 0) {
		size_t piece = left < (long)sizeof(block) ? (size_t)left : sizeof(block);

		if (uio_write(1, block, piece) < 0)
			return 1;
		left -= (long)piece;
	}
	return 0;
}
