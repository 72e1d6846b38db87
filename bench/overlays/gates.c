/* SPDX-License-Identifier: BSD-3-Clause */
/* Times calls within the overlay, calls into the kernel (through a gate), and work without any; or
 * faults. */
// uio: name = "gates"
// uio: version = "1.0"
// uio: description = "time calls through gates"
// uio: usage = "COUNT | fault"
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <uio/uio.h>

static int __attribute__((noinline)) inside(void)
{
	__asm__ volatile("");
	return 0;
}

int main(int argc, char **argv)
{
	uint64_t count = argc > 1 ? strtoul(argv[1], NULL, 10) : 0, state = 1, times[4];

	if (count == 0) {
		*(volatile int *)8 = 1;
		return 1;
	}
	times[0] = uio_now_ns();
	for (uint64_t i = 0; i < count; i++)
		inside();
	times[1] = uio_now_ns();
	for (uint64_t i = 0; i < count; i++)
		uio_interrupted();
	times[2] = uio_now_ns();
	for (uint64_t i = 0; i < count * 20; i++) {
		state ^= state << 13;
		state ^= state >> 7;
		__asm__ volatile("" : "+r"(state));
	}
	times[3] = uio_now_ns();
	printf("%lu %lu %lu\n", (unsigned long)(times[1] - times[0]),
	       (unsigned long)(times[2] - times[1]), (unsigned long)(times[3] - times[2]));
	return 0;
}
