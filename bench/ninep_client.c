/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The client that bench/ninep.py measures 9P2000.L servers with: small enough
 * that what it measures is the server. One connection, one request at a time.
 *
 * ninep_client SOCKET ANAME metadata|read4k|read64k|readseq|readdir|relist COUNT
 * prints the nanoseconds of one unit (request triple, read, MiB, directory).
 * relist lists one directory again and again, readdir eight in turn.
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
	MSIZE = 512 * 1024 + 24,
	DIRECTORIES = 8,
	HEADER = 7,
	TREADDIR = 40,
	TLOPEN = 12,
	TGETATTR = 24,
	TVERSION = 100,
	TATTACH = 104,
	TWALK = 110,
	TREAD = 116,
	TCLUNK = 120
};

static int server;
static uint8_t out[4096], in[MSIZE];
static size_t out_len;
static uint32_t most; /* bytes of data that one message carries */

static void fail(const char *what)
{
	fprintf(stderr, "ninep_client: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void put(uint64_t value, size_t size)
{
	memcpy(out + out_len, &value, size);
	out_len += size;
}

static void put_name(const char *name)
{
	put(strlen(name), 2);
	memcpy(out + out_len, name, strlen(name));
	out_len += strlen(name);
}

static void begin(int type)
{
	out_len = 4;
	put((unsigned int)type, 1);
	put(type == TVERSION ? 0xffff : 1, 2);
}

/* Send what was put, receive its reply: bytes of the reply's body. */
static size_t call(void)
{
	uint32_t size = (uint32_t)out_len;
	size_t got = 0, want = HEADER;

	memcpy(out, &size, 4);
	if (write(server, out, out_len) != (ssize_t)out_len)
		fail("write");
	while (got < want) {
		ssize_t n = read(server, in + got, MSIZE - got);
		if (n <= 0)
			fail("read");
		got += (size_t)n;
		if (got >= 4) {
			memcpy(&size, in, 4);
			want = size;
			if (want > MSIZE)
				fail("a reply larger than msize");
		}
	}
	if (in[4] != out[4] + 1) {
		memcpy(&size, in + HEADER, 4);
		errno = (int)size;
		fail("refused");
	}
	return got - HEADER;
}

static void walk(unsigned int from, unsigned int to, const char *name)
{
	begin(TWALK);
	put(from, 4);
	put(to, 4);
	put(name != NULL, 2);
	if (name)
		put_name(name);
	call();
}

static void simple(int type, unsigned int fid, uint64_t value, size_t size)
{
	begin(type);
	put(fid, 4);
	if (size)
		put(value, size);
	call();
}

static uint32_t read_at(int type, uint64_t offset, uint32_t count)
{
	uint32_t got;

	begin(type);
	put(2, 4);
	put(offset, 8);
	put(count, 4);
	call();
	memcpy(&got, in + HEADER, 4);
	return got;
}

static void metadata(void)
{
	walk(1, 2, "small");
	simple(TGETATTR, 2, 0x7ff, 8);
	simple(TCLUNK, 2, 0, 0);
}

static void readdir_all(long which)
{
	uint64_t offset = 0;
	uint32_t got;
	char name[] = "many-0";

	name[5] = (char)('0' + which % DIRECTORIES);
	walk(1, 2, name);
	simple(TLOPEN, 2, 0, 4);
	while ((got = read_at(TREADDIR, offset, most)) > 0) {
		for (uint32_t at = 0; at < got;) {
			const uint8_t *entry = in + HEADER + 4 + at;
			uint16_t len;

			memcpy(&offset, entry + 13, 8);
			memcpy(&len, entry + 22, 2);
			at += 24u + len;
		}
	}
	simple(TCLUNK, 2, 0, 0);
}

static void connect_to(const char *path, const char *aname)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	if (strlen(path) >= sizeof(address.sun_path)) {
		errno = ENAMETOOLONG;
		fail(path);
	}
	memcpy(address.sun_path, path, strlen(path));
	server = socket(AF_UNIX, SOCK_STREAM, 0);
	if (server < 0 || connect(server, (struct sockaddr *)&address, sizeof(address)) < 0)
		fail(path);
	begin(TVERSION);
	put(MSIZE, 4);
	put_name("9P2000.L");
	call();
	memcpy(&most, in + HEADER, 4);
	most -= 24;
	begin(TATTACH);
	put(1, 4);
	put(0xffffffff, 4);
	put_name("root");
	put_name(aname);
	put(0, 4);
	call();
}

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int main(int argc, char **argv)
{
	if (argc != 5) {
		fprintf(stderr,
			"usage: %s SOCKET ANAME metadata|read4k|read64k|readseq|readdir|relist "
			"COUNT\n",
			argv[0]);
		return 2;
	}
	long count = strtol(argv[4], NULL, 10);
	uint64_t start, units = 0;

	connect_to(argv[1], argv[2]);
	if (strncmp(argv[3], "read", 4) == 0 && strcmp(argv[3], "readdir") != 0) {
		walk(1, 2, "large");
		simple(TLOPEN, 2, 0, 4);
	}
	if (strcmp(argv[3], "read64k") == 0 && most > 65536 - 24)
		most = 65536 - 24;
	start = now();
	for (long i = 0; i < count; i++) {
		if (strcmp(argv[3], "metadata") == 0) {
			metadata();
			units++;
		} else if (strcmp(argv[3], "readdir") == 0) {
			readdir_all(i);
			units++;
		} else if (strcmp(argv[3], "relist") == 0) {
			readdir_all(0);
			units++;
		} else if (strcmp(argv[3], "read4k") == 0) {
			if (read_at(TREAD, (uint64_t)(i % 1024) * 4096, 4096) != 4096)
				fail("a short read");
			units++;
		} else {
			uint64_t offset = 0;
			uint32_t got;

			while ((got = read_at(TREAD, offset, most)) > 0)
				offset += got;
			units += offset >> 20;
		}
	}
	if (!units)
		fail("nothing was measured");
	printf("%llu\n", (unsigned long long)((now() - start) / units));
	return 0;
}
