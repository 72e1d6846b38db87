/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a traced function costs: calls an empty function over and over, and works like a server
 * whose function request() takes some microseconds. Says four times a second how fast either is, at
 * its best: what else the host does shall not be measured.
 */
#include <stdint.h>
#include <stdio.h>
#include <time.h>

#define BATCH    500
#define PERIOD   250000000ll
#define REQUESTS 5

long called(long n);
uint64_t request(uint64_t state);

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ll + now.tv_nsec;
}

__attribute__((noipa)) long called(long n)
{
	return n;
}

/** About as much as a small server does for a request. */
__attribute__((noipa)) uint64_t request(uint64_t state)
{
	for (int step = 0; step < 5000; step++) {
		state ^= state << 13;
		state ^= state >> 7;
		state ^= state << 17;
		__asm__ volatile("" : "+r"(state));
	}
	return state;
}

int main(void)
{
	uint64_t state = 88172645463325252u;
	int64_t start = now_ns(), best_call = INT64_MAX, best_request = INT64_MAX;

	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("calls: started\n");
	for (;;) {
		int64_t a = now_ns(), b, c;

		for (long n = 0; n < BATCH; n++)
			called(n & 63);
		b = now_ns();
		for (int n = 0; n < REQUESTS; n++)
			state = request(state);
		c = now_ns();
		if (b - a < best_call)
			best_call = b - a;
		if (c - b < best_request)
			best_request = c - b;
		if (c - start < PERIOD)
			continue;
		printf("calls: %ld ps each, %ld requests/s\n", (long)(best_call * 1000 / BATCH),
		       (long)(REQUESTS * 1000000000ll / best_request));
		start = c;
		best_call = best_request = INT64_MAX;
	}
}
