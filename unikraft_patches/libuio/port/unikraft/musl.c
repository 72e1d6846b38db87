/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What musl keeps of a thread, for threads of libuio, which it has not started
 * itself. Unikraft's glue puts them into musl's list and never takes them out,
 * and frees their thread-specific data; but the first thread to call
 * pthread_create(), which may be an overlay's, is given static ones by musl,
 * which takes it for the application's first.
 */
#include "thread.h"

#define hidden /* what musl's own sources define */
#include "pthread_impl.h"

void uio_libc_thread_begin(struct uio_thread *t)
{
	t->libc_data = __pthread_self()->tsd;
}

void uio_libc_thread_end(struct uio_thread *t)
{
	struct pthread *self = __pthread_self();

	self->tsd = t->libc_data;
	if (self->next)
		self->next->prev = self->prev;
	if (self->prev)
		self->prev->next = self->next;
	self->next = self->prev = self;
}
