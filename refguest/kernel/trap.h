/* SPDX-License-Identifier: BSD-3-Clause */
/* Exceptions and interrupts, after entry.S has saved the interrupted code's state. */
#ifndef REFGUEST_TRAP_H
#define REFGUEST_TRAP_H

#include <stdbool.h>

#include "cpu.h"

/** Changes the frame and returns true, or leaves the exception to the kernel. */
typedef bool (*trap_hook)(struct frame *frame, uint64_t address);
void trap_set_hook(trap_hook hook);

/** A vector for a device's interrupts; 0 when all are taken. */
unsigned int interrupt_alloc(void (*handler)(void *), void *arg);
void interrupt_set(unsigned int vector, void (*handler)(void *), void *arg);

extern bool in_interrupt;
extern uint64_t interrupt_count; /* since boot */

/* Called by entry.S. */
void trap_dispatch(struct frame *frame);
struct frame *interrupt_dispatch(struct frame *frame);

#endif
