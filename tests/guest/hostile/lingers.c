/* SPDX-License-Identifier: BSD-3-Clause */
/* Leaves something of itself behind: a callback in the application, a thread. */
// uio: name = "lingers"
// uio: version = "1"
#include <pthread.h>
#include <stdio.h>
#include <string.h>

extern void keep(void (*fn)(int beat));
extern void nap(long ms);
extern long secret;

static volatile long sink;
static volatile int calls;

static void counts(int beat)
{
	(void)beat;
	calls++;
}

static void harms(int beat)
{
	secret = beat;
}

static void *works(void *arg)
{
	for (;;)
		sink++;
	return arg;
}

static void *thread_harms(void *arg)
{
	secret = 1;
	return arg;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	pthread_t t;

	if (!strcmp(what, "counts")) {
		keep(counts);
		while (calls < 3)
			nap(50);
	} else if (!strcmp(what, "harms")) {
		keep(harms);
		nap(5000);
	} else if (!strcmp(what, "forget")) {
		keep(NULL);
	} else if (!strcmp(what, "thread")) {
		pthread_create(&t, NULL, works, NULL);
		nap(50);
	} else if (!strcmp(what, "thread-and-loop")) {
		pthread_create(&t, NULL, works, NULL);
		puts("both");
		fflush(stdout);
		works(NULL);
	} else if (!strcmp(what, "thread-harms")) {
		pthread_create(&t, NULL, thread_harms, NULL);
		nap(5000);
	}
	return 5;
}
