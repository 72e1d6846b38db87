/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The application's heap: what its blocks are, and which have come and stayed since a mark, which
 * is where leaks are. The mark is a file, so that it outlives the command and needs no memory
 * meanwhile.
 */
// uio: name = "heap"
// uio: version = "1.0"
// uio: description = "the application's heap: its blocks, and leaks since a mark"
// uio: usage = "[map | mark | diff] [-f FILE] [-n MOST]"
// uio: help = """
// uio: (nothing)  blocks in use by size, and what the guest has left
// uio: map        every block in use, by address
// uio: mark       remember the blocks in use
// uio: diff       blocks that have come since the mark and are still in use
// uio: -f FILE    where the mark is kept (/host/heap.mark)
// uio: -n MOST    lines of map, and of diff's list (20; map: all)
// uio: """
// uio: timeout = "60s"
#include <errno.h>
#include <fcntl.h>

#include "box.h"

static const char text[] =
	"usage: heap [map | mark | diff] [-f FILE] [-n MOST]\n"
	"The application's heap.\n"
	"  (nothing)  blocks in use by size, and what the guest has left\n"
	"  map        every block in use, by address, with its first bytes\n"
	"  mark       remember the blocks in use\n"
	"  diff       blocks that have come since the mark and are still in use, by size and one "
	"by\n"
	"             one: done several times under load, what only grows is a leak\n"
	"  -f FILE    where the mark is kept (/host/heap.mark)\n"
	"  -n MOST    lines of map, and of diff's list (20; map: all)\n"
	"A block that was freed and taken again at the same address counts as the same.\n"
	"Status: 0, 1 the heap or the mark cannot be read, 2 wrong usage.\n";

#define TRIES 50
#define SLACK 256

struct mark {
	char magic[8];
	uint64_t time_ns, n;
};
static const char magic[8] = "uIOheap1";

struct blocks {
	struct uio_heap_block *list;
	size_t n;
};

static int fail(const char *what, long error)
{
	fprintf(stderr, "heap: %s: %s\n", what, strerror((int)-error));
	return 1;
}

static int by_address(const void *a, const void *b)
{
	const struct uio_heap_block *x = a, *y = b;

	return x->address < y->address ? -1 : x->address > y->address;
}

static int by_size(const void *a, const void *b)
{
	const struct uio_heap_block *x = a, *y = b;

	return x->size < y->size ? -1 : x->size > y->size ? 1 : by_address(a, b);
}

/** All blocks in use, by address. They are told in one go, so the list is of one moment. */
static int look(struct blocks *out)
{
	ssize_t n = -EAGAIN;

	*out = (struct blocks){0};
	for (int tries = 0; tries < TRIES; tries++) {
		n = uio_heap_blocks(out->list, out->n);
		if (n == -EAGAIN) {
			uio_sleep_ns(1000000);
			continue;
		}
		if (n < 0)
			break;
		if (out->list && (size_t)n <= out->n) {
			out->n = (size_t)n;
			qsort(out->list, out->n, sizeof(*out->list), by_address);
			return 0;
		}
		uio_free(out->list);
		out->n = (size_t)n + SLACK;
		out->list = uio_alloc(out->n * sizeof(*out->list));
		if (!out->list) {
			n = -ENOMEM;
			break;
		}
	}
	if (n == -ENOSYS) {
		fprintf(stderr,
			"heap: this kernel cannot tell what is in the application's heap\n");
		return 1;
	}
	return fail("the application's heap", n < 0 ? n : -EAGAIN);
}

/** Lines by size; the list is sorted by size afterwards. */
static void histogram(struct blocks *b)
{
	uint64_t bytes = 0, taken = 0;

	qsort(b->list, b->n, sizeof(*b->list), by_size);
	printf("%10s %8s %12s %12s\n", "SIZE", "BLOCKS", "BYTES", "TAKEN");
	for (size_t i = 0, end; i < b->n; i = end) {
		uint64_t here = 0, slots = 0;

		/* Sizes by sixteenths of their power of two: few lines, and still telling. */
		uint64_t size = b->list[i].size, step = 16;

		while (size / step > 16)
			step *= 2;
		for (end = i; end < b->n && b->list[end].size / step == size / step; end++) {
			here += b->list[end].size;
			slots += b->list[end].slot;
		}
		printf("%10" PRIu64 " %8zu %12" PRIu64 " %12" PRIu64 "\n", b->list[end - 1].size,
		       end - i, here, slots);
		bytes += here;
		taken += slots;
	}
	printf("%10s %8zu %12" PRIu64 " %12" PRIu64 "\n", "all", b->n, bytes, taken);
}

