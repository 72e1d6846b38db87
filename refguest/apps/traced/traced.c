/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Functions that are not easy to trace: recursive, with many arguments, with arguments and results
 * in vector registers, left by longjmp(), ended by a jump to another function, on which a thread
 * ends. It calls them all the time, checks what they give, and counts mistakes.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdio.h>
#include <time.h>

#define NOINLINE __attribute__((noinline, noclone))

struct request {
	int id;
	const char *name;
	struct {
		long len;
		unsigned char flags;
	} method;
	struct request *next;
};

struct triple {
	long a, b, c;
};

long rounds, mistakes;

long fib(long n);
long many(long a, long b, long c, long d, long e, long f, long g, long h);
double scale(double a, long b, double c, float d);
struct triple make_triple(long a);
long jumper(long n);
long deep(long n);
long tail(long n);
long serve(struct request *r);
void *last_words(void *arg);

/* Through these the compiler sees no recursion, which it would make into loops. */
static long (*volatile fib_again)(long) = fib;
static long (*volatile deep_again)(long) = deep;

NOINLINE long fib(long n)
{
	return n < 2 ? n : fib_again(n - 1) + fib_again(n - 2);
}

NOINLINE long many(long a, long b, long c, long d, long e, long f, long g, long h)
{
	return a + 2 * b + 3 * c + 4 * d + 5 * e + 6 * f + 7 * g + 8 * h;
}

NOINLINE double scale(double a, long b, double c, float d)
{
	return a * (double)b + c * (double)d;
}

NOINLINE struct triple make_triple(long a)
{
	return (struct triple){a, a + 1, a + 2};
}

static jmp_buf out;

NOINLINE long deep(long n)
{
	if (n == 0)
		longjmp(out, 7);
	return deep_again(n - 1) + 1;
}

NOINLINE long jumper(long n)
{
	int got = setjmp(out);

	return got ? got : deep(n);
}

NOINLINE long tail(long n)
{
	return n > 0 ? tail(n - 1) : fib(10);
}

NOINLINE long serve(struct request *r)
{
	return r->id + r->method.len;
}

/* A thread that ends within it never returns from it. */
NOINLINE void *last_words(void *arg)
{
	if (arg)
		pthread_exit(arg);
	return NULL;
}

static void *thread(void *arg)
{
	return last_words(arg);
}

static void expect(int right)
{
	mistakes += !right;
}

static void round_of_all(void)
{
	struct request second = {.id = 2, .name = "second", .method = {.len = 20, .flags = 3}};
	struct request first = {.id = 1, .name = "first", .method = {.len = 10}, .next = &second};
	struct triple t = make_triple(rounds);
	pthread_t other;
	void *result = NULL;

	expect(fib(10) == 55);
	expect(many(1, 2, 3, 4, 5, 6, 7, 8) == 204);
	expect(scale(1.5, 4, 2.0, 0.25f) == 6.5);
	expect(t.a == rounds && t.b == rounds + 1 && t.c == rounds + 2);
	expect(jumper(20) == 7);
	expect(tail(5) == 55);
	expect(serve(&first) == 11);
	expect(serve(&second) == 22);
	if (rounds % 16 == 0) {
		expect(pthread_create(&other, NULL, thread, &first) == 0);
		pthread_join(other, &result);
		expect(result == &first);
	}
	rounds++;
}

int main(void)
{
	struct timespec pause = {0, 1000000};

	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("traced: started\n");
	for (;;) {
		for (int i = 0; i < 20; i++)
			round_of_all();
		nanosleep(&pause, NULL);
	}
}
