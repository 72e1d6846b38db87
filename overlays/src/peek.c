/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Memory of the running application by name or address: as bytes, as numbers,
 * or as text. What cannot be read stops peek and nothing else.
 */
// uio: name = "peek"
// uio: version = "1.0"
// uio: description = "look at variables and memory of the application"
// uio: usage = "[-1|-2|-4|-8|-s|-x] SYMBOL[+OFFSET]|ADDRESS [COUNT]"
// uio: help = """
// uio: -1 -2 -4 -8  numbers of so many bytes, decimal and hexadecimal
// uio: -s           text up to its NUL
// uio: -x           bytes
// uio: Without an option: one number if the symbol has such a size, else bytes.
// uio: """
// uio: timeout = "10s"
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <uio/uio.h>

static int usage(void)
{
	fprintf(stderr, "usage: peek [-1|-2|-4|-8|-s|-x] SYMBOL[+OFFSET]|ADDRESS [COUNT]\n");
	return 2;
}

static bool number(const char *text, uint64_t *out)
{
	char *end;

	*out = strtoull(text, &end, 0);
	return isdigit((unsigned char)*text) && !*end;
}

/** "count", "table+8", "0x112233". */
static int place(char *text, uint64_t *address, uint32_t *size)
{
	struct uio_symbol_info info;
	uint64_t offset = 0;
	char *plus = strchr(text, '+');
	int err;

	*size = 0;
	if (number(text, address))
		return 0;
	if (plus && !number(plus + 1, &offset)) {
		fprintf(stderr, "peek: '%s' is no offset\n", plus + 1);
		return -1;
	}
	if (plus)
		*plus = '\0';
	err = uio_symbol(text, &info);
	if (err) {
		fprintf(stderr, "peek: there is no symbol '%s'\n", text);
		return err;
	}
	*address = info.address + offset;
	*size = offset < info.size ? info.size - (uint32_t)offset : 0;
	return 0;
}

static void bytes(uint64_t address, uint64_t count)
{
	for (uint64_t line = 0; line < count; line += 16) {
		const unsigned char *p = (const unsigned char *)(address + line);
		uint64_t n = count - line < 16 ? count - line : 16;

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
}

static void numbers(uint64_t address, uint64_t count, unsigned int width)
{
	for (uint64_t i = 0; i < count; i++, address += width) {
		uint64_t value = 0;
		int64_t with_sign;

		memcpy(&value, (const void *)address, width);
		with_sign = (int64_t)(value << (64 - 8 * width)) >> (64 - 8 * width);
		printf("%012" PRIx64 "  %" PRId64 "  0x%0*" PRIx64 "\n", address, with_sign,
		       (int)width * 2, value);
	}
}

int main(int argc, char **argv)
{
	int i = argc > 1 && argv[1][0] == '-' ? 2 : 1;
	char how = i == 2 ? argv[1][1] : 0;
	uint64_t address, count = 1;
	uint32_t size;

	if (argc <= i || argc > i + 2 || (i == 2 && (!how || argv[1][2] || !strchr("1248sx", how))))
		return usage();
	if (place(argv[i], &address, &size))
		return 1;
	if (!how)
		how = size == 1 || size == 2 || size == 4 || size == 8 ? (char)('0' + size) : 'x';
	if (how == 'x')
		count = size ? size : 16;
	if (i + 1 < argc && (!number(argv[i + 1], &count) || !count))
		return usage();
	if (how == 's')
		printf("%s\n", (const char *)address);
	else if (how == 'x')
		bytes(address, count);
	else
		numbers(address, count, (unsigned int)(how - '0'));
	return 0;
}
