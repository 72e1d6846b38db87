/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What nolibc's headers lack of the C that the core is written in. Included
 * before every source file.
 */
#ifndef UIO_PORT_UNIKRAFT_NOLIBC_H
#define UIO_PORT_UNIKRAFT_NOLIBC_H

#include <uk/config.h>

#if CONFIG_LIBNOLIBC
#include <stddef.h>
#include <stdint.h>

/* nolibc's needs a header that it does not include. */
#undef offsetof
#define offsetof(type, member) __builtin_offsetof(type, member)

#ifndef UINTPTR_MAX
#define UINTPTR_MAX UINT64_MAX
#endif
#ifndef PTRDIFF_MAX
#define PTRDIFF_MAX INT64_MAX
#endif
#endif

#endif /* UIO_PORT_UNIKRAFT_NOLIBC_H */
