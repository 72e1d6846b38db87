/* SPDX-License-Identifier: BSD-3-Clause */
/* Reads a file in chunks of so many bytes and prints how many nanoseconds that took. */
// uio: name = "reader"
// uio: version = "1.0"
// uio: description = "time the reading of a file"
// uio: usage = "PATH CHUNK"
#include <stdio.h>
#include <stdlib.h>

#include <uio/uio.h>

#define O_RDONLY 0

int main(int argc, char **argv)
{
	size_t chunk = argc > 2 ? strtoul(argv[2], NULL, 10) : 65536;
	char *buffer = uio_alloc(chunk);
	uint64_t start;
	ssize_t got;
	int fd;

	if (argc < 2 || !buffer)
		return 2;
	fd = uio_open(argv[1], O_RDONLY, 0);
	if (fd < 0)
		return 1;
	start = uio_now_ns();
	do
		got = uio_read(fd, buffer, chunk);
	while (got > 0);
	printf("%lu\n", (unsigned long)(uio_now_ns() - start));
	uio_close(fd);
	return got < 0;
}
