/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Everything at once: the application's threads use the C library, its locks and floating point,
 * while threads of libuio interrupt them and send signals. Whatever preemption forgets to keep
 * shows up as a wrong result.
 */
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "selftest.h"

#define DURATION_NS 500000000ull

static volatile bool over;
static volatile unsigned int disturbed;
static volatile sig_atomic_t signals;
static volatile int running;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long in_lock;
static bool wrong;

static void handler(int sig)
{
	double x = sig;

	signals++;
	__asm__ volatile("" : "+x"(x));
}

static void disturb(void *arg)
{
	double x = 1;

	while (!over) {
		uio_port_sleep(200000 + 50000 * (uint64_t)(uintptr_t)arg);
		disturbed++;
		x = x * 1.5 + 1;
		__asm__ volatile("" : "+x"(x));
		if (disturbed % 7 == 0)
			uio_port_signal(SIGUSR1);
		if (x > 1e9)
			x = 1;
	}
	__atomic_fetch_sub(&running, 1, __ATOMIC_RELAXED);
}

static bool work(unsigned int seed)
{
	char text[64], *pieces[20];
	double sum = 0;

	for (int i = 0; i < 20; i++) {
		pieces[i] = malloc(16 + (seed + (unsigned int)i) % 3000);
		snprintf(pieces[i], 16, "%.3f", seed / 8.0 + i);
	}
	for (int i = 0; i < 20; i++) {
		sum += strtod(pieces[i], NULL);
		free(pieces[i]);
	}
	snprintf(text, sizeof(text), "%.3f", seed / 8.0 * 20 + 190);
	return sum - strtod(text, NULL) < 1e-6 && strtod(text, NULL) - sum < 1e-6;
}

static void *worker(void *arg)
{
	for (unsigned int seed = (unsigned int)(uintptr_t)arg * 1000; !over; seed += 8) {
		if (!work(seed))
			wrong = true;
		pthread_mutex_lock(&lock);
		if (in_lock++)
			wrong = true;
		for (volatile int i = 0; i < 300; i++)
			;
		in_lock--;
		pthread_mutex_unlock(&lock);
		sched_yield();
	}
	return NULL;
}

bool test_storm(void)
{
	struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
	pthread_t threads[2];
	uint64_t end;

	sigaction(SIGUSR1, &action, NULL);
	for (uintptr_t i = 0; i < 3; i++) {
		running++;
		CHECK(uio_port_thread_create(NULL, "disturb", disturb, (void *)i, 32768) == 0);
	}
	for (uintptr_t i = 0; i < 2; i++)
		CHECK(pthread_create(&threads[i], NULL, worker, (void *)i) == 0);
	end = uio_port_ns() + DURATION_NS;
	for (unsigned int seed = 0; uio_port_ns() < end; seed += 8) {
		CHECK(work(seed));
		sched_yield();
	}
	over = true;
	for (int i = 0; i < 2; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
	while (running)
		uio_port_sleep(1000000);
	CHECK(!wrong && in_lock == 0);
	CHECK(disturbed > 50 && signals > 5);
	return true;
}
