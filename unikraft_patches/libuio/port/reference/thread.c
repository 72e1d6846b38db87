/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Threads and events. Threads are started with pthread_create(), so that they have all that the C
 * library gives a thread; the kernel's clone() is told beforehand that this one is libuio's. A
 * struct uio_thread is the kernel's struct thread.
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include <uio/port.h>

#include "lapic.h"
#include "memory.h"
#include "sched.h"
#include "trap.h"

/* On top of a stack the C library lays what it keeps of the thread. */
#define LIBRARY_ROOM 1024u

struct beginning {
	void (*fn)(void *arg);
	void *arg;
};

static struct uio_thread *to_port(struct thread *t)
{
	return (struct uio_thread *)t;
}

static struct thread *from_port(struct uio_thread *t)
{
	return (struct thread *)t;
}

static void *begin(void *arg)
{
	struct beginning beginning = *(struct beginning *)arg;

	heap_free(arg);
	current->started = true;
	beginning.fn(beginning.arg);
	return NULL;
}

int uio_port_thread_create(struct uio_thread **out, const char *name, void (*fn)(void *arg),
			   void *arg, size_t stack)
{
	struct beginning *beginning = heap_alloc(sizeof(*beginning));
	struct thread_spawn spawn = {.name = name, .stack_size = stack};
	pthread_attr_t attr;
	pthread_t thread;
	int error;

	if (!beginning)
		return -ENOMEM;
	*beginning = (struct beginning){fn, arg};
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setguardsize(&attr, PAGE_SIZE);
	error = pthread_attr_setstacksize(&attr,
					  (stack < PAGE_SIZE ? PAGE_SIZE : stack) - LIBRARY_ROOM);
	if (!error) {
		current->spawn = &spawn;
		error = pthread_create(&thread, &attr, begin, beginning);
		current->spawn = NULL;
	}
	pthread_attr_destroy(&attr);
	if (error) {
		heap_free(beginning);
		return -error;
	}
	if (out)
		*out = to_port(spawn.thread);
	return 0;
}

struct uio_thread *uio_port_thread_self(void)
{
	return to_port(current);
}

bool uio_port_preempts(void)
{
	return true;
}

int uio_port_thread_divert(struct uio_thread *t, void (*fn)(void *arg), void *arg)
{
	return thread_divert(from_port(t), fn, arg);
}

void uio_port_thread_adopt(const char *name)
{
	strncpy(current->name, name, sizeof(current->name) - 1);
	current->ours = true;
	current->started = true;
}

bool uio_port_pin(bool pinned)
{
	bool before = current->pinned;

	current->pinned = pinned;
	return before;
}

void uio_port_yield(void)
{
	current->calls_c = true;
	sched_yield_now();
}

void uio_port_sleep(uint64_t ns)
{
	uint64_t flags = irq_save();
	uint64_t now = clock_ns();

	current->calls_c = true;
	thread_wait(NULL, ns < NEVER - now ? now + ns : NEVER, false);
	irq_restore(flags);
}

/* A thread that lies in the kernel has left its own code in the frame that every way in lays down
 * on top of its kernel stack; one of libuio may have called schedule() like any function. */
static void left_at(const struct thread *t, struct uio_thread_info *info)
{
	const struct frame *frame = (const struct frame *)t->kernel_stack_top - 1;
	const uint64_t *saved = (const uint64_t *)t->sp; /* switch_stack() */

	if (t->state != THREAD_BLOCKED && t->state != THREAD_RUNNABLE)
		return;
	if (t->sp < t->kernel_stack_top && t->kernel_stack_top - t->sp < KERNEL_STACK_SIZE) {
		info->ip = frame->rip;
		info->sp = frame->rsp;
		info->fp = frame->rbp;
	} else {
		info->ip = saved[6];
		info->sp = (uint64_t)(saved + 7);
		info->fp = saved[5];
	}
}

int uio_port_thread_foreach(int (*fn)(const struct uio_thread_info *, void *), void *arg)
{
	static const char letters[] = {
		[THREAD_NEW] = 'S',     [THREAD_RUNNING] = 'R', [THREAD_RUNNABLE] = 'r',
		[THREAD_BLOCKED] = 'S', [THREAD_DEAD] = 'Z',
	};
	int status = 0;

	for (struct thread *t = all_threads; t && !status; t = t->next) {
		struct uio_thread_info info = {
			.name = t->name,
			.id = t->id,
			.state = letters[t->state],
			.ours = t->ours,
			.cpu_ns = thread_cpu_ns(t),
			.stack_size = t->stack_size,
			.switches = t->switches,
		};

		left_at(t, &info);
		status = fn(&info, arg);
	}
	return status;
}

void uio_port_counts(struct uio_counts *out)
{
	out->switches = sched_switches;
	out->interrupts = interrupt_count;
	out->idle_ns = sched_idle_ns();
}

/* ---- events ---- */

struct event {
	struct wait_queue waiters;
	bool signalled;
};
_Static_assert(sizeof(struct event) <= sizeof(struct uio_event), "opaque");

static struct event *from_event(struct uio_event *ev)
{
	return (struct event *)ev->opaque;
}

void uio_port_event_init(struct uio_event *ev)
{
	memset(ev, 0, sizeof(*ev));
}

void uio_port_event_signal(struct uio_event *ev)
{
	struct event *event = from_event(ev);
	uint64_t flags = irq_save();

	if (event->waiters.head)
		thread_wake(event->waiters.head, 0);
	else
		event->signalled = true;
	irq_restore(flags);
}

int uio_port_event_wait(struct uio_event *ev, uint64_t ns)
{
	struct event *event = from_event(ev);
	uint64_t flags = irq_save();
	int status = -ETIMEDOUT;

	if (event->signalled) {
		event->signalled = false;
		status = 0;
	} else if (ns) {
		uint64_t now = ns == UINT64_MAX ? 0 : clock_ns();

		current->calls_c = true;
		status = thread_wait(&event->waiters, ns < NEVER - now ? now + ns : NEVER, false);
	}
	irq_restore(flags);
	return status;
}
