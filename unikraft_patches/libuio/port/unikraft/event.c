/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Events: a flag and a list of threads that wait for it. Signalling happens
 * in interrupt context, so this file is built without vector registers and
 * touches the list with interrupts off.
 */
#include <errno.h>
#include <string.h>
#include <uk/isr/thread.h>
#include <uk/plat/time.h>
#include <uk/sched.h>

#include "thread.h"

static struct event *event_of(struct uio_event *ev)
{
	return (struct event *)ev->opaque;
}

void uio_port_event_init(struct uio_event *ev)
{
	struct event *e = event_of(ev);

	e->signalled = false;
	e->first = NULL;
}

void uio_port_event_signal(struct uio_event *ev)
{
	struct event *e = event_of(ev);
	unsigned long flags = ukplat_lcpu_save_irqf();

	e->signalled = true;
	if (e->first)
		uk_thread_wake_isr(e->first->thread);
	ukplat_lcpu_restore_irqf(flags);
}

static void enqueue(struct event *e, struct waiter *w)
{
	struct waiter **link = &e->first;

	if (w->event)
		return;
	while (*link)
		link = &(*link)->next;
	w->next = NULL;
	w->event = e;
	*link = w;
}

static void dequeue(struct waiter *w)
{
	struct waiter **link;

	if (!w->event)
		return;
	link = &w->event->first;
	while (*link != w)
		link = &(*link)->next;
	*link = w->next;
	w->event = NULL;
}

void uio_event_forget(struct waiter *w)
{
	struct event *e = w->event;

	dequeue(w);
	/* It may have been woken for a signal that now is somebody else's. */
	if (e && e->signalled && e->first)
		uk_thread_wake_isr(e->first->thread);
}

/** The wait itself; with interrupts off, except while it blocks. */
static int wait(struct event *e, struct waiter *w, struct uio_thread *self, uint64_t deadline)
{
	while (!e->signalled) {
		if (deadline && uio_port_ns() >= deadline)
			return -ETIMEDOUT;
		enqueue(e, w);
		uio_thread_block(self, deadline);
		ukplat_lcpu_enable_irq();
		uk_sched_yield();
		ukplat_lcpu_disable_irq();
		if (self)
			self->divertible = false;
	}
	e->signalled = false;
	return 0;
}

int uio_port_event_wait(struct uio_event *ev, uint64_t ns)
{
	struct uio_thread *self = uio_port_thread_self();
	struct waiter other = {0}; /* for threads that are not ours */
	struct waiter *w = self ? &self->wait : &other;
	uint64_t deadline = 0;
	unsigned long flags;
	int rc;

	if (ns != UINT64_MAX) {
		uint64_t now = uio_port_ns();

		deadline = ns < INT64_MAX - now ? now + ns : INT64_MAX;
	}
	w->thread = uk_thread_current();
	flags = ukplat_lcpu_save_irqf();
	rc = wait(event_of(ev), w, self, deadline);
	dequeue(w);
	ukplat_lcpu_restore_irqf(flags);
	return rc;
}
