/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Reading memory of which nobody knows whether it is there. Works in any
 * thread and in traced functions; a fault costs nothing but an error.
 */
#ifndef UIO_CORE_PROBE_H
#define UIO_CORE_PROBE_H

#include <uio/port.h>

/** Copy len bytes from an address that may be anything. 0, or -EFAULT: part of dst may be written.
 */
int uio_probe_read(void *dst, uint64_t src, size_t len);

/** The trap hook asks first whether it was such a copy that faulted; it goes on after it then. */
bool uio_probe_trap(struct uio_trap *trap);

#endif /* UIO_CORE_PROBE_H */
