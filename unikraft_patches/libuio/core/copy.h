/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * memcpy() for bulk data. The C libraries here copy with `rep movs`, of which
 * an emulated CPU makes one trip through its code per word: five times slower
 * than the loop of copy.c. On a real CPU both wait for memory.
 */
#ifndef UIO_CORE_COPY_H
#define UIO_CORE_COPY_H

#include <stddef.h>

void uio_copy(void *to, const void *from, size_t len);

#endif /* UIO_CORE_COPY_H */
