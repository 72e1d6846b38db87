/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Threads of libuio as thread.c and event.c see them.
 */
#ifndef UIO_PORT_UNIKRAFT_THREAD_H
#define UIO_PORT_UNIKRAFT_THREAD_H

#include <uk/thread.h>

#include "unikraft.h"

struct event;

/* A thread's place in an event's list of waiters. */
struct waiter {
	struct waiter *next;
	struct uk_thread *thread;
	struct event *event; /* NULL: in no list */
};

/* What a struct uio_event is. */
struct event {
	volatile bool signalled;
	struct waiter *first;
};
_Static_assert(sizeof(struct event) <= sizeof(struct uio_event), "fits");

/* Of libuio's threads, on the heap; of others, which may run overlays too, in their own data. */
struct uio_thread {
	struct uio_thread *next;
	struct uk_thread *uk;
	void (*fn)(void *arg);
	void *arg;
	size_t stack_size;
	volatile bool divertible; /* off the CPU in our own code, or preempted */
	bool pinned;
	struct waiter wait;
	void *libc_data; /* musl.c */
	char name[32];
	/* Of one that the C library has started: what it had in our place. */
	bool adopted;
	uk_thread_dtor_t dtor;
	void *priv;
};

/** The thread of libuio that t is, or NULL. */
struct uio_thread *uio_thread_of(const struct uk_thread *t);
/** Whether the running thread is not to be preempted. Safe in interrupt context. */
bool uio_thread_is_pinned(void);

#if CONFIG_LIBMUSL_THREAD

/* ---- musl.c: in a thread of libuio, at its beginning and end ---- */

void uio_libc_thread_begin(struct uio_thread *t);
void uio_libc_thread_end(struct uio_thread *t);

#else

static inline void uio_libc_thread_begin(struct uio_thread *t)
{
	(void)t;
}

static inline void uio_libc_thread_end(struct uio_thread *t)
{
	(void)t;
}

#endif

/** A thread's number: the older, the smaller. */
unsigned int uio_thread_number(const struct uk_thread *t);

/** How often a thread got the CPU; 0: not counted (counts.c). */
uint64_t uio_thread_switches(struct uk_thread *t);

/** Block the calling thread until it is woken or the deadline (0: none); yield afterwards. */
void uio_thread_block(struct uio_thread *self, uint64_t deadline);

/** Take a waiter out of its event's list; with interrupts off. */
void uio_event_forget(struct waiter *w);

#endif /* UIO_PORT_UNIKRAFT_THREAD_H */