static void list(const struct blocks *b, uint64_t most)
{
	for (size_t i = 0; i < b->n && i < most; i++) {
		uint8_t first[16];
		size_t n = b->list[i].size < 16 ? b->list[i].size : 16;

		n = uio_peek(first, (const void *)b->list[i].address, n) == (ssize_t)n ? n : 0;
		printf("%012" PRIx64 " %10" PRIu64 "  ", b->list[i].address, b->list[i].size);
		for (size_t j = 0; j < 16; j++)
			printf(j < n ? "%02x" : "  ", j < n ? first[j] : 0);
		printf("  ");
		for (size_t j = 0; j < n; j++)
			putchar(first[j] >= 32 && first[j] < 127 ? first[j] : '.');
		putchar('\n');
	}
	if (b->n > most)
		printf("… and %zu more\n", b->n - (size_t)most);
}

static int mark(const char *path)
{
	struct mark head = {.time_ns = uio_now_ns()};
	struct blocks b;
	int fd, status = look(&b);
	ssize_t put;

	if (status)
		return status;
	memcpy(head.magic, magic, sizeof(magic));
	head.n = b.n;
	fd = uio_open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	if (fd < 0)
		return fail(path, fd);
	put = uio_write(fd, &head, sizeof(head));
	if (put >= 0 && b.n)
		put = uio_write(fd, b.list, b.n * sizeof(*b.list));
	uio_close(fd);
	if (put < 0)
		return fail(path, put);
	printf("%zu blocks marked\n", b.n);
	return 0;
}

static int diff(const char *path, uint64_t most)
{
	const struct uio_heap_block *old;
	const struct mark *head;
	struct blocks b;
	size_t size, kept = 0, n = 0;
	void *file;
	int status = uio_slurp(path, &file, &size, 1u << 30);

	if (status == -ENOENT) {
		fprintf(stderr, "heap: there is no mark %s: run `heap mark` first\n", path);
		return 1;
	}
	if (status)
		return fail(path, status);
	head = file;
	if (size < sizeof(*head) || memcmp(head->magic, magic, sizeof(magic)) != 0 ||
	    head->n != (size - sizeof(*head)) / sizeof(*old)) {
		fprintf(stderr, "heap: %s is no mark\n", path);
		return 1;
	}
	if (head->time_ns > uio_now_ns()) {
		fprintf(stderr, "heap: %s was made before the guest booted\n", path);
		return 1;
	}
	status = look(&b);
	if (status)
		return status;
	old = (const struct uio_heap_block *)(head + 1);
	for (size_t i = 0, j = 0; i < b.n; i++) {
		while (j < head->n && old[j].address < b.list[i].address)
			j++;
		if (j < head->n && old[j].address == b.list[i].address &&
		    old[j].size == b.list[i].size)
			kept++;
		else
			b.list[n++] = b.list[i];
	}
	b.n = n;
	printf("since the mark, %" PRIu64 " s ago: %zu blocks have come, %zu have gone\n",
	       (uio_now_ns() - head->time_ns) / NS, n, (size_t)head->n - kept);
	if (!n)
		return 0;
	histogram(&b);
	qsort(b.list, b.n, sizeof(*b.list), by_address);
	list(&b, most);
	return 0;
}

static int show(bool map, uint64_t most)
{
	size_t total, left;
	struct blocks b;
	int status = look(&b);

	if (map && !status)
		list(&b, most);
	if (map)
		return status;
	uio_meminfo(&total, &left);
	if (!status)
		histogram(&b);
	printf("memory of the guest: %zu KiB, %zu KiB of it free\n", total / 1024, left / 1024);
	return status;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 && argv[1][0] != '-' ? argv[1] : "";
	const char *path = "/host/heap.mark";
	uint64_t most = strcmp(what, "map") != 0 ? 20 : UINT64_MAX;

	if (box_help(argc, argv, text))
		return 0;
	for (int i = *what ? 2 : 1; i < argc; i += 2) {
		if (!strcmp(argv[i], "-f") && i + 1 < argc)
			path = argv[i + 1];
		else if (strcmp(argv[i], "-n") != 0 || i + 1 == argc ||
			 !box_number(argv[i + 1], &most))
			return box_usage(text);
	}
	if (!strcmp(what, "mark"))
		return mark(path);
	if (!strcmp(what, "diff"))
		return diff(path, most);
	if (*what && strcmp(what, "map") != 0)
		return box_usage(text);
	return show(*what, most);
}
