/* SPDX-License-Identifier: BSD-3-Clause */
/* Printable text in the memory of a variable, of what a pointer points to, or of any range. */
// uio: name = "strings"
// uio: version = "1.0"
// uio: description = "printable text in memory of the application"
// uio: usage = "[-n LEAST] [-p] SYMBOL[+OFFSET]|ADDRESS [LENGTH]"
// uio: help = """
// uio: -n LEAST  texts of at least so many characters (4)
// uio: -p        the symbol is a pointer: look where it points to
// uio: """
// uio: timeout = "60s"
#include "box.h"

static const char text[] =
	"usage: strings [-n LEAST] [-p] SYMBOL[+OFFSET]|ADDRESS [LENGTH]\n"
	"Show printable text in memory of the application, each with its address.\n"
	"  -n LEAST  texts of at least so many characters (4)\n"
	"  -p        the symbol is a pointer: look at LENGTH bytes from where it points to\n"
	"LENGTH is the symbol's size if it is not given.\n"
	"Status: 0, 1 there is no such symbol or memory, 2 wrong usage.\n";

static char buffer[4096];
static char run[256]; /* the text that is just being read: its beginning */
static uint64_t length, start;

static void end_run(uint64_t least)
{
	if (length >= least) {
		size_t shown = length < sizeof(run) ? length : sizeof(run);

		printf("%012" PRIx64 "  %.*s%s\n", start, (int)shown, run,
		       length > shown ? "…" : "");
	}
	length = 0;
}

static int search(uint64_t address, uint64_t size, uint64_t least)
{
	uint64_t end = address + size;

	while (address < end) {
		size_t step = end - address < sizeof(buffer) ? end - address : sizeof(buffer);
		ssize_t n = uio_peek(buffer, (const void *)address, step);

		for (ssize_t i = 0; i < n; i++) {
			unsigned char c = (unsigned char)buffer[i];

			if (c != '\t' && (c < 32 || c > 126)) {
				end_run(least);
				continue;
			}
			if (!length)
				start = address + (uint64_t)i;
			if (length < sizeof(run))
				run[length] = (char)c;
			length++;
		}
		if (n < (ssize_t)step) {
			end_run(least);
			fflush(stdout);
			fprintf(stderr, "strings: 0x%" PRIx64 " cannot be read\n",
				address + (uint64_t)(n > 0 ? n : 0));
			return 1;
		}
		address += (uint64_t)n;
	}
	end_run(least);
	return 0;
}

int main(int argc, char **argv)
{
	uint64_t least = 4, size;
	bool pointer = false;
	struct place place;
	int i = 1;

	if (box_help(argc, argv, text))
		return 0;
	for (; i < argc && argv[i][0] == '-'; i++) {
		if (!strcmp(argv[i], "-p"))
			pointer = true;
		else if (strcmp(argv[i], "-n") != 0 || !box_number(argv[++i], &least) || !least)
			return box_usage(text);
	}
	if (i >= argc || argc > i + 2 || (i + 1 < argc && !box_number(argv[i + 1], &size)))
		return box_usage(text);
	if (!box_place("strings", argv[i], &place))
		return 1;
	if (i + 1 == argc)
		size = pointer ? 0 : place.size;
	if (!size) {
		fprintf(stderr, "strings: how many bytes? %s has no size\n", argv[i]);
		return 2;
	}
	if (pointer && uio_peek(&place.address, (const void *)place.address, 8) != 8) {
		fprintf(stderr, "strings: %s cannot be read\n", argv[i]);
		return 1;
	}
	length = 0;
	return search(place.address, size, least);
}
