/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The kernel's own messages. Its printf is separate from the C library's, which may use vector
 * registers and locks.
 */
#ifndef REFGUEST_PRINT_H
#define REFGUEST_PRINT_H

#include <stdarg.h>
#include <stddef.h>

void serial_init(void);
void serial_write(const char *text, size_t len);

/** %s %c %d %u %x %p %%, with l, width and leading 0. */
void kprintf(const char *format, ...) __attribute__((format(printf, 1, 2)));
void kvprintf(const char *format, va_list ap) __attribute__((format(printf, 1, 0)));

/** Say why, and end the virtual machine. */
_Noreturn void panic(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
