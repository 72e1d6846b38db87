/* SPDX-License-Identifier: BSD-3-Clause */
/* Calls of every shape over the border, both ways; prints what came of them. */
// uio: name = "shapes"
// uio: version = "1"
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <uio/uio.h>

struct big {
	long a[5];
};
struct pair {
	long a, b;
};

extern long sum10(long a, long b, long c, long d, long e, long f, long g, long h, long i, long j);
extern double mix(double a, long b, double c, const struct big *d, struct big e);
extern struct big make_big(long a);
extern struct pair make_pair(long a);
extern int call(int (*fn)(int), int value);
extern double call_mixed(double (*fn)(double, long, long, long, long, long, long, long, long));
extern void sort(int *at, size_t n, int (*compare)(const void *, const void *));
extern void nap(long ms);

static jmp_buf back;
static volatile int hits;

static int compare(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

static int nested(int depth)
{
	return depth ? call(nested, depth - 1) + 1 : (int)sum10(0, 0, 0, 0, 0, 0, 0, 0, 0, 1);
}

static double mixed(double a, long b, long c, long d, long e, long f, long g, long h, long i)
{
	return a + (double)(b + c + d + e + f + g + h + 100 * i);
}

static int leave(int value)
{
	longjmp(back, value);
}

static void *thread(void *arg)
{
	char *text = malloc(20);

	snprintf(text, 20, "thread %s", (char *)arg);
	printf("in a %s\n", text);
	return text;
}

static void *exits(void *arg)
{
	pthread_exit((char *)arg + 1);
}

static void on_signal(int sig)
{
	hits += sig;
}

static int count_entry(const struct uio_entry *e, void *arg)
{
	*(int *)arg += e->name[0] == 's';
	return 0;
}

int main(void)
{
	struct big big = make_big(10);
	struct pair pair = make_pair(7);
	int numbers[] = {5, 2, 9, 1}, found = 0;
	pthread_t t;
	void *result;

	printf("sum10 %ld\n", sum10(1, 2, 3, 4, 5, 6, 7, 8, 9, 10));
	printf("struct %ld %ld, %ld %ld\n", big.a[0], big.a[4], pair.a, pair.b);
	printf("mix %.2f\n", mix(0.25, 3, 0.5, &big, big));
	sort(numbers, 4, compare);
	printf("sort %d %d %d %d\n", numbers[0], numbers[1], numbers[2], numbers[3]);
	printf("nested %d\n", call(nested, 9));
	printf("mixed %.1f\n", call_mixed(mixed));
	for (int i = 0; i < 1000; i++) {
		if (!setjmp(back))
			call(leave, 1);
	}
	printf("longjmp %ld\n", sum10(1, 0, 0, 0, 0, 0, 0, 0, 0, 0));
	errno = 0;
	strtol("99999999999999999999", NULL, 10);
	printf("errno %d\n", errno == ERANGE);
	nap(20);
	if (!pthread_create(&t, NULL, thread, "one") && !pthread_join(t, &result))
		printf("joined %s\n", (char *)result);
	if (!pthread_create(&t, NULL, exits, "?two") && !pthread_join(t, &result))
		printf("joined %s\n", (char *)result);
	signal(SIGUSR1, on_signal);
	raise(SIGUSR1);
	for (int i = 0; i < 100 && hits < SIGUSR1; i++)
		nap(10);
	signal(SIGUSR1, SIG_IGN);
	printf("signal %d\n", hits == SIGUSR1);
	printf("readdir %d\n", uio_readdir("/bin", count_entry, &found) == 0 && found > 0);
	return 11;
}
