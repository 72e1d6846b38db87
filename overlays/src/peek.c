/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Memory of the running application by name or address: as bytes, as numbers,
 * or as text. `uioctl peek`, which knows the types, reads by it: with -r.
 */
// uio: name = "peek"
// uio: version = "1.1"
// uio: description = "look at variables and memory of the application"
// uio: usage = "[-1|-2|-4|-8|-s|-x] SYMBOL[+OFFSET]|ADDRESS [COUNT]"
// uio: help = """
// uio: -1 -2 -4 -8  numbers of so many bytes, decimal and hexadecimal
// uio: -s           text up to its NUL
// uio: -x           bytes
// uio: Without an option: one number if the symbol has such a size, else bytes.
// uio: """
// uio: timeout = "10s"
#include "box.h"

static const char text[] =
	"usage: peek [-1|-2|-4|-8|-s|-x] SYMBOL[+OFFSET]|ADDRESS [COUNT]\n"
	"       peek -r ADDRESS[,OFFSET…]:LENGTH…\n"
	"Show memory of the application.\n"
	"  -1 -2 -4 -8  COUNT numbers of so many bytes, decimal and hexadecimal\n"
	"  -s           text up to its NUL\n"
	"  -x           COUNT bytes\n"
	"Without an option: one number if the symbol has such a size, else bytes.\n"
	"  -r           for programs: LENGTH raw bytes of each place, in front of them two numbers "
	"of\n"
	"               8 bytes: the address, and how many of the bytes could be read and follow.\n"
	"               Each OFFSET follows a pointer: the place is then where it points to + "
	"OFFSET.\n"
	"Status: 0, 1 there is no such symbol or memory, 2 wrong usage.\n";

static uint8_t buffer[4096];

static int gone(uint64_t address)
{
	fflush(stdout);
	fprintf(stderr, "peek: 0x%" PRIx64 " cannot be read\n", address);
	return 1;
}

static bool read_all(uint64_t address, void *out, size_t n)
{
	return uio_peek(out, (const void *)address, n) == (ssize_t)n;
}

static int bytes(uint64_t address, uint64_t count)
{
	for (uint64_t line = 0; line < count; line += 16) {
		uint64_t n = count - line < 16 ? count - line : 16;
		uint8_t p[16];

		if (!read_all(address + line, p, n))
			return gone(address + line);
		printf("%012" PRIx64 " ", address + line);
		for (uint64_t i = 0; i < 16; i++) {
			if (i < n)
				printf(" %02x", p[i]);
			else
				printf("   ");
		}
		printf("  ");
		for (uint64_t i = 0; i < n; i++)
			putchar(p[i] >= 32 && p[i] < 127 ? p[i] : '.');
		putchar('\n');
	}
	return 0;
}

static int numbers(uint64_t address, uint64_t count, unsigned int width)
{
	for (uint64_t i = 0; i < count; i++, address += width) {
		uint64_t value = 0;
		int64_t with_sign;

		if (!read_all(address, &value, width))
			return gone(address);
		with_sign = (int64_t)(value << (64 - 8 * width)) >> (64 - 8 * width);
		printf("%012" PRIx64 "  %" PRId64 "  0x%0*" PRIx64 "\n", address, with_sign,
		       (int)width * 2, value);
	}
	return 0;
}

static int string(uint64_t address)
{
	for (char c; read_all(address, &c, 1); address++) {
		putchar(c ? c : '\n');
		if (!c)
			return 0;
	}
	return gone(address);
}

/** ADDRESS[,OFFSET…]:LENGTH; a pointer that leads nowhere gives the address where it went wrong. */
static int raw(char *word)
{
	char *colon = strchr(word, ':');
	uint64_t head[2] = {0, 0}, length, offset;
	char *part, *next;

	if (!colon || !box_number(colon + 1, &length))
		return box_usage(text);
	*colon = '\0';
	next = strchr(word, ',');
	if (next)
		*next++ = '\0';
	if (!box_number(word, &head[0]))
		return box_usage(text);
	while ((part = next)) {
		next = strchr(part, ',');
		if (next)
			*next++ = '\0';
		if (!box_number(part, &offset))
			return box_usage(text);
		if (length && !read_all(head[0], &head[0], 8))
			length = 0;
		head[0] += length ? offset : 0;
	}
	while (head[1] < length) {
		size_t step = length - head[1] < 4096 ? length - head[1] : 4096;
		ssize_t n = uio_peek(buffer, (const void *)(head[0] + head[1]), step);

		head[1] += n > 0 ? (uint64_t)n : 0;
		if (n < (ssize_t)step)
			break;
	}
	uio_write(1, head, sizeof(head));
	for (uint64_t at = 0; at < head[1];) {
		size_t step = head[1] - at < 4096 ? head[1] - at : 4096;

		/* It could be read a moment ago; what has gone since then is zeros. */
		memset(buffer, 0, step);
		uio_peek(buffer, (const void *)(head[0] + at), step);
		if (uio_write(1, buffer, step) < 0)
			return 1;
		at += step;
	}
	return 0;
}

int main(int argc, char **argv)
{
	int i = argc > 1 && argv[1][0] == '-' ? 2 : 1;
	char how = i == 2 ? argv[1][1] : 0;
	struct place place;
	uint64_t count = 1;

	if (box_help(argc, argv, text))
		return 0;
	if (i == 2 && !strcmp(argv[1], "-r") && argc > 2) {
		int status = 0;

		for (; i < argc && !status; i++)
			status = raw(argv[i]);
		return status;
	}
	if (argc <= i || argc > i + 2 || (i == 2 && (!how || argv[1][2] || !strchr("1248sx", how))))
		return box_usage(text);
	if (!box_place("peek", argv[i], &place))
		return 1;
	if (!how)
		how = place.size == 1 || place.size == 2 || place.size == 4 || place.size == 8
			      ? (char)('0' + place.size)
			      : 'x';
	if (how == 'x')
		count = place.size ? place.size : 16;
	if (i + 1 < argc && (!box_number(argv[i + 1], &count) || !count))
		return box_usage(text);
	if (how == 's')
		return string(place.address);
	if (how == 'x')
		return bytes(place.address, count);
	return numbers(place.address, count, (unsigned int)(how - '0'));
}
