/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the files of the Unikraft port share among themselves. Nothing of it
 * is for the core, which knows uio/port.h alone.
 */
#ifndef UIO_PORT_UNIKRAFT_H
#define UIO_PORT_UNIKRAFT_H

#include <uk/config.h>
#include <uk/arch/lcpu.h>
#include <uio/port.h>

#define UIO_ARENA_SIZE ((size_t)CONFIG_LIBUIO_ARENA_MB << 20)

/* ---- memory.c ---- */

/** Find the arena; before anything else of memory.c. 0, or -ENOMEM. */
int uio_memory_init(void);
/** Whether an address lies in the arena. Safe in trap context. */
bool uio_memory_in_arena(uintptr_t va);
/** Zeroed memory with an unmapped page below; NULL: none. */
void *uio_memory_stack_alloc(size_t size);
void uio_memory_stack_free(void *base);

/* ---- thread.c ---- */

/** Yield for somebody else's thread that was interrupted in its own code. */
void uio_thread_preempted(void);

/* ---- wait.c, if there is poll() ---- */

/** A handler has run: the application's wait for events, or its next one, returns EINTR. */
void uio_wait_interrupt(void);

/* ---- preempt.c ---- */

/**
 * Called in interrupt context when a thread of libuio may have become
 * runnable: if the interrupted code is application or overlay code, it yields
 * as soon as the interrupt is done.
 */
void uio_preempt_soon(void);
/** Called when the number of libuio's threads changes: the tick goes on or off. */
void uio_preempt_threads(unsigned int n);

#endif /* UIO_PORT_UNIKRAFT_H */
