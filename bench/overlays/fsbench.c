/* SPDX-License-Identifier: BSD-3-Clause */
/* bench/linux/fsbench.c for uIO-fs: reads, stats, lists, and prints the nanoseconds that took. */
// uio: name = "fsbench"
// uio: version = "1.0"
// uio: description = "time a file system"
// uio: usage = "seq|random FILE CHUNK BYTES|COUNT | stat DIR COUNT | readdir DIR"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <uio/uio.h>

#define O_RDONLY 0

static int nothing(const struct uio_entry *entry, void *arg)
{
	(void)entry;
	(void)arg;
	return 0;
}

static int reads(const char *path, size_t chunk, size_t amount, int random)
{
	char *buffer = uio_alloc(chunk);
	int fd = uio_open(path, O_RDONLY, 0);
	uint64_t state = 88172645463325252u;
	struct uio_info info;

	if (!buffer || fd < 0 || uio_stat(path, &info) < 0)
		return 1;
	for (size_t done = 0; done < amount;) {
		ssize_t got;

		if (random) {
			state ^= state << 13;
			state ^= state >> 7;
			state ^= state << 17;
			uio_seek(fd, (int64_t)(state % (info.size / chunk) * chunk), 0);
		}
		got = uio_read(fd, buffer, chunk);
		if (got <= 0)
			return 1;
		done += random ? 1 : (size_t)got;
	}
	uio_close(fd);
	return 0;
}

int main(int argc, char **argv)
{
	size_t third = argc > 3 ? strtoul(argv[3], NULL, 10) : 0;
	size_t fourth = argc > 4 ? strtoul(argv[4], NULL, 10) : 0;
	uint64_t start = uio_now_ns();
	int status = 0;

	if (argc == 5) {
		status = reads(argv[2], third, fourth, strcmp(argv[1], "random") == 0);
	} else if (argc == 4) {
		for (size_t i = 0; i < third && !status; i++) {
			struct uio_info info;
			char name[256];

			snprintf(name, sizeof(name), "%s/file-%lu", argv[2], (unsigned long)i);
			status = uio_stat(name, &info) < 0;
		}
	} else if (argc == 3) {
		status = uio_readdir(argv[2], nothing, NULL) < 0;
	} else {
		return 2;
	}
	printf("%lu\n", (unsigned long)(uio_now_ns() - start));
	return status;
}
