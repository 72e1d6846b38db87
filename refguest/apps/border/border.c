/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * An application for the tests of the protection domain: it beats ten times a
 * second, has data, heap and stack that overlays try to harm, and functions of
 * every shape for them to call and to be called by.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct big {
	long a[5];
};
struct pair {
	long a, b;
};

long secret = 4711;
long *on_heap, *on_stack;

static void (*kept)(int beat);

long sum10(long a, long b, long c, long d, long e, long f, long g, long h, long i, long j);
long sum10(long a, long b, long c, long d, long e, long f, long g, long h, long i, long j)
{
	return a + 2 * b + 3 * c + 4 * d + 5 * e + 6 * f + 7 * g + 8 * h + 9 * i + 10 * j;
}

double mix(double a, long b, double c, const struct big *d, struct big e);
double mix(double a, long b, double c, const struct big *d, struct big e)
{
	return a + (double)b + c + (double)d->a[4] + (double)e.a[4];
}

struct big make_big(long a);
struct big make_big(long a)
{
	return (struct big){{a, a + 1, a + 2, a + 3, a + 4}};
}

struct pair make_pair(long a);
struct pair make_pair(long a)
{
	return (struct pair){a, a + 1};
}

int call(int (*fn)(int), int value);
int call(int (*fn)(int), int value)
{
	return fn(value) + 1;
}

double call_mixed(double (*fn)(double, long, long, long, long, long, long, long, long));
double call_mixed(double (*fn)(double, long, long, long, long, long, long, long, long))
{
	return fn(0.5, 1, 2, 3, 4, 5, 6, 7, 8) * 2;
}

void sort(int *at, size_t n, int (*compare)(const void *, const void *));
void sort(int *at, size_t n, int (*compare)(const void *, const void *))
{
	qsort(at, n, sizeof(*at), compare);
}

/* Called at each beat from now on, in the application's thread. */
void keep(void (*fn)(int beat));
void keep(void (*fn)(int beat))
{
	kept = fn;
}

void fill(void *to, int value, size_t n);
void fill(void *to, int value, size_t n)
{
	memset(to, value, n);
}

void nap(long ms);
void nap(long ms)
{
	struct timespec t = {ms / 1000, ms % 1000 * 1000000};

	nanosleep(&t, NULL);
}

static long nanoseconds(const struct timespec *t)
{
	return t->tv_sec * 1000000000 + t->tv_nsec;
}

static _Noreturn void beat_for_ever(const long *here)
{
	struct timespec now;
	long next, left;

	clock_gettime(CLOCK_MONOTONIC, &now);
	next = nanoseconds(&now);
	for (int beat = 0;; beat++) {
		void (*fn)(int) = kept;

		printf("beat %d %s\n", beat,
		       secret == 4711 && *on_heap == 1 && *here == 1 ? "well" : "HARMED");
		if (fn)
			fn(beat);
		next += 100000000;
		/* Not every kernel knows how to sleep until a point in time. */
		clock_gettime(CLOCK_MONOTONIC, &now);
		left = next - nanoseconds(&now);
		if (left > 0)
			nanosleep(&(struct timespec){0, left}, NULL);
	}
}

int main(void)
{
	long here = 1;

	setvbuf(stdout, NULL, _IOLBF, 0);
	on_heap = malloc(64);
	if (!on_heap)
		return 1;
	*on_heap = 1;
	memcpy(&on_stack, &(long *){&here}, sizeof(on_stack));
	beat_for_ever(&here);
}
