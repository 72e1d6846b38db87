/* SPDX-License-Identifier: BSD-3-Clause */
/* Changes a variable of the running application, or any memory of it: a number of the symbol's
 * size, or text. */
// uio: name = "poke"
// uio: version = "1.0"
// uio: description = "change a variable or memory of the application"
// uio: usage = "[-1|-2|-4|-8|-s] SYMBOL[+OFFSET]|ADDRESS VALUE"
// uio: help = """
// uio: -1 -2 -4 -8  a number of so many bytes, whatever the symbol's size
// uio: -s           VALUE is text; its NUL is written too
// uio: """
// uio: timeout = "10s"
#include "box.h"

static const char text[] =
	"usage: poke [-1|-2|-4|-8|-s] SYMBOL[+OFFSET]|ADDRESS VALUE\n"
	"Change memory of the application, and say what was there before.\n"
	"  -1 -2 -4 -8  a number of so many bytes; without it, of the symbol's size\n"
	"  -s           VALUE is text; its NUL is written too; it must fit into the symbol\n"
	"VALUE may be negative, decimal or 0x… Nobody keeps the application from reading it half "
	"way\n"
	"through a change of its own: where it has a function for the change, calling that is "
	"better.\n"
	"Status: 0, 1 it was not changed, 2 wrong usage.\n";

static bool value_of(const char *word, unsigned int width, uint64_t *out)
{
	bool minus = *word == '-';
	uint64_t limit = width == 8 ? UINT64_MAX : (UINT64_C(1) << 8 * width) - 1;

	if (!box_number(word + minus, out))
		return false;
	if (minus) {
		if (*out > limit / 2 + 1)
			return false;
		*out = -*out & limit;
	}
	return *out <= limit;
}

static int number(const struct place *place, const char *name, unsigned int width, const char *word)
{
	uint64_t value, before = 0;

	if (!value_of(word, width, &value)) {
		fprintf(stderr, "poke: '%s' is no number of %u bytes\n", word, width);
		return 2;
	}
	if (uio_peek(&before, (const void *)place->address, width) != (ssize_t)width) {
		fprintf(stderr, "poke: there is no memory at 0x%" PRIx64 "\n", place->address);
		return 1;
	}
	uio_poke((void *)place->address, &value, width);
	before = (uint64_t)((int64_t)(before << (64 - 8 * width)) >> (64 - 8 * width));
	value = (uint64_t)((int64_t)(value << (64 - 8 * width)) >> (64 - 8 * width));
	printf("%s: %" PRId64 " -> %" PRId64 "\n", name, (int64_t)before, (int64_t)value);
	return 0;
}

static int string(const struct place *place, const char *name, const char *word)
{
	size_t n = strlen(word) + 1;
	char before[64] = "";

	if (place->size && n > place->size) {
		fprintf(stderr, "poke: %s has room for %" PRIu64 " bytes, the text takes %zu\n",
			name, place->size, n);
		return 1;
	}
	if (uio_peek(before, (const void *)place->address,
		     n < sizeof(before) ? n : sizeof(before) - 1) < 1) {
		fprintf(stderr, "poke: there is no memory at 0x%" PRIx64 "\n", place->address);
		return 1;
	}
	uio_poke((void *)place->address, word, n);
	printf("%s: %zu bytes written\n", name, n);
	return 0;
}

int main(int argc, char **argv)
{
	int i = argc == 4 && argv[1][0] == '-' ? 2 : 1;
	char how = i == 2 ? argv[1][1] : 0;
	struct place place;

	if (box_help(argc, argv, text))
		return 0;
	if (argc != i + 2 || (i == 2 && (!how || argv[1][2] || !strchr("1248s", how))))
		return box_usage(text);
	if (!box_place("poke", argv[i], &place))
		return 1;
	if (place.function) {
		fprintf(stderr, "poke: %s is a function\n", argv[i]);
		return 1;
	}
	if (how == 's')
		return string(&place, argv[i], argv[i + 1]);
	if (!how && place.size != 1 && place.size != 2 && place.size != 4 && place.size != 8) {
		fprintf(stderr, "poke: %s has no size of a number: say -1, -2, -4, -8 or -s\n",
			argv[i]);
		return 1;
	}
	return number(&place, argv[i], how ? (unsigned int)(how - '0') : (unsigned int)place.size,
		      argv[i + 1]);
}
