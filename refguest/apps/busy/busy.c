/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * An application that never rests: computes all the time and says once a second how far it came. It
 * shows whether uIO gets a word in beside it, and what uIO costs it.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

uint64_t rounds;

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ll + now.tv_nsec;
}

/** Some arithmetic that the compiler cannot see through. */
static uint64_t work(uint64_t state, int steps)
{
	while (steps--) {
		state ^= state << 13;
		state ^= state >> 7;
		state ^= state << 17;
		__asm__ volatile("" : "+r"(state));
	}
	return state;
}

int main(int argc, char **argv)
{
	long seconds = argc > 1 ? strtol(argv[1], NULL, 10) : 0; /* 0: for ever */
	int64_t next = now_ns() + 1000000000;
	uint64_t state = 88172645463325252u, last = 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("busy: started\n");
	for (long second = 0; !seconds || second < seconds;) {
		state = work(state, 20000);
		rounds++;
		if (now_ns() < next)
			continue;
		next += 1000000000;
		second++;
		printf("busy: %lu rounds\n", (unsigned long)(rounds - last));
		last = rounds;
	}
	return 0;
}
