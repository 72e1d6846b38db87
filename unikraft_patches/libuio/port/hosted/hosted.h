/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The hosted port: libuio in a Linux process, for unit tests, sanitizers and
 * fuzzing. This header is what its own files share.
 */
#ifndef UIO_HOSTED_H
#define UIO_HOSTED_H

#include <pthread.h>

#include <uio/port.h>

/* Above all places where Linux may put the heap, which are 1 GiB from the program's end. */
#define HOSTED_ARENA_BASE 0x60000000ul
#define HOSTED_ARENA_SIZE 0x10000000ul

/** Make the calling thread known (`ps`, traps); ours threads run under the one lock. */
struct uio_thread *hosted_thread_adopt(const char *name, bool ours);
/** A thread of ours waits for something outside: the others may run in between. */
void hosted_leave(void);
void hosted_enter(void);
/** An alternate signal stack for the calling thread. */
void hosted_signal_stack(void);
/** Install handlers for CPU exceptions. */
void hosted_traps_init(void);
/** Where `guest:` files live. */
int hosted_files_init(const char *root);
/** Where the sockets are. */
void hosted_sockets(const char *directory);
/** The application's thread, which gets its signals. */
/** Before the first command may come: a signal must find its handler. */
void hosted_application_init(void);
void hosted_application(void);
extern pthread_t hosted_application_thread;

static inline bool hosted_in_arena(uintptr_t address)
{
	return address - HOSTED_ARENA_BASE < HOSTED_ARENA_SIZE;
}

#endif /* UIO_HOSTED_H */
