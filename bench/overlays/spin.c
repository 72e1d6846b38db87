/* SPDX-License-Identifier: BSD-3-Clause */
/* Works without rest for so many milliseconds. */
// uio: name = "spin"
// uio: version = "1.0"
// uio: description = "keep the processor busy"
// uio: usage = "MILLISECONDS"
#include <stdlib.h>

#include <uio/uio.h>

int main(int argc, char **argv)
{
	uint64_t end = uio_now_ns() + (argc > 1 ? strtoul(argv[1], NULL, 10) : 0) * 1000000;

	while (uio_now_ns() < end && !uio_interrupted())
		;
	return 0;
}
