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

/* ---- heap.c ---- */

/** So many more (or fewer) pages are held by libuio. */
void uio_heap_count(ssize_t pages);

/* ---- memory.c ---- */

/** Find the arena; before anything else of memory.c. 0, or -ENOMEM. */
int uio_memory_init(void);
/** Whether an address lies in the arena. Safe in trap context. */
bool uio_memory_in_arena(uintptr_t va);
/** Whether these are whole pages of the arena. */
bool uio_memory_is_arena(uintptr_t va, size_t pages);
/** Protection keys have just been switched on: give the arena's pages theirs. */
void uio_memory_own_keys(void);
/** Zeroed memory with an unmapped page below; NULL: none. */
void *uio_memory_stack_alloc(size_t size);
void uio_memory_stack_free(void *base);

/* ---- thread.c ---- */

/** Called in the thread that boots, before any other thread of ours is made. */
void uio_thread_init(void);

/** Yield for somebody else's thread that was interrupted in its own code. */
void uio_thread_preempted(void);

/* ---- tlb.c ---- */

/** Find out whether there is anything to do; as soon as pages can be looked up. */
void uio_tlb_init(void);
/** Translations have been flushed. Safe in trap context. */
void uio_tlb_flushed(void);

/* ---- wait.c, if there is poll() ---- */

/** A handler has run: the application's wait for events, or its next one, returns EINTR. */
void uio_wait_interrupt(void);

/* ---- ninep_transport.c ---- */

/** Offer uIO-fs to mount(); after all other transports have registered. */
void uio_ninep_transport_init(void);

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
