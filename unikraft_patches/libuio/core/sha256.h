/* SPDX-License-Identifier: BSD-3-Clause */
/* SHA-256 (FIPS 180-4): overlays are known by the digest of their file. */
#ifndef UIO_CORE_SHA256_H
#define UIO_CORE_SHA256_H

#include <stddef.h>
#include <stdint.h>

#define UIO_SHA256_SIZE 32

void uio_sha256(const void *data, size_t size, uint8_t digest[UIO_SHA256_SIZE]);

#endif /* UIO_CORE_SHA256_H */
