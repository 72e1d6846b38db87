/* SPDX-License-Identifier: BSD-3-Clause */
/* POSIX signals for the application. */
#ifndef REFGUEST_SIGNAL_H
#define REFGUEST_SIGNAL_H

#include <stdbool.h>
#include <stdint.h>

#include "sched.h"

/* A system call that a handler with SA_RESTART may interrupt; never seen by the application. */
#define RESTART_CALL 512

/** Does t have a signal to act on? */
bool signal_is_pending(const struct thread *t);
/** To the application as a whole. -EINVAL. */
int signal_process(int sig);
/** To one thread. -EINVAL. */
int signal_thread(struct thread *t, int sig);
/** Let the frame, on which the current thread leaves the kernel, run the handlers that are due. */
void signal_deliver(struct frame *frame);

#endif
