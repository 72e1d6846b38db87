/* SPDX-License-Identifier: BSD-3-Clause */
/* Counts its own runs, in a variable that lasts as long as it is loaded. */
// uio: name = "keeper"
// uio: version = "1.0"
// uio: description = "count how often it ran"
// uio: keep = true
#include <stdio.h>

static int initialised = 40;
static int zeroed;

int main(void)
{
	printf("%d %d\n", ++initialised, ++zeroed);
	return 0;
}
