/* SPDX-License-Identifier: BSD-3-Clause */
/* Threads and events through the port, and musl's threads. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include "selftest.h"

#define STACK 32768

struct run {
	void (*fn)(void *);
	void *arg;
	struct uio_event done;
};

static void run_begin(void *arg)
{
	struct run *run = arg;

	run->fn(run->arg);
	uio_port_event_signal(&run->done);
}

bool run_ours(void (*fn)(void *), void *arg)
{
	struct run run = {fn, arg, {{0}}};

	uio_port_event_init(&run.done);
	return uio_port_thread_create(NULL, "selftest", run_begin, &run, STACK) == 0 &&
	       uio_port_event_wait(&run.done, UINT64_MAX) == 0;
}

/* ---- events ---- */

static struct uio_event ping, pong;
static int rounds;
static bool libc_works;

static void ponger(void *arg)
{
	char text[64];

	(void)arg;
	/* Any libc function may be called: thread-local data is there. */
	errno = 0;
	snprintf(text, sizeof(text), "%g", 0.5);
	libc_works = !errno && !strcmp(text, "0.5");
	for (int i = 0; i < 1000; i++) {
		uio_port_event_wait(&ping, UINT64_MAX);
		rounds++;
		uio_port_event_signal(&pong);
	}
}

bool test_events(void)
{
	struct uio_event ev;
	uint64_t start;

	uio_port_event_init(&ev);
	CHECK(uio_port_event_wait(&ev, 0) == -ETIMEDOUT);
	start = uio_port_ns();
	CHECK(uio_port_event_wait(&ev, 20000000) == -ETIMEDOUT);
	CHECK(uio_port_ns() - start >= 20000000);
	uio_port_event_signal(&ev);
	uio_port_event_signal(&ev);
	CHECK(uio_port_event_wait(&ev, 0) == 0);
	CHECK(uio_port_event_wait(&ev, 0) == -ETIMEDOUT);

	uio_port_event_init(&ping);
	uio_port_event_init(&pong);
	CHECK(uio_port_thread_create(NULL, "ponger", ponger, NULL, STACK) == 0);
	for (int i = 0; i < 1000; i++) {
		uio_port_event_signal(&ping);
		CHECK(uio_port_event_wait(&pong, UINT64_MAX) == 0);
		CHECK(rounds == i + 1);
	}
	CHECK(libc_works);
	return true;
}

/* ---- list ---- */

static int find_self(const struct uio_thread_info *info, void *arg)
{
	int *found = arg;

	if (!strcmp(info->name, "selftest") && info->ours && info->state == 'R')
		*found |= 1;
	if (!strcmp(info->name, "main") && !info->ours && info->state != 'R' && info->cpu_ns > 0)
		*found |= 2;
	return 0;
}

static void list(void *arg)
{
	uio_port_thread_foreach(find_self, arg);
}

static void nothing(void *arg)
{
	++*(int *)arg;
}

bool test_thread_list(void)
{
	int found = 0, count = 0;
	size_t total, before, after;

	CHECK(run_ours(list, &found));
	CHECK(found == 3);
	for (int i = 0; i < 10; i++)
		CHECK(run_ours(nothing, &count));
	uio_port_sleep(1000000);
	uio_port_meminfo(&total, &before);
	for (int i = 0; i < 500; i++)
		CHECK(run_ours(nothing, &count));
	uio_port_sleep(1000000);
	uio_port_meminfo(&total, &after);
	CHECK(count == 510);
	CHECK(before == after);
	return true;
}

/* ---- musl's threads ---- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turn = PTHREAD_COND_INITIALIZER;
static int turns, ready;
static _Thread_local int mine;

static void *worker(void *arg)
{
	mine = (int)(intptr_t)arg;
	pthread_mutex_lock(&lock);
	ready++;
	while (turns != mine)
		pthread_cond_wait(&turn, &lock);
	turns++;
	pthread_cond_broadcast(&turn);
	pthread_mutex_unlock(&lock);
	return (void *)(intptr_t)(mine * 2);
}

bool test_pthreads(void)
{
	pthread_t threads[8];
	struct timespec when;
	void *result;

	for (intptr_t i = 0; i < 8; i++)
		CHECK(pthread_create(&threads[i], NULL, worker, (void *)i) == 0);
	for (intptr_t i = 7; i >= 0; i--) {
		CHECK(pthread_join(threads[i], &result) == 0);
		CHECK((intptr_t)result == i * 2);
	}
	CHECK(turns == 8 && ready == 8 && mine == 0);

	pthread_mutex_lock(&lock);
	clock_gettime(CLOCK_REALTIME, &when);
	when.tv_nsec += 10000000;
	if (when.tv_nsec >= 1000000000) {
		when.tv_nsec -= 1000000000;
		when.tv_sec++;
	}
	CHECK(pthread_cond_timedwait(&turn, &lock, &when) == ETIMEDOUT);
	pthread_mutex_unlock(&lock);
	return true;
}

/* ---- divert ---- */

static jmp_buf out;
static struct uio_event blocked, unwound;
static int passed;
static volatile bool begun;

static void unwind(void *arg)
{
	longjmp(out, (int)(intptr_t)arg);
}

static void waiter(void *arg)
{
	(void)arg;
	passed = setjmp(out);
	if (!passed) {
		begun = true;
		uio_port_event_wait(&blocked, UINT64_MAX);
		passed = -1;
	}
	/* It is whole: it can wait again. */
	uio_port_sleep(1000000);
	uio_port_event_signal(&unwound);
}

bool test_divert_waiting(void)
{
	struct uio_thread *thread;

	uio_port_event_init(&blocked);
	uio_port_event_init(&unwound);
	CHECK(uio_port_thread_divert(uio_port_thread_self(), unwind, NULL) == -EAGAIN);
	CHECK(uio_port_thread_create(&thread, "waiter", waiter, NULL, STACK) == 0);
	while (!begun)
		uio_port_sleep(1000000);
	CHECK(uio_port_thread_divert(thread, unwind, (void *)7) == 0);
	CHECK(uio_port_event_wait(&unwound, UINT64_MAX) == 0);
	CHECK(passed == 7);
	/* It no longer waits: the signal stays. */
	uio_port_event_signal(&blocked);
	CHECK(uio_port_event_wait(&blocked, 0) == 0);
	return true;
}
