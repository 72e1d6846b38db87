/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The context: the one thread of libuio that always lives (start.c). It waits
 * for its one event, then lets the host ports, the channel, 9P, the console
 * and the deadlines of commands look for work. Nothing it calls may block.
 */
#ifndef UIO_CORE_CONTEXT_H
#define UIO_CORE_CONTEXT_H

#include <uio/port.h>

/** Make the context look at everything again soon. Allowed in interrupt context. */
void uio_context_wake(void);
/** Whether the calling thread is the context, which must not block. */
bool uio_context_self(void);

/** The console's shell (shell.c): take input, echo, start commands. Returns when to come back. */
uint64_t uio_console_poll(uint64_t now_ns);
/** What the host says of the console's terminal; zeros: nothing is known of it. */
void uio_console_resize(uint16_t rows, uint16_t columns);

/** Timers of eBPF programs (bpf_session.c, where it is built in). Returns when to come back. */
uint64_t uio_bpf_tick(uint64_t now_ns) __attribute__((weak));

/**
 * Give back the part of libuio that was loaded when it was asked for
 * (module/, where there is one); false: it is in use, or not there.
 */
bool uio_module_drop(void) __attribute__((weak));
/** Bytes of memory it takes now. */
size_t uio_module_size(void) __attribute__((weak));

/** Print the log's ring, oldest first (log.c). */
void uio_log_read(void (*fn)(void *arg, const char *text, size_t len), void *arg);

#endif /* UIO_CORE_CONTEXT_H */
