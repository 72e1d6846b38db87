/* SPDX-License-Identifier: BSD-3-Clause */
/* `app = "none"`: it works on its own memory and through the kernel's functions, and sees nothing
 * else. */
// uio: name = "blind"
// uio: version = "1"
// uio: app = "none"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern long secret, *on_heap;
extern int call(int (*fn)(int), int value);

static volatile long sink;

static int twice(int x)
{
	return 2 * x;
}

int main(int argc, char **argv)
{
	char text[200], *copy;

	if (argc > 1 && !strcmp(argv[1], "read"))
		sink = secret;
	if (argc > 1 && !strcmp(argv[1], "write"))
		secret = 1;
	if (argc > 1 && !strcmp(argv[1], "show"))
		return (int)write(1, &secret, 8);
	copy = strdup(argc > 1 ? argv[1] : "none");
	snprintf(text, sizeof(text), "%d %d %d %d %d %d %d %d %.1f %s", 1, 2, 3, 4, 5, 6, 7, 8, 9.5,
		 copy);
	puts(text);
	printf("callback %d\n", call(twice, 20));
	errno = 0;
	if (strtol("99999999999999999999", NULL, 10) && errno == ERANGE)
		fprintf(stderr, "errno is its own\n");
	putchar('!');
	fputc('\n', stdout);
	return 3;
}
