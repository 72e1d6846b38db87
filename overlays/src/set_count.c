/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Sets the counter of the running application by calling a function of it:
 * a plain extern declaration is all that takes.
 */
// uio: name = "set_count"
// uio: version = "1.0"
// uio: description = "set the counter of the count application"
// uio: usage = "NUMBER"
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern void set_count(long value);

int main(int argc, char **argv)
{
	char *end;
	long value;

	if (argc == 2 && !strcmp(argv[1], "--help")) {
		printf("usage: %s NUMBER\nSet the counter of the application `count` by calling "
		       "its function set_count().\n",
		       argv[0]);
		return 0;
	}
	if (argc != 2) {
		fprintf(stderr, "usage: %s NUMBER\n", argc > 0 ? argv[0] : "set_count");
		return 2;
	}
	value = strtol(argv[1], &end, 10);
	if (end == argv[1] || *end || value == LONG_MAX || value == LONG_MIN) {
		fprintf(stderr, "%s: '%s' is no number that fits\n", argv[0], argv[1]);
		return 2;
	}
	set_count(value);
	printf("the counter is %ld now\n", value);
	return 0;
}
