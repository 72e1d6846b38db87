/* SPDX-License-Identifier: BSD-3-Clause */
/* Time: monotonic nanoseconds, the wall clock, and one timer interrupt at a chosen moment. */
#ifndef REFGUEST_LAPIC_H
#define REFGUEST_LAPIC_H

#include <stdint.h>

#define NEVER UINT64_MAX

void clock_init(void);
uint64_t clock_ns(void);
/** Nanoseconds since 1970 at clock_ns() == 0. */
extern uint64_t clock_wall_base;

void lapic_init(void (*tick)(void *));
void lapic_eoi(void);
/** Interrupt in so many nanoseconds, or earlier (the counter is finite). */
void lapic_timer(uint64_t ns);
/** What a device writes where for a message-signalled interrupt. */
#define MSI_ADDRESS 0xfee00000u

#endif
