/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * bench/linux/fsbench.c for uIO-fs: reads, stats, opens, lists, and prints the nanoseconds that
 * took and when it began. Several at once are several commands, each with its own part of the file,
 * or its own random places.
 */
// uio: name = "fsbench"
// uio: version = "1.0"
// uio: description = "time a file system"
// uio: usage = "seq|random FILE CHUNK BYTES|COUNT PART | stat|open DIR COUNT | readdir DIR"
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

static int reads(const char *path, size_t chunk, size_t amount, size_t part, int random)
{
	char *buffer = uio_alloc(chunk);
	int fd = uio_open(path, O_RDONLY, 0);
	uint64_t state = 88172645463325252u + part;
	struct uio_info info;

	if (!buffer || fd < 0 || uio_stat(path, &info) < 0)
		return 1;
	if (!random)
		uio_seek(fd, (int64_t)(part * amount), 0);
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

static int look(const char *directory, size_t count, int opens)
{
	for (size_t i = 0; i < count; i++) {
		struct uio_info info;
		char name[256];
		int fd;

		snprintf(name, sizeof(name), "%s/file-%lu", directory, (unsigned long)i);
		fd = opens ? uio_open(name, O_RDONLY, 0) : uio_stat(name, &info);
		if (fd < 0)
			return 1;
		if (opens)
			uio_close(fd);
	}
	return 0;
}

int main(int argc, char **argv)
{
	size_t numbers[6] = {0};
	uint64_t start;
	int status;

	for (int i = 3; i < argc && i < 6; i++)
		numbers[i] = strtoul(argv[i], NULL, 10);
	start = uio_now_ns();
	if (argc == 6)
		status = reads(argv[2], numbers[3], numbers[4], numbers[5],
			       strcmp(argv[1], "random") == 0);
	else if (argc == 4)
		status = look(argv[2], numbers[3], strcmp(argv[1], "open") == 0);
	else if (argc == 3)
		status = uio_readdir(argv[2], nothing, NULL) < 0;
	else
		return 2;
	printf("%lu %lu\n", (unsigned long)(uio_now_ns() - start), (unsigned long)start);
	return status;
}
