/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Times calls within the overlay, calls into the kernel (through a gate), and work without any; or
 * sees how long interrupts keep it from its work; or does nothing; or faults.
 */
// uio: name = "gates"
// uio: version = "1.0"
// uio: description = "time calls through gates"
// uio: usage = "COUNT | interrupts MILLISECONDS | nothing | fault"
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <x86intrin.h>

#include <uio/uio.h>

static int __attribute__((noinline)) inside(void)
{
	__asm__ volatile("");
	return 0;
}

#define GAPS     4096
#define FACTOR   200 /* a step that takes so many times the usual one was interrupted */
#define PATIENCE 1024

static uint32_t gaps[GAPS];

/* Prints each interruption in nanoseconds. */
static int interrupts(uint64_t ms)
{
	uint64_t usual = UINT64_MAX, begun = uio_now_ns(), first = __rdtsc(), last = first, ticks;
	size_t count = 0;
	double ns;

	for (int batch = 0; batch < 16; batch++) {
		uint64_t start = __rdtsc(), each;

		for (int i = 1; i < PATIENCE; i++)
			last = __rdtsc();
		each = (last - start) / PATIENCE + 1;
		usual = each < usual ? each : usual;
	}
	/* The clock is asked only now and then: that is a call through a gate. */
	while (count < GAPS && uio_now_ns() - begun < ms * 1000000) {
		last = __rdtsc();
		for (int i = 0; i < 20 * PATIENCE && count < GAPS; i++) {
			uint64_t now = __rdtsc();

			if (now - last > FACTOR * usual)
				gaps[count++] = (uint32_t)(now - last);
			last = now;
		}
	}
	ticks = __rdtsc() - first;
	ns = (double)(uio_now_ns() - begun) / (double)ticks;
	for (size_t i = 0; i < count; i++)
		printf("%lu\n", (unsigned long)((double)gaps[i] * ns));
	return 0;
}

int main(int argc, char **argv)
{
	uint64_t count = argc > 1 ? strtoul(argv[1], NULL, 10) : 0, state = 1, times[4];

	if (argc > 2)
		return interrupts(strtoul(argv[2], NULL, 10));
	if (count == 0) {
		if (argc > 1 && argv[1][0] == 'f')
			*(volatile int *)8 = 1;
		return 0;
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
